import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from recjax.config import Experiment
from recjax.data.labelled import LabelledData
from recjax.errors import UserError
from recjax.evaluation import make_evaluator
from recjax.transforms import bf16, chain, compress_embeddings, distill, prune, quantize, shrink
from recjax.tuning import variants as module
from recjax.tuning.goal import Goal
from recjax.tuning.space import Candidate
from recjax.tuning.stages import Bench, Pruned, examine, seeds_from
from recjax.tuning.variants import FINISHING_S, Variants


@pytest.fixture(scope="module")
def variants(dlrm_experiment: Experiment, labelled: LabelledData, tmp_path_factory: pytest.TempPathFactory) -> Variants:
    once = dataclasses.replace(dlrm_experiment.training, epochs=1)
    experiment = dataclasses.replace(dlrm_experiment, training=once, finetuning=once)
    made = Variants(experiment, labelled, tmp_path_factory.mktemp("study"))
    made.base()
    return made


def test_a_variant_is_made_once_and_then_read(variants: Variants, monkeypatch: pytest.MonkeyPatch) -> None:
    transform = chain(compress_embeddings("int8"), quantize(when="after"))
    assert variants.expected_s(transform) > 0
    made = variants.make(transform)
    assert variants.is_made(transform)
    assert variants.expected_s(transform) == 0.0

    def fail(*arguments: object, **options: object) -> None:
        raise AssertionError("it was trained before")

    monkeypatch.setattr(module, "train", fail)
    monkeypatch.setattr(module, "finalize", fail)
    again = Variants(variants.experiment, variants.data, made.folder.parent.parent)
    assert again.make(transform) == made
    # What differs only after training shares the training.
    monkeypatch.undo()
    monkeypatch.setattr(module, "train", fail)
    assert again.make(chain(bf16())).folder.is_dir()


def test_its_quality_is_that_of_the_stored_model_on_validation(variants: Variants) -> None:
    transform = chain(quantize(when="after"))
    made, model = variants.make(transform), variants.load(transform)
    quality = make_evaluator(model.score, variants.data, "valid")(model.variables)
    assert made.validation == quality.metrics[variants.metric]
    assert made.parameter_bytes == model.parameter_bytes()
    fp32 = variants.make(chain())
    assert variants.share_of_fp32(fp32) == 1.0
    assert variants.share_of_fp32(made) == pytest.approx(made.validation / fp32.validation)


def test_a_student_and_a_smaller_model(variants: Variants) -> None:
    student = variants.make(chain(distill(top_mlp=(8,)), quantize(when="after")))
    model = variants.load(chain(distill(top_mlp=(8,)), quantize(when="after")))
    assert model.config.top_mlp == (8,)
    smaller = chain(prune(0.5), shrink(finetune_epochs=1))
    variants.make(smaller)
    assert variants.load(smaller).config.top_mlp == (8, 8)
    assert student.parameter_bytes < variants.make(chain()).parameter_bytes


def test_what_a_training_will_take_is_told_by_what_was_timed(variants: Variants) -> None:
    variants.make(chain())
    finishing_s = max(
        json.loads(file.read_text()).get("finishing_s", 0.0)
        for file in (variants.folder_of(chain()).parent.parent / "variants").glob("*.json")
    )
    after = variants.expected_s(chain(quantize(when="after", activations="static")))
    assert after == pytest.approx(finishing_s)
    assert variants.expected_s(chain(distill(top_mlp=(4,)))) > after
    assert variants.expected_s(chain(shrink(0.5, finetune_epochs=3))) > after
    assert FINISHING_S > 0


def test_what_a_model_cannot_have_is_remembered(variants: Variants) -> None:
    transform = chain(shrink(0.5, heads=0.5))
    with pytest.raises(UserError, match="no heads to remove"):
        variants.make(transform)
    assert variants.is_made(transform)
    with pytest.raises(UserError, match="no heads to remove"):
        Variants(variants.experiment, variants.data, variants.folder_of(transform).parent.parent).make(transform)


def test_layers_that_devices_cannot_share_make_a_candidate_inapplicable(variants: Variants) -> None:
    bench = Bench(variants, Goal(p99_ms=20.0), None, seeds_from(0))
    candidate = Candidate(transform=chain(), buckets=(1, 8), devices=7, model_devices=7)
    with pytest.raises(Pruned, match="model=7 does not divide") as pruned:
        examine(candidate, bench, [], 1.0, {})
    assert pruned.value.stage == "inapplicable"


def test_trained_parameters_are_read_back_as_they_were(variants: Variants, tmp_path: Path) -> None:
    fresh = Variants(variants.experiment, variants.data, variants.folder_of(chain()).parent.parent)
    first, second = variants.base(), fresh.base()
    np.testing.assert_array_equal(first["logit"]["kernel"], second["logit"]["kernel"])
