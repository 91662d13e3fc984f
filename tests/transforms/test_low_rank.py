import dataclasses
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.config import Experiment
from recjax.data.labelled import LabelledData
from recjax.data.next_item import NextItemData
from recjax.errors import UserError
from recjax.evaluation import Quality
from recjax.training.final_model import FinalModel, load_final_model
from recjax.training.fit import FitResult
from recjax.training.pipeline import finalize, train
from recjax.transforms.distill import distill
from recjax.transforms.low_rank import energy_kept, low_rank
from recjax.transforms.paths import flatten, set_path
from recjax.transforms.precision import bf16
from recjax.transforms.protocol import Stage, Transform, chain
from recjax.transforms.prune import prune
from recjax.transforms.quantize import quantize
from recjax.transforms.shrink import shrink

# Where a rank of 2 saves weights in the tiny DLRM-DCNv2, 2 (I + O) < I O; the cross layers are factors by themselves.
RANK_2 = (
    "bottom_mlp/dense_1",
    "cross/down_0",
    "cross/down_1",
    "cross/up_0",
    "cross/up_1",
    "top_mlp/dense_0",
    "top_mlp/dense_1",
)


def with_transforms(experiment: Experiment, *transforms: Transform) -> Experiment:
    return dataclasses.replace(experiment, transforms=transforms)


def diagonal(*values: float) -> Any:
    """Returns a kernel [8, 8] with those singular values."""
    return jnp.asarray(np.diag([*values, *[0.0] * (8 - len(values))]), jnp.float32)


def factor(params: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
    return low_rank(**options)._factored(params, low_rank(**options)._chosen(NoLogits(), params))


class NoLogits:
    def logit_layers(self) -> tuple[str, ...]:
        return ()


def product(form: Any) -> np.ndarray:
    return np.asarray(form["down"]) @ np.asarray(form["up"])


def test_energy_by_hand():
    np.testing.assert_allclose(energy_kept(np.array([3.0, 2.0, 1.0])), [9 / 14, 13 / 14, 1])
    np.testing.assert_array_equal(energy_kept(np.zeros(2)), [1, 1])


@pytest.mark.parametrize(
    ("options", "rank"),
    [
        ({"energy": 9 / 14}, 1),
        ({"energy": 9 / 14 + 1e-6}, 2),
        ({"energy": 13 / 14}, 2),
        ({"energy": 13 / 14 + 1e-6}, 3),
        ({"energy": 1.0}, 3),
        ({"rank": 2}, 2),
        ({"rank": 100}, 8),
        ({"budget": 0.5}, 2),  # of 64 weights 32, and a rank costs 16
        ({"budget": 0.74}, 2),
        ({"budget": 0.75}, 3),
        ({"budget": 0.01}, 1),
    ],
)
def test_rank_of_a_kernel_with_singular_values_3_2_1(options: dict[str, float], rank: int):
    singular_K = np.array([3.0, 2, 1, 0, 0, 0, 0, 0])
    assert low_rank(**options).rank_of((8, 8), singular_K) == rank  # type: ignore[arg-type]


def test_factors_are_balanced_and_keep_the_greatest_singular_values():
    params, layers = factor({"a": {"kernel": diagonal(3, 2, 1)}}, rank=2)
    form = params["a"]["kernel"]
    assert form["down"].shape == (8, 2)
    assert form["up"].shape == (2, 8)
    np.testing.assert_allclose(product(form), diagonal(3, 2), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(form["down"], axis=0), np.sqrt([3, 2]), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(form["up"], axis=1), np.sqrt([3, 2]), rtol=1e-6)
    assert layers == {"a": {"rank": 2, "energy": round(13 / 14, 6), "bytes": [4 * 64, 4 * 2 * 16]}}


def test_a_layer_is_left_whole_where_factors_would_save_nothing():
    full_rank = jnp.eye(8)
    params, layers = factor({"a": {"kernel": diagonal(3, 2)}, "b": {"kernel": full_rank}}, energy=1.0)
    assert layers.keys() == {"a"}
    np.testing.assert_array_equal(params["b"]["kernel"], full_rank)
    with pytest.raises(UserError, match=r"low_rank\(rank=4\) saves no weights in any of a: .* lower the rank"):
        factor({"a": {"kernel": full_rank}}, rank=4)  # 4 (8 + 8) is 64, as many as the kernel has


@pytest.fixture(scope="module")
def rank_2_params(dlrm_params: Any) -> Any:
    """Returns parameters whose kernels are of rank 2 where that saves weights."""
    params = dlrm_params
    for path in RANK_2:
        kernel = np.asarray(flatten(params)[f"{path}/kernel"])
        left, singular, right = np.linalg.svd(kernel, full_matrices=False)
        params = set_path(params, f"{path}/kernel", jnp.asarray((left[:, :2] * singular[:2]) @ right[:2]))
    return params


@pytest.fixture(scope="module")
def full_energy(dlrm_experiment: Experiment, labelled: LabelledData, rank_2_params: Any) -> FinalModel:
    return finalize(with_transforms(dlrm_experiment, low_rank(energy=1.0)), labelled, rank_2_params)


def test_full_energy_computes_the_same_function_from_fewer_bytes(
    full_energy: FinalModel, dlrm_experiment: Experiment, labelled: LabelledData, rank_2_params: Any
):
    batch = next(labelled.eval_batches("valid", 16))
    expected = jax.jit(dlrm_experiment.model.build(labelled.schema).apply)({"params": rank_2_params}, batch)
    scores = jax.jit(full_energy.score)(full_energy.variables, batch)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    details = full_energy.report.details["low_rank(energy=1)"]
    flat = flatten(rank_2_params)
    assert details["layers"].keys() == set(RANK_2)
    for path, of_layer in details["layers"].items():
        n_inputs, n_outputs = flat[f"{path}/kernel"].shape
        assert of_layer == {
            "rank": 2,
            "energy": 1.0,
            "bytes": [4 * n_inputs * n_outputs, 4 * 2 * (n_inputs + n_outputs)],
        }
    assert details["left_whole"] == ["bottom_mlp/dense_0"]  # the logit is not asked
    saved = sum(before - after for before, after in (of["bytes"] for of in details["layers"].values()))
    assert full_energy.parameter_bytes() == sum(leaf.nbytes for leaf in flat.values()) - saved


def test_a_factored_model_is_stored_and_loaded(
    full_energy: FinalModel, dlrm_experiment: Experiment, labelled: LabelledData, tmp_path: Path
):
    experiment = with_transforms(dlrm_experiment, low_rank(energy=1.0))
    full_energy.save(tmp_path / "model", experiment, Quality("p", {}, 1, {}))
    loaded = load_final_model(tmp_path / "model", experiment, labelled)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, full_energy.variables)


