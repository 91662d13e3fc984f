"""Which type a product runs in is read from the lowered program."""

import collections
import dataclasses
import importlib
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
from recjax.models.logistic_regression import LogisticRegressionConfig
from recjax.training.checkpoint import Checkpoints, experiment_identity
from recjax.training.final_model import FinalModel
from recjax.training.fit import FitResult
from recjax.training.optimizer import make_optimizer
from recjax.training.pipeline import finalize, train
from recjax.training.step import init_state, make_train_step
from recjax.transforms.low_rank import low_rank
from recjax.transforms.mixed_precision import mixed_precision
from recjax.transforms.paths import flatten
from recjax.transforms.precision import bf16
from recjax.transforms.protocol import LossScaling, Mode, chain
from recjax.transforms.prune import prune
from recjax.transforms.quantize import quantize

FLOAT_TOP = mixed_precision(policy=(("top_mlp/.*", "float32"),))
NARROW = ["bottom_mlp/dense_0", "bottom_mlp/dense_1", *(f"cross/{way}_{i}" for way in ("down", "up") for i in (0, 1))]
N_LAYERS = 9  # of the tiny DLRM-DCNv2: those, two of the top MLP, and the logit


def with_transforms(experiment: Experiment, *transforms: Any) -> Experiment:
    return dataclasses.replace(experiment, transforms=transforms)


def dot_types(function: Any, *arguments: Any) -> collections.Counter:
    """Returns how many dots of the lowered program have which types of operands."""
    text = jax.jit(function).lower(*arguments).as_text()
    lines = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    found = [re.search(r": \(tensor<(?:\d+x)*(\w+)>, tensor<(?:\d+x)*(\w+)>\)", line) for line in lines]
    assert all(found), lines
    return collections.Counter(match.groups() for match in found if match)


@pytest.fixture(scope="module")
def labelled_batch(labelled: LabelledData) -> Any:
    return next(labelled.eval_batches("valid", 16))


@pytest.fixture(scope="module")
def mixed_dlrm(dlrm_experiment: Experiment, labelled: LabelledData, dlrm_params: Any) -> FinalModel:
    return finalize(with_transforms(dlrm_experiment, FLOAT_TOP), labelled, dlrm_params)


def test_products_of_matching_layers_are_narrow_and_others_float32(mixed_dlrm: FinalModel, labelled_batch: Any):
    types = dot_types(mixed_dlrm.score, mixed_dlrm.variables, labelled_batch)
    assert types == {("bf16", "bf16"): len(NARROW), ("f32", "f32"): N_LAYERS - len(NARROW)}


def test_backward_products_are_narrow_too_and_master_weights_float32(
    dlrm_experiment: Experiment, labelled: LabelledData, dlrm_params: Any
):
    module = FLOAT_TOP.intercept(dlrm_experiment.model.build(labelled.schema), Mode.TRAIN)
    optimizer = make_optimizer(dlrm_experiment.training, chain(FLOAT_TOP), dlrm_experiment.model, 10)
    batch = next(labelled.train_batches(32, 0, 1))
    state, step = init_state(dlrm_params, optimizer), make_train_step(module, optimizer, 0)
    # Three products a layer, but for the gradient of the first one's input, which nothing needs.
    types = dot_types(step, state, batch)
    assert types == {("bf16", "bf16"): 3 * len(NARROW) - 1, ("f32", "f32"): 3 * (N_LAYERS - len(NARROW))}
    state, _ = step(state, batch)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}


def test_kernels_are_stored_in_the_type_of_their_product(mixed_dlrm: FinalModel, dlrm_params: Any):
    stored, original = flatten(mixed_dlrm.variables["params"]), flatten(dlrm_params)
    narrow = {f"{path}/kernel" for path in NARROW}
    assert {path for path, leaf in stored.items() if leaf.dtype == jnp.bfloat16} == narrow
    assert {leaf.dtype for path, leaf in stored.items() if path not in narrow} == {jnp.dtype("float32")}
    assert mixed_dlrm.report.details == {FLOAT_TOP.label: {"kernels": dict.fromkeys(sorted(narrow), "bfloat16")}}
    saved = 2 * sum(original[path].size for path in narrow)
    assert mixed_dlrm.parameter_bytes() == sum(leaf.nbytes for leaf in original.values()) - saved


