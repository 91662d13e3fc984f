import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.config import Experiment
from recjax.data.labelled import LabelledData
from recjax.data.next_item import NextItemData
from recjax.errors import CheckpointError
from recjax.evaluation import Quality
from recjax.training.checkpoint import load_metadata
from recjax.training.final_model import FinalModel, load_final_model
from recjax.training.fit import EpochRecord, FitResult
from recjax.training.pipeline import finalize, load_data, train
from recjax.transforms.paths import flatten
from recjax.transforms.prune import prune
from recjax.transforms.quantize import quantize
from recjax.transforms.shrink import shrink

QUALITY = Quality("toy/test", {"ndcg@10": 0.5}, 30, {"ndcg@10": np.full(30, 0.5)})


@pytest.fixture(scope="module")
def full_experiment(sasrec_experiment: Experiment) -> Experiment:
    transforms = (prune(0.5, update_every=2), shrink(finetune_epochs=1, multiple_of=2), quantize())
    return dataclasses.replace(sasrec_experiment, name="tiny_full", transforms=transforms)


@pytest.fixture(scope="module")
def tuned(full_experiment: Experiment, next_item: NextItemData, trained_sasrec: FitResult) -> FitResult:
    return train(full_experiment, next_item, start=trained_sasrec.params)


@pytest.fixture(scope="module")
def retrained() -> list[EpochRecord]:
    return []


@pytest.fixture(scope="module")
def final(
    full_experiment: Experiment, next_item: NextItemData, tuned: FitResult, retrained: list[EpochRecord]
) -> FinalModel:
    return finalize(full_experiment, next_item, tuned.params, on_epoch=lambda record, epochs: retrained.append(record))


def test_load_data_follows_the_models_task(sasrec_experiment: Experiment, dlrm_experiment: Experiment):
    assert isinstance(load_data(sasrec_experiment), NextItemData)
    assert isinstance(load_data(dlrm_experiment), LabelledData)


def test_full_chain_chooses_an_epoch_whose_masks_are_settled(
    full_experiment: Experiment, next_item: NextItemData, tuned: FitResult
):
    total_steps = 4 * -(-next_item.n_train // 16)
    settled = full_experiment.transforms[0].settled_step(total_steps)
    assert not tuned.history[0].is_best  # the start has no zeros yet
    assert tuned.best.step >= settled
    kernel = np.asarray(tuned.params["block_0"]["mlp"]["dense_0"]["kernel"])
    assert (kernel == 0).all(0).sum() == 16 / 2


def test_full_chain_shrinks_then_freezes(
    full_experiment: Experiment, next_item: NextItemData, final: FinalModel, retrained: list[EpochRecord]
):
    assert final.config == dataclasses.replace(full_experiment.model, mlp_dims=(8,))
    assert final.report.details["shrink(multiples of 2)"] == {"widths": {"mlp_dims[0]": [16, 8]}}
    assert final.report.details["prune(0.5, every 2)"]["zero_share"] == {"mlp_dims[0]": 0.5}
    flat = flatten(final.variables["params"])
    assert flat["block_0/mlp/dense_0/kernel/values"].shape == (8, 8)
    assert flat["block_0/mlp/dense_1/kernel/values"].dtype == jnp.int8
    assert [record.epoch for record in retrained] == [0, 1]  # the shrunk model is its own first candidate


def test_saved_and_loaded_model_answers_bit_for_bit(
    full_experiment: Experiment, next_item: NextItemData, final: FinalModel, tmp_path: Path
):
    final.save(tmp_path / "model", full_experiment, QUALITY)
    quality = load_metadata(tmp_path / "model", ["quality"])["quality"]
    assert quality == {"protocol": "toy/test", "metrics": {"ndcg@10": 0.5}, "n": 30}
    loaded = load_final_model(tmp_path / "model", full_experiment, next_item)
    assert loaded.config == final.config
    assert loaded.transform == final.transform
    assert loaded.report == final.report
    assert loaded.schema == final.schema
    batch = next(next_item.eval_batches("test", 16))
    scores = jax.jit(final.score)(final.variables, batch)
    np.testing.assert_array_equal(jax.jit(loaded.score)(loaded.variables, batch), scores)
    assert np.isfinite(scores).all()
    answers = [jax.jit(lambda v, b, m=m: m.serve(v, b, top_k=4))(m.variables, batch) for m in (final, loaded)]
    np.testing.assert_array_equal(answers[0]["items"], answers[1]["items"])
    assert loaded.parameter_bytes() == final.parameter_bytes()
    other = dataclasses.replace(full_experiment, transforms=(quantize(),), name="other")
    with pytest.raises(CheckpointError, match=r"holds another experiment: name, transforms differ; train this one"):
        load_final_model(tmp_path / "model", other, next_item)


def test_float_model_round_trips_too(
    sasrec_experiment: Experiment, next_item: NextItemData, trained_sasrec: FitResult, tmp_path: Path
):
    model = finalize(sasrec_experiment, next_item, trained_sasrec.params)
    assert model.transform.label == "fp32"
    jax.tree.map(np.testing.assert_array_equal, model.variables, {"params": trained_sasrec.params})
    model.save(tmp_path / "model", sasrec_experiment, QUALITY)
    loaded = load_final_model(tmp_path / "model", sasrec_experiment, next_item)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, model.variables)


def test_missing_final_model_says_to_train_it(sasrec_experiment: Experiment, next_item: NextItemData, tmp_path: Path):
    with pytest.raises(CheckpointError, match="train it first"):
        load_final_model(tmp_path / "nothing", sasrec_experiment, next_item)