def test_factors_are_quantized_each(dlrm_experiment: Experiment, labelled: LabelledData, rank_2_params: Any):
    experiment = with_transforms(dlrm_experiment, low_rank(rank=2), quantize(when="after"))
    model = finalize(experiment, labelled, rank_2_params)
    flat = flatten(model.variables["params"])
    for path in RANK_2:
        assert flat[f"{path}/kernel/down/values"].dtype == flat[f"{path}/kernel/up/values"].dtype == jnp.int8
    batch = next(labelled.eval_batches("valid", 16))
    lowered = jax.jit(model.score).lower(model.variables, batch).as_text()
    n_int8 = len(re.findall(r"\(tensor<[\dx]+xi8>, tensor<[\dx]+xi8>\) -> tensor<[\dx]+xi32>", lowered))
    assert n_int8 == 2 * len(RANK_2) + 1
    expected = jax.jit(dlrm_experiment.model.build(labelled.schema).apply)({"params": rank_2_params}, batch)
    # Fifteen products, each rounding weights and activations to 1 / 127 of their largest.
    np.testing.assert_allclose(
        jax.jit(model.score)(model.variables, batch), expected, atol=15 * 2 / 127 * np.abs(expected).max()
    )


def test_finetuning_works_on_factors_and_keeps_the_best(
    sasrec_experiment: Experiment, next_item: NextItemData, trained_sasrec: FitResult
):
    plain = finalize(with_transforms(sasrec_experiment, low_rank(rank=1)), next_item, trained_sasrec.params)
    tuned_too = with_transforms(sasrec_experiment, low_rank(rank=1, finetune_epochs=2))
    epochs = []
    tuned = finalize(
        tuned_too, next_item, trained_sasrec.params, on_epoch=lambda record, total: epochs.append((record.epoch, total))
    )
    assert epochs == [(0, 2), (1, 2), (2, 2)]
    flat, flat_tuned = flatten(plain.variables["params"]), flatten(tuned.variables["params"])
    assert {path: leaf.shape for path, leaf in flat.items()} == {path: leaf.shape for path, leaf in flat_tuned.items()}
    assert any((flat[path] != flat_tuned[path]).any() for path in flat if path.endswith("/down"))


@pytest.mark.parametrize("given", ["drawn", "trained"])
def test_from_the_start_factors_are_trained_and_checkpointed(
    given: str, dlrm_experiment: Experiment, labelled: LabelledData, dlrm_params: Any, tmp_path: Path
):
    experiment = with_transforms(dlrm_experiment, low_rank(rank=2, when="start"), quantize())
    start = None if given == "drawn" else dlrm_params
    result = train(experiment, labelled, start=start, folder=tmp_path)
    again = train(experiment, labelled, start=start, folder=tmp_path)  # all epochs are in the checkpoint
    jax.tree.map(np.testing.assert_array_equal, result.params, again.params)
    assert result.history == again.history
    losses = [record.train_loss for record in result.history if record.train_loss is not None]
    assert losses[-1] < losses[0]
    flat = flatten(result.params)
    assert {path.removesuffix("/kernel/down") for path in flat if path.endswith("/down")} == set(RANK_2)
    assert flat["top_mlp/dense_0/kernel/up"].shape == (2, 16)
    model = finalize(experiment, labelled, result.params)
    details = model.report.details["low_rank(rank=2, start)"]["layers"]
    assert details["top_mlp/dense_1"] == {"rank": 2, "bytes": [4 * 16 * 8, 4 * 2 * (16 + 8)]}
    assert flatten(model.variables["params"])["top_mlp/dense_0/kernel/up/values"].dtype == jnp.int8


