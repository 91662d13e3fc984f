import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_variables import random_variables
from shrink_checks import assert_fresh_shapes, context_of, experiment_of, logits

from recjax.config import Experiment, ModelConfig
from recjax.data.labelled import LabelledData
from recjax.data.next_item import NextItemData
from recjax.evaluation import Quality
from recjax.models.bert4rec import BERT4RecConfig
from recjax.models.hstu import HSTUConfig
from recjax.models.sasrec import SASRecConfig
from recjax.training.final_model import load_final_model
from recjax.training.fit import FitResult
from recjax.training.pipeline import finalize, load_data
from recjax.transforms.low_rank import low_rank
from recjax.transforms.paths import flatten, set_path, unflatten_like
from recjax.transforms.protocol import Validation
from recjax.transforms.quantize import quantize
from recjax.transforms.shrink import shrink


def without_heads(model_config: Any, params: Any, gone: int) -> Any:
    """Returns the parameters with everything that head `gone` of every attention layer owns zeroed."""
    flat = {path: np.array(leaf) for path, leaf in flatten(params).items()}
    for layer in model_config.attention_heads():
        for path, axis, start, width in layer.slices:
            first = start + gone * width
            flat[path][(slice(None),) * axis + (slice(first, first + width),)] = 0
    return unflatten_like(params, {path: jnp.asarray(leaf) for path, leaf in flat.items()})


ATTENTIVE: dict[str, ModelConfig] = {
    "sasrec": SASRecConfig(embedding_dim=8, heads=4, mlp_dims=(8, 6)),
    "bert4rec": BERT4RecConfig(embedding_dim=8, heads=4, mlp_dims=(8, 6)),
    "hstu": HSTUConfig(embedding_dim=8, heads=4, key_dim=2, value_dim=3),
}


@pytest.fixture(scope="module", params=ATTENTIVE)
def attentive(
    request: pytest.FixtureRequest, ratings_file: Path, sasrec_experiment: Experiment
) -> tuple[Experiment, NextItemData, Any]:
    """Returns a model of two blocks with four heads each, its data and random parameters."""
    experiment = experiment_of(ATTENTIVE[request.param], ratings_file, sasrec_experiment)
    data = load_data(experiment)
    batch = next(data.train_batches(4, 0, 1))
    return experiment, data, random_variables(experiment.model.build(data.schema), batch)["params"]


def test_heads_that_are_zero_are_removed_and_nothing_changes(attentive: tuple[Experiment, NextItemData, Any]):
    experiment, data, params = attentive
    masked = without_heads(experiment.model, params, gone=1)
    transform = shrink(heads=0.25, finetune_epochs=0)
    models = [finalize(dataclasses.replace(experiment, transforms=t), data, masked) for t in ((), (transform,))]
    assert models[1].config.heads == 3
    assert models[1].report.details[transform.label]["heads"] == [4, 3]
    assert_fresh_shapes(models[1].config, data, models[1].variables["params"])
    batch = next(data.eval_batches("valid", 16))
    expected, scores = (np.asarray(jax.jit(m.score)(m.variables, batch)) for m in models)
    np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    owned = 3 * (8 * 2 + 2) + 2 * 8 if hasattr(models[1].config, "head_dim") else 8 * (2 * 2 + 2 * 3) + 3 * 8
    assert models[0].parameter_bytes() - models[1].parameter_bytes() == 4 * 2 * owned  # float32, in two blocks
    # Once more: what follows from the first number of heads stays.
    again = dataclasses.replace(experiment, model=models[1].config, transforms=(shrink(heads=0.7, finetune_epochs=0),))
    smallest = finalize(again, data, models[1].variables["params"])
    sizes = {"head_dim": 2} if hasattr(smallest.config, "head_dim") else {"normed_heads": 4}
    assert smallest.config == dataclasses.replace(experiment.model, heads=1, **sizes)
    assert_fresh_shapes(smallest.config, data, smallest.variables["params"])


def test_the_layer_without_which_validation_is_best_is_removed(
    sasrec_experiment: Experiment, next_item: NextItemData, trained_sasrec: FitResult
):
    deeper = dataclasses.replace(sasrec_experiment.model, mlp_dims=(12, 16))
    batch = next(next_item.train_batches(4, 0, 1))
    added = random_variables(deeper.build(next_item.schema), batch)["params"]["block_0"]
    for path in ("attention/out", "mlp/dense_1"):  # the block computes, and adds nothing
        for name in ("kernel", "bias"):
            added = set_path(added, f"{path}/{name}", jnp.zeros_like(flatten(added)[f"{path}/{name}"]))
    params = {**trained_sasrec.params, "block_0": added, "block_1": trained_sasrec.params["block_0"]}
    transform = shrink(layers=1, finetune_epochs=0)
    experiment = dataclasses.replace(sasrec_experiment, model=deeper, transforms=(transform,))
    model = finalize(experiment, next_item, params)
    assert model.config == sasrec_experiment.model
    jax.tree.map(np.testing.assert_array_equal, model.variables["params"], trained_sasrec.params)
    reached = trained_sasrec.best.validation[next_item.selection_metric]
    (removed,) = model.report.details[transform.label]["layers"]
    assert removed["removed"] == "block_0"
    assert removed["validation"][next_item.selection_metric] == pytest.approx([reached, reached])


