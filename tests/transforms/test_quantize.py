"""What int8 means here is read from the program: dots of int8 by int8 into int32, one for every quantized kernel."""

import collections
import dataclasses
import re
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
from recjax.training.final_model import FinalModel
from recjax.training.fit import FitResult
from recjax.training.optimizer import make_optimizer
from recjax.training.pipeline import finalize
from recjax.training.step import init_state, make_train_step
from recjax.transforms.paths import flatten
from recjax.transforms.precision import bf16
from recjax.transforms.protocol import Mode, chain
from recjax.transforms.quantize import quantize

DLRM_KERNELS = [
    "bottom_mlp/dense_0/kernel",
    "bottom_mlp/dense_1/kernel",
    "cross/down_0/kernel",
    "cross/down_1/kernel",
    "cross/up_0/kernel",
    "cross/up_1/kernel",
    "top_mlp/dense_0/kernel",
    "top_mlp/dense_1/kernel",
]
SASREC_KERNELS = sorted(
    f"block_0/{layer}/kernel"
    for layer in ("attention/query", "attention/key", "attention/value", "attention/out", "mlp/dense_0", "mlp/dense_1")
)


def dots(score: Any, variables: Any, batch: Any) -> list[tuple[str, str, str]]:
    """Returns the types of (lhs, rhs, result) of every dot in the lowered program, as in ("i8", "i8", "i32")."""
    text = jax.jit(score).lower(variables, batch).as_text()
    types = r": \(tensor<(?:\d+x)*(\w+)>, tensor<(?:\d+x)*(\w+)>\) -> tensor<(?:\d+x)*(\w+)>"
    lines = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    found = [re.search(types, line) for line in lines]
    assert all(found), lines
    return [match.groups() for match in found if match]


def n_int8_dots(score: Any, variables: Any, batch: Any) -> int:
    return sum(types == ("i8", "i8", "i32") for types in dots(score, variables, batch))


@pytest.fixture(scope="module")
def labelled_batch(labelled: LabelledData) -> Any:
    return next(labelled.eval_batches("valid", 16))


@pytest.fixture(scope="module")
def next_item_batch(next_item: NextItemData) -> Any:
    return next(next_item.eval_batches("valid", 16))


@pytest.fixture(scope="module")
def bf16_int8_dlrm(dlrm_experiment: Experiment, labelled: LabelledData, dlrm_params: Any) -> FinalModel:
    return finalize(dataclasses.replace(dlrm_experiment, transforms=(bf16(), quantize())), labelled, dlrm_params)


def dequantized(variables: Any) -> Any:
    """Returns float parameters whose kernels are the int8 values times their scales."""

    def widened(form: Any) -> Any:
        return form["values"].astype(jnp.float32) * form["scale"] if isinstance(form, dict) else form

    return jax.tree.map(widened, variables["params"], is_leaf=lambda x: isinstance(x, dict) and "values" in x)


def test_kernels_are_stored_as_int8_and_only_so(
    int8_dlrm: FinalModel, int8_sasrec: FinalModel, dlrm_params: Any, trained_sasrec: FitResult
):
    cases = ((int8_dlrm, DLRM_KERNELS, dlrm_params), (int8_sasrec, SASREC_KERNELS, trained_sasrec.params))
    for model, kernels, float_params in cases:
        stored, original = flatten(model.variables["params"]), flatten(float_params)
        assert model.report.details == {"int8": {"kernels": dict.fromkeys(kernels, "int8")}}
        expected = (set(original) - set(kernels)) | {f"{k}/{part}" for k in kernels for part in ("values", "scale")}
        assert set(stored) == expected
        for kernel in kernels:
            values, scale = stored[f"{kernel}/values"], stored[f"{kernel}/scale"]
            assert values.dtype == jnp.int8
            assert values.shape == original[kernel].shape
            assert scale.dtype == jnp.float32
            assert scale.shape == (1, values.shape[1])  # one an output channel
            # Rounded to the nearest of 255 levels: the error is at most half a level (and 1e-6 for float32).
            error = np.abs(values.astype(np.float32) * np.asarray(scale) - np.asarray(original[kernel]))
            assert (error <= np.asarray(scale) * (0.5 + 1e-4)).all()
            assert np.abs(values).max(0).min() >= 126  # every channel uses its whole range


def test_logits_layer_and_tables_stay_float(int8_dlrm: FinalModel, int8_sasrec: FinalModel):
    dlrm, sasrec = flatten(int8_dlrm.variables["params"]), flatten(int8_sasrec.variables["params"])
    assert dlrm["logit/kernel"].dtype == jnp.float32
    assert dlrm["table_user/table"].dtype == jnp.float32
    assert sasrec["items/table"].dtype == jnp.float32