def test_served_scores_are_the_evaluated_ones_bit_for_bit_and_close_to_float(
    mixed_dlrm: FinalModel, dlrm_experiment: Experiment, labelled: LabelledData, dlrm_params: Any, labelled_batch: Any
):
    module = dlrm_experiment.model.build(labelled.schema)
    evaluated = jax.jit(FLOAT_TOP.intercept(module, Mode.EVALUATE).apply)({"params": dlrm_params}, labelled_batch)
    scores = jax.jit(mixed_dlrm.score)(mixed_dlrm.variables, labelled_batch)
    np.testing.assert_array_equal(scores, evaluated)
    expected = jax.jit(module.apply)({"params": dlrm_params}, labelled_batch)
    # Six layers, each rounded to 8 bits.
    np.testing.assert_allclose(scores, expected, atol=6 * 2**-8 * np.abs(expected).max())
    assert (scores != expected).any()


def test_products_of_activations_follow_the_policy(
    sasrec_experiment: Experiment, next_item: NextItemData, trained_sasrec: FitResult
):
    batch = next(next_item.eval_batches("valid", 4))
    for policy, n_narrow in (
        ((), 6 + 2),
        ((("block_0/attention/.*", "float32"),), 2),
        ((("block_0/attention/scores", "float32"),), 6 + 1),
    ):
        transform = mixed_precision("float16", policy=policy)
        model = finalize(with_transforms(sasrec_experiment, transform), next_item, trained_sasrec.params)
        types = dot_types(model.score, model.variables, batch)
        assert types == {("f16", "f16"): n_narrow, ("f32", "f32"): 6 + 2 + 1 - n_narrow}  # one is the catalogue


def test_a_policy_can_name_the_answer_and_mix_types(dlrm_experiment: Experiment, labelled: LabelledData):
    transform = mixed_precision(policy=(("logit", "bfloat16"), ("cross/up_.*", "float16"), (".*", "float32")))
    module = transform.intercept(dlrm_experiment.model.build(labelled.schema), Mode.EVALUATE)
    batch = next(labelled.eval_batches("valid", 4))
    params = jax.jit(module.init)(jax.random.key(0), batch)
    assert dot_types(module.apply, params, batch) == {("bf16", "bf16"): 1, ("f16", "f16"): 2, ("f32", "f32"): 6}
    assert transform.types == ("bfloat16", "float16")
    assert transform.support("cuda:7.5") == "emulated"  # which has float16 alone
    assert mixed_precision("float16").support("cuda:7.5") == "native"


def test_factors_have_the_type_of_their_layer(dlrm_experiment: Experiment, labelled: LabelledData, dlrm_params: Any):
    experiment = with_transforms(dlrm_experiment, low_rank(rank=2, include=("top_mlp/.*",)), FLOAT_TOP)
    model = finalize(experiment, labelled, dlrm_params)
    stored = flatten(model.variables["params"])
    assert stored["top_mlp/dense_0/kernel/down"].dtype == jnp.float32
    assert stored["bottom_mlp/dense_0/kernel"].dtype == jnp.bfloat16


def test_float16_trains_with_a_scale_that_is_checkpointed(
    dlrm_experiment: Experiment, labelled: LabelledData, tmp_path: Path
):
    experiment = with_transforms(dlrm_experiment, mixed_precision("float16"))
    result = train(experiment, labelled, folder=tmp_path)
    losses = [record.train_loss for record in result.history]
    assert losses[-1] < losses[0]
    transform = chain(*experiment.transforms)
    optimizer = make_optimizer(experiment.training, transform, experiment.model, 1)
    like = {"state": init_state(result.params, optimizer, transform.loss_scaling), "best": result.params}
    tree, _ = Checkpoints(tmp_path, experiment_identity(experiment)).restore(like)
    scale = tree["state"].loss_scale
    assert int(scale.clean_steps) == int(tree["state"].step) > 0
    assert float(scale.value) == 2.0**15
    jax.tree.map(np.testing.assert_array_equal, train(experiment, labelled, folder=tmp_path).params, result.params)