@pytest.mark.parametrize(
    ("lower_is_better", "removed", "kept"), [(False, ["cross_1", "cross_0"], 4), (True, ["cross_2", "cross_1"], 2)]
)
def test_layers_go_one_at_a_time_by_what_is_measured(
    dlrm_experiment: Experiment, labelled: LabelledData, lower_is_better: bool, removed: list[str], kept: int
):
    model = dataclasses.replace(dlrm_experiment.model, cross_ranks=(2, 3, 4))
    params = random_variables(model.build(labelled.schema), next(labelled.train_batches(4, 0, 1)))["params"]
    measured = {(2, 3, 4): 0.7, (3, 4): 0.5, (2, 4): 0.6, (2, 3): 0.4, (2,): 0.3, (3,): 0.31, (4,): 0.35}

    def validate(model_config: Any, params: Any) -> Validation:
        assert_fresh_shapes(model_config, labelled, params)
        return Validation(metric="m", value=measured[model_config.cross_ranks], lower_is_better=lower_is_better)

    transform = shrink(layers=2, finetune_epochs=0)
    config, variables, report = transform.finalize(model, {"params": params}, context_of(validate=validate))
    assert config == dataclasses.replace(model, cross_ranks=(kept,))
    first, last = (measured[ranks] for ranks in (((2, 4), (4,)) if kept == 4 else ((2, 3), (2,))))
    assert report.details["layers"] == [
        {"removed": removed[0], "validation": {"m": [0.7, first]}},
        {"removed": removed[1], "validation": {"m": [first, last]}},
    ]
    cross, before = variables["params"]["cross"], params["cross"]
    number = {2: 0, 4: 2}[kept]
    assert sorted(cross) == ["down_0", "up_0"]
    for name in ("down", "up"):
        jax.tree.map(np.testing.assert_array_equal, cross[f"{name}_0"], before[f"{name}_{number}"])


def test_layers_heads_and_units_of_factored_kernels_go_together(
    ratings_file: Path, sasrec_experiment: Experiment, tmp_path: Path
):
    start = low_rank(rank=2, when="start")
    transforms = (start, shrink(0.5, heads=0.5, layers=1, finetune_epochs=1, multiple_of=1), quantize())
    model = SASRecConfig(embedding_dim=12, heads=2, mlp_dims=(16, 16), loss_chunk=32)
    experiment = experiment_of(model, ratings_file, sasrec_experiment, *transforms)
    data = load_data(experiment)
    batch = next(data.train_batches(4, 0, 1))
    drawn = random_variables(model.build(data.schema), batch)["params"]
    final = finalize(experiment, data, start.start(model, drawn, 0, dict))
    assert final.config == dataclasses.replace(model, heads=1, head_dim=6, mlp_dims=(8,))
    label = "shrink(0.5, heads 0.5, layers 1, multiples of 1)"
    details = final.report.details[label]
    assert list(details) == ["layers", "heads", "widths"]
    assert (details["heads"], details["widths"]) == ([2, 1], {"mlp_dims[0]": [16, 8]})
    flat = flatten(final.variables["params"])
    assert flat["block_0/attention/query/kernel/up/values"].shape == (2, 6)
    assert flat["block_0/attention/out/kernel/down/values"].shape == (6, 2)
    assert flat["block_0/mlp/dense_0/kernel/up/values"].shape == (2, 8)
    assert not [path for path in flat if path.startswith("block_1")]
    final.save(tmp_path / "model", experiment, Quality("p", {}, 1, {}))
    loaded = load_final_model(tmp_path / "model", experiment, data)
    assert loaded.config == final.config
    assert loaded.report == final.report
    request = next(data.eval_batches("test", 8))
    answers = [jax.jit(lambda v, b, m=m: m.serve(v, b, top_k=4))(m.variables, request) for m in (final, loaded)]
    np.testing.assert_array_equal(answers[0]["scores"], answers[1]["scores"])


def test_zeroed_heads_of_factored_kernels_change_nothing(ratings_file: Path, sasrec_experiment: Experiment):
    model = SASRecConfig(embedding_dim=12, heads=2, mlp_dims=(8,))
    experiment = experiment_of(model, ratings_file, sasrec_experiment)
    data = load_data(experiment)
    batch = next(data.train_batches(4, 0, 1))
    params = without_heads(model, random_variables(model.build(data.schema), batch)["params"], gone=0)
    # Rank 2 and half of the columns 0: the factors' columns of the head that is gone are 0, too.
    factored = low_rank(rank=2, when="start").start(model, params, 0, dict)
    config, variables, _ = shrink(heads=0.5, finetune_epochs=0).finalize(model, {"params": factored}, context_of())
    batch = next(data.eval_batches("valid", 16))
    expected = logits(model, data, factored, batch)
    np.testing.assert_allclose(
        logits(config, data, variables["params"], batch), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max()
    )