def test_program_has_one_int8_dot_a_kernel_and_a_float_dot_for_the_answer(
    int8_dlrm: FinalModel, int8_sasrec: FinalModel, labelled_batch: Any, next_item_batch: Any
):
    dlrm = dots(int8_dlrm.score, int8_dlrm.variables, labelled_batch)
    assert dlrm.count(("i8", "i8", "i32")) == len(DLRM_KERNELS)
    assert [types for types in dlrm if types != ("i8", "i8", "i32")] == [("f32", "f32", "f32")]  # the logit
    sasrec = dots(int8_sasrec.score, int8_sasrec.variables, next_item_batch)
    assert sasrec.count(("i8", "i8", "i32")) == len(SASREC_KERNELS)
    rest = [types for types in sasrec if types != ("i8", "i8", "i32")]
    assert rest == [("f32", "f32", "f32")] * (2 + 1)  # query-key and weight-value; the catalogue


def test_serving_program_has_the_same_int8_dots(int8_sasrec: FinalModel, next_item_batch: Any):
    def serve(variables: Any, batch: Any) -> Any:
        return int8_sasrec.serve(variables, batch, top_k=5)

    assert n_int8_dots(serve, int8_sasrec.variables, next_item_batch) == len(SASREC_KERNELS)


def test_compiled_program_reads_no_float_kernel(int8_dlrm: FinalModel, labelled_batch: Any):
    compiled = jax.jit(int8_dlrm.score).lower(int8_dlrm.variables, labelled_batch).compile().as_text()
    entry = compiled[compiled.index("ENTRY") :]
    parameters = re.findall(r"= (\w+\[[\d,]*\])\S* parameter\(", entry)
    flat = flatten(int8_dlrm.variables["params"])
    names = {"int8": "s8", "float32": "f32", "int32": "s32"}
    given = [leaf for path, leaf in flat.items() if path not in DLRM_KERNELS] + list(labelled_batch.values())
    shapes = [f"{names[str(leaf.dtype)]}[{','.join(map(str, leaf.shape))}]" for leaf in given]
    assert not collections.Counter(parameters) - collections.Counter(shapes)  # nothing beside what is stored is read
    assert sum(parameter.startswith("s8") for parameter in parameters) == len(DLRM_KERNELS)


def test_the_check_fails_for_a_float_model(
    dlrm_experiment: Experiment, labelled: LabelledData, dlrm_params: Any, labelled_batch: Any
):
    model = finalize(dlrm_experiment, labelled, dlrm_params)
    assert n_int8_dots(model.score, model.variables, labelled_batch) == 0
    assert len(dots(model.score, model.variables, labelled_batch)) == len(DLRM_KERNELS) + 1


def test_the_check_fails_for_dequantized_weights(int8_dlrm: FinalModel, labelled_batch: Any):
    module = int8_dlrm.config.build(int8_dlrm.schema)

    def score(variables: Any, batch: Any) -> jax.Array:  # int8 in memory, float in the dot
        return module.apply({"params": dequantized(variables)}, batch)

    assert "xi8>" in jax.jit(score).lower(int8_dlrm.variables, labelled_batch).as_text()
    assert n_int8_dots(score, int8_dlrm.variables, labelled_batch) == 0
    assert len(dots(score, int8_dlrm.variables, labelled_batch)) == len(DLRM_KERNELS) + 1


def test_served_scores_are_the_evaluated_ones_bit_for_bit(
    int8_dlrm: FinalModel,
    int8_sasrec: FinalModel,
    dlrm_params: Any,
    trained_sasrec: FitResult,
    labelled_batch: Any,
    next_item_batch: Any,
):
    cases = ((int8_dlrm, dlrm_params, labelled_batch), (int8_sasrec, trained_sasrec.params, next_item_batch))
    for model, params, batch in cases:
        evaluated = model.transform.intercept(model.config.build(model.schema), Mode.EVALUATE)
        expected = jax.jit(evaluated.apply)({"params": params}, batch)
        np.testing.assert_array_equal(jax.jit(model.score)(model.variables, batch), expected)


def test_int8_scores_are_close_to_float_ones_and_not_the_same(
    int8_dlrm: FinalModel, labelled: LabelledData, dlrm_params: Any, labelled_batch: Any
):
    expected = jax.jit(int8_dlrm.config.build(labelled.schema).apply)({"params": dlrm_params}, labelled_batch)
    scores = jax.jit(int8_dlrm.score)(int8_dlrm.variables, labelled_batch)
    # Eight layers, each rounding weights and activations to 1 / 127 of their largest.
    np.testing.assert_allclose(scores, expected, atol=8 * 2 / 127 * np.abs(expected).max())
    assert (scores != expected).any()