def test_a_table_optimizer_cannot_scale(dlrm_experiment: Experiment, labelled: LabelledData):
    training = dataclasses.replace(dlrm_experiment.training, table_optimizer="sgd")
    experiment = dataclasses.replace(dlrm_experiment, training=training, transforms=(mixed_precision("float16"),))
    with pytest.raises(UserError, match=r"scales the loss, which training.table_optimizer='sgd' cannot; set it to"):
        train(experiment, labelled)


def test_a_schedule_that_skipped_steps_left_unfinished_is_an_error(
    dlrm_experiment: Experiment, labelled: LabelledData, monkeypatch: pytest.MonkeyPatch
):
    module = importlib.import_module("recjax.transforms.mixed_precision")
    monkeypatch.setattr(module, "FIRST_SCALE", 2.0**100)  # overflows for dozens of steps
    with pytest.raises(UserError, match=r"is settled from step \d+ on and training ended at step \d+, because"):
        train(with_transforms(dlrm_experiment, prune(0.5, end=1.0), mixed_precision("float16")), labelled)


@pytest.mark.parametrize(
    ("options", "scaling"),
    [
        ({}, None),
        ({"dtype": "float16"}, LossScaling(2.0**15, dynamic=True)),
        ({"policy": (("a", "float16"),)}, LossScaling(2.0**15, dynamic=True)),
        ({"dtype": "float16", "loss_scale": None}, None),
        ({"loss_scale": 128}, LossScaling(128.0, dynamic=False)),
    ],
)
def test_losses_are_scaled_where_a_type_is_float16_unless_told_otherwise(options: Any, scaling: LossScaling | None):
    assert chain(mixed_precision(**options)).loss_scaling == scaling


def test_labels():
    assert mixed_precision().label == "mixed_precision(bfloat16)"
    assert FLOAT_TOP.label == "mixed_precision(bfloat16, some layers)"
    assert mixed_precision("float16", loss_scale=128).label == "mixed_precision(float16, loss scale 128)"
    assert chain(mixed_precision("float16")).dot_dtype == "float16"
    assert mixed_precision().to_json()["transform"] == "mixed_precision"


def test_chains_that_round_kernels_twice_are_refused():
    with pytest.raises(UserError, match=r"illegal chain: mixed_precision\(bfloat16\) rounds the kernels that int8 "):
        chain(mixed_precision(), quantize())
    with pytest.raises(UserError, match=r"illegal chain: mixed_precision\(bfloat16\) cannot stand beside"):
        chain(bf16(), mixed_precision())


def test_a_model_or_a_policy_without_narrow_layers_is_refused(
    dlrm_experiment: Experiment, labelled: LabelledData, dlrm_params: Any
):
    for policy, message in (
        (
            (("mlp", "bfloat16"),),
            "mixed_precision pattern 'mlp' matches no layer of DLRMDCNv2Config; its layers: bottom",
        ),
        (
            ((".*", "float32"),),
            "cannot be applied: it leaves every layer of DLRMDCNv2Config float32; .* of: bottom_mlp",
        ),
    ):
        with pytest.raises(UserError, match=message):
            train(with_transforms(dlrm_experiment, mixed_precision(policy=policy)), labelled, start=dlrm_params)
    with pytest.raises(UserError, match="every layer of LogisticRegressionConfig float32"):
        mixed_precision()._narrow(LogisticRegressionConfig(), {"user": {"table": jnp.zeros((2, 1))}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "unknown MixedPrecision.dtype 'int8'"),
        (
            {"policy": (("a", "fp8"),)},
            "mixed_precision type of 'a' is 'fp8'; allowed: 'float32', 'bfloat16', 'float16'",
        ),
        ({"policy": (("(", "float16"),)}, r"mixed_precision pattern '(' is no regular expression"),
        ({"loss_scale": 0.5}, "mixed_precision loss_scale is 0.5; allowed: 'auto', None, a number >= 1"),
        ({"loss_scale": True}, "mixed_precision loss_scale is True; allowed: 'auto', None, a number >= 1"),
        ({"loss_scale": float("inf")}, "mixed_precision loss_scale is inf; allowed: 'auto', None, a number >= 1"),
        ({"loss_scale": "dynamic"}, "mixed_precision loss_scale is 'dynamic'; allowed: 'auto', None, a number >= 1"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(UserError, match=re.escape(message)):
        dataclasses.replace(mixed_precision(), **options)