def test_states_of_recurrent_layers_and_answers_are_factored_only_if_asked():
    params = {
        "gru": {"state_kernel": diagonal(1), "input": {"kernel": diagonal(1)}},
        "decoder": {"kernel": diagonal(1)},
    }

    class Config(NoLogits):
        def logit_layers(self) -> tuple[str, ...]:
            return ("decoder",)

    def chosen(**options: Any) -> set[str]:
        return {layer.path for layer in low_rank(rank=1, **options)._chosen(Config(), params).values()}

    assert chosen() == {"gru/input"}
    assert chosen(states=True) == {"gru/input", "gru/state"}
    assert chosen(logits=True) == {"gru/input", "decoder"}
    assert chosen(exclude=("gru/.*",), logits=True) == {"decoder"}
    with pytest.raises(UserError, match=r"low_rank pattern 'gru' matches no layer of Config; its layers: .*gru/input"):
        chosen(include=("gru",))
    with pytest.raises(UserError, match=r"low_rank cannot be applied: Config has no dense layer .*logits=True"):
        chosen(include=("decoder",))


def test_labels_and_stages():
    assert low_rank(rank=8).label == "low_rank(rank=8)"
    assert low_rank(budget=0.25, when="start", logits=True).label == "low_rank(budget=0.25, start, logits)"
    assert low_rank(energy=0.9, exclude=("a",)).label == "low_rank(energy=0.9, some layers)"
    after, start = low_rank(rank=8), low_rank(rank=8, when="start")
    assert (after.stage, start.stage) == (Stage.FACTORS, Stage.STRUCTURE)
    assert (after.trains, start.trains) == (False, True)
    assert after.to_json()["transform"] == "low_rank"
    assert chain(prune(0.5), shrink(), after, bf16(), quantize()).support("cuda:9.0") == "native"


def test_factors_from_the_start_stand_beside_other_transforms_of_the_structure():
    start, student = low_rank(rank=2, when="start"), distill(top_mlp=(8,))
    assert chain(student, start, bf16()).label == "distill(top_mlp=8) + low_rank(rank=2, start) + bf16"
    with pytest.raises(UserError, match=r"low_rank\(rank=2, start\) cannot stand beside low_rank\(rank=2, start\)"):
        chain(start, start)


def test_chains_with_masks_that_factors_would_undo_are_refused():
    for transforms, message in (
        (
            (prune(0.5, structure="element"), low_rank(rank=8)),
            r"low_rank\(rank=8\) would fill the zeros of prune\(0.5, element\) again; write chain\(prune",
        ),
        ((prune(0.5), low_rank(rank=8)), r"low_rank\(rank=8\) would fill the zeros of prune\(0.5\) again; write chain"),
        (
            (low_rank(rank=8), prune(0.5), shrink()),
            r"prune\(0.5\) cannot follow low_rank\(rank=8\); the order that works: prune\(0.5\) -> shrink -> low_rank",
        ),
    ):
        with pytest.raises(UserError, match=f"^illegal chain: {message}") as error:
            chain(*transforms)
        assert "\n" not in str(error.value)
    masked = chain(low_rank(rank=8, when="start"), prune(0.5), shrink())  # of factors, which are what is trained
    assert masked.label == "low_rank(rank=8, start) + prune(0.5) + shrink"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "low_rank size is {}; allowed: exactly one of rank, energy and budget"),
        ({"rank": 2, "budget": 0.5}, "low_rank size is {'rank': 2, 'budget': 0.5}; allowed: exactly one"),
        ({"rank": 0}, "low_rank rank is 0; allowed: >= 1"),
        ({"energy": 0.0}, "low_rank energy is 0.0; allowed: (0, 1]"),
        ({"budget": 1.0}, "low_rank budget is 1.0; allowed: (0, 1)"),
        ({"energy": 0.9, "when": "start"}, "low_rank energy with when='start' is 0.9; allowed: None; give rank or"),
        ({"rank": 2, "when": "start", "finetune_epochs": 1}, "low_rank finetune_epochs with when='start' is 1"),
        ({"rank": 2, "finetune_epochs": -1}, "low_rank finetune_epochs is -1; allowed: >= 0"),
        ({"rank": 2, "include": ("(",)}, "low_rank pattern '(' is no regular expression"),
        ({"rank": 2, "when": "before"}, "unknown LowRank.when 'before'"),
        ({"rank": 2, "layers": ("a",)}, "unknown LowRank key 'layers'"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(UserError, match=re.escape(message)):
        low_rank(**options)