def test_an_answer_does_not_depend_on_the_rest_of_its_batch(int8_dlrm: FinalModel, labelled_batch: Any):
    score = jax.jit(int8_dlrm.score)
    whole = score(int8_dlrm.variables, labelled_batch)
    other = {
        name: np.where(np.arange(16).reshape(-1, *[1] * (c.ndim - 1)) < 5, c, 0) for name, c in labelled_batch.items()
    }
    other["dense"][5:] = 1e3  # a scale shared by the batch would crush the first five rows
    np.testing.assert_array_equal(score(int8_dlrm.variables, other)[:5], whole[:5])


def test_quantized_training_learns_and_uses_int8_forward_dots(
    dlrm_experiment: Experiment, labelled: LabelledData, dlrm_params: Any
):
    batch = next(labelled.train_batches(32, 0, 1))
    for transform, n_backward in ((quantize(), 0), (quantize(backward_bits=8), 2)):
        module = chain(transform).intercept(dlrm_experiment.model.build(labelled.schema), Mode.TRAIN)
        optimizer = make_optimizer(dlrm_experiment.training, chain(transform), dlrm_experiment.model, 10)
        step = make_train_step(module, optimizer, 0)
        lowered = step.lower(init_state(dlrm_params, optimizer), batch).as_text()
        n_int8 = sum(
            bool(re.search(r"\(tensor<[\dx]+xi8>, tensor<[\dx]+xi8>\) -> tensor<[\dx]+xi32>", line))
            for line in lowered.splitlines()
            if "stablehlo.dot_general" in line
        )
        # Both backward dots of every kernel, but for the input gradient of the first layer, which nothing needs.
        assert n_int8 >= (1 + n_backward) * len(DLRM_KERNELS) - 1
        if n_backward:
            state, losses = init_state(dlrm_params, optimizer), []
            for _ in range(10):
                state, loss = step(state, batch)
                losses.append(float(loss))
            assert np.isfinite(losses).all()
            assert losses[-1] < losses[0]
            assert step._cache_size() == 1


def test_bf16_and_int8_together_finalize_and_serve(
    bf16_int8_dlrm: FinalModel, int8_dlrm: FinalModel, labelled_batch: Any
):
    model = bf16_int8_dlrm
    assert model.transform.label == "bf16 + int8"
    flat = flatten(model.variables["params"])
    assert {leaf.dtype for path, leaf in flat.items() if path.endswith("values")} == {jnp.dtype("int8")}
    assert {leaf.dtype for path, leaf in flat.items() if not path.endswith("values")} == {jnp.dtype("bfloat16")}
    assert n_int8_dots(model.score, model.variables, labelled_batch) == len(DLRM_KERNELS)
    scores = jax.jit(model.score)(model.variables, labelled_batch)
    expected = jax.jit(int8_dlrm.score)(int8_dlrm.variables, labelled_batch)
    assert scores.dtype == jnp.float32
    # Eight layers, each with int8 steps of 1 / 127 that bfloat16 inputs can tip by one, and roundings of 2^-8.
    np.testing.assert_allclose(scores, expected, atol=8 * (2 / 127 + 2**-8) * np.abs(expected).max())
    probability = jax.jit(lambda v, b: model.serve(v, b, top_k=1))(model.variables, labelled_batch)["probability"]
    np.testing.assert_allclose(probability, jax.nn.sigmoid(scores), rtol=1e-6)


def test_bytes_of_dense_layers_are_a_quarter_and_scales_and_biases(int8_dlrm: FinalModel, dlrm_params: Any):
    flat = flatten(dlrm_params)
    expected = flat["logit/kernel"].nbytes + flat["logit/bias"].nbytes
    for kernel in DLRM_KERNELS:
        expected += flat[kernel].size + 4 * flat[kernel].shape[1]  # int8 values, float32 scales
        bias = flat.get(kernel.replace("kernel", "bias"))
        expected += 0 if bias is None else bias.nbytes
    assert int8_dlrm.dense_layer_bytes() == expected
    tables = sum(leaf.nbytes for path, leaf in flat.items() if path.endswith("/table"))
    assert int8_dlrm.parameter_bytes() == expected + tables


def test_a_model_without_quantizable_dots_is_refused(logistic_experiment: Experiment, labelled: LabelledData):
    experiment = dataclasses.replace(logistic_experiment, transforms=(quantize(),))
    batch = next(labelled.train_batches(4, 0, 1))
    params = jax.jit(LogisticRegressionConfig().build(labelled.schema).init)(jax.random.key(0), batch)["params"]
    with pytest.raises(UserError, match="quantize cannot be applied: LogisticRegressionConfig"):
        finalize(experiment, labelled, params)


def test_values_out_of_range_are_refused():
    with pytest.raises(UserError, match="quantize bits is 5; allowed: 4, 8, 'fp8'"):
        dataclasses.replace(quantize(), bits=5)
    with pytest.raises(UserError, match="quantize backward_bits is 2; allowed: None, 4, 8, 'fp8'"):
        dataclasses.replace(quantize(), backward_bits=2)
