"""Every option of `quantize`, with both libraries: what is stored, what the program multiplies, and that both agree."""

import collections
import dataclasses
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_variables import random_variables

from recjax.config import Experiment
from recjax.data.labelled import LabelledData
from recjax.data.next_item import NextItemData
from recjax.errors import UserError
from recjax.evaluation import Quality
from recjax.models.gru4rec import GRU4RecConfig
from recjax.training.final_model import FinalModel, load_final_model
from recjax.training.fit import FitResult
from recjax.training.optimizer import make_optimizer
from recjax.training.pipeline import finalize, train
from recjax.training.step import init_state, make_train_step
from recjax.transforms.paths import flatten, set_path
from recjax.transforms.protocol import Mode, chain
from recjax.transforms.quantize import Quantize, quantize
from recjax.transforms.quantized_dots import library, pack, unpack

BACKENDS = ("aqt", "qwix")
INT8 = ("i8", "i8", "i32")
FLOAT = ("f32", "f32", "f32")
FP8 = ("f8E4M3FN", "f8E4M3FN", "f32")


def dots(score: Any, *arguments: Any) -> collections.Counter[tuple[str, str, str]]:
    """Returns how often the lowered program has a dot of each (lhs, rhs, result)."""
    text = jax.jit(score).lower(*arguments).as_text()
    types = r"dot_general.*: \(tensor<(?:\d+x)*(\w+)>, tensor<(?:\d+x)*(\w+)>\) -> tensor<(?:\d+x)*(\w+)>"
    return collections.Counter(re.findall(types, text))


@pytest.fixture(scope="module")
def batch(labelled: LabelledData) -> Any:
    return next(labelled.eval_batches("valid", 16))


def final_dlrm(experiment: Experiment, data: LabelledData, params: Any, rule: Quantize) -> FinalModel:
    return finalize(dataclasses.replace(experiment, transforms=(rule,)), data, params)


def evaluated(model: FinalModel, params: Any, batch: Any) -> np.ndarray:
    """Returns what validation saw in training: float parameters, rounded on the fly."""
    module = model.transform.intercept(model.config.build(model.schema), Mode.EVALUATE)
    return np.asarray(jax.jit(module.apply)({"params": params}, batch))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("options", "stored", "product", "step"),
    [
        ({}, {"values": "int8"}, INT8, 1 / 127 + 1 / 127),
        ({"bits": 4}, {"packed": "int8"}, INT8, 1 / 7 + 1 / 127),
        ({"bits": "fp8"}, {"values": "float8_e4m3fn"}, FP8, 2**-4 + 2**-4),
        ({"per_tensor": True}, {"values": "int8"}, INT8, 1 / 127 + 1 / 127),
        ({"weight_only": True}, {"values": "int8"}, FLOAT, 1 / 127),
        ({"bits": 4, "weight_only": True}, {"packed": "int8"}, FLOAT, 1 / 7),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) and "values" not in value and "packed" not in value else "",
)
def test_what_is_stored_multiplied_and_answered(
    backend: str,
    options: dict[str, Any],
    stored: dict[str, str],
    product: tuple[str, str, str],
    step: float,
    dlrm_experiment: Experiment,
    labelled: LabelledData,
    dlrm_params: Any,
    batch: Any,
):
    model = final_dlrm(dlrm_experiment, labelled, dlrm_params, Quantize(backend=backend, **options))
    flat = flatten(model.variables["params"])
    kernels = [path for path in flat if path.endswith(("/values", "/packed"))]
    assert len(kernels) == 8
    for path in kernels:
        layer, _, part = path.rpartition("/")
        assert {part: str(flat[path].dtype)} == stored
        assert flat[f"{layer}/scale"].shape == (1, 1 if "per_tensor" in options else flat[path].shape[1])
        n_inputs = flatten(dlrm_params)[layer].shape[0]
        assert flat[path].shape[0] == (-(-n_inputs // 2) if part == "packed" else n_inputs)
    counted = dots(model.score, model.variables, batch)
    assert counted == (collections.Counter({product: 8}) + collections.Counter({FLOAT: 1}))  # the logit stays float
    served = np.asarray(jax.jit(model.score)(model.variables, batch))
    np.testing.assert_array_equal(served, evaluated(model, dlrm_params, batch))
    plain = np.asarray(jax.jit(model.config.build(labelled.schema).apply)({"params": dlrm_params}, batch))
    # Eight layers, each rounding weights and (unless they stay float) activations by at most this share of the largest.
    np.testing.assert_allclose(served, plain, atol=8 * step * np.abs(plain).max())
    assert (served != plain).any()


def test_four_bit_activations_run_in_bytes_with_aqt(
    dlrm_experiment: Experiment, labelled: LabelledData, dlrm_params: Any, batch: Any
):
    rule = Quantize(bits=4, activation_bits=4)
    model = final_dlrm(dlrm_experiment, labelled, dlrm_params, rule)
    assert rule.label == "int4 (int4 activations)"
    assert dots(model.score, model.variables, batch)[INT8] == 8
    np.testing.assert_array_equal(jax.jit(model.score)(model.variables, batch), evaluated(model, dlrm_params, batch))


@pytest.mark.parametrize(
    ("bits", "activation_bits", "backward_bits", "compiles"),
    [
        (8, None, None, True),
        (8, None, 4, True),
        (8, 4, None, True),
        (8, 4, 4, False),
        (4, None, 8, True),
        (4, None, 4, False),
        (4, 4, None, False),
        ("fp8", None, "fp8", True),
    ],
)
def test_qwix_refuses_what_xla_cannot_compile_on_a_cpu_and_nothing_else(
    bits: Any, activation_bits: Any, backward_bits: Any, compiles: bool, dlrm_experiment: Experiment, dlrm_params: Any
):
    chance = {"stochastic_rounding": False} if backward_bits == "fp8" else {}
    rule = Quantize(bits=bits, activation_bits=activation_bits, backward_bits=backward_bits, backend="qwix", **chance)
    types = rule.types_of("top_mlp/dense_0")

    def loss(x: Any, kernel: Any) -> Any:  # not linear, or its gradient needs no forward product
        return (library("qwix").product(x, kernel, (((1,), (0,)), ((), ())), types, jax.random.key(0)) ** 2).sum()

    def start() -> None:
        rule.start(dlrm_experiment.model, dlrm_params, 0, dict)

    gradient = jax.jit(jax.grad(loss, (0, 1))).lower(jnp.ones((4, 8)), jnp.ones((8, 6)))
    if compiles:
        start()
        gradient.compile()
        return
    with pytest.raises(UserError, match="qwix cannot train int4 by int4 products on a CPU"):
        start()
    with pytest.raises(jax.errors.JaxRuntimeError):  # should this end, the refusal can go
        gradient.compile()


def test_qwix_refuses_attention_of_four_by_four_bits_on_a_cpu(sasrec_experiment: Experiment, trained_sasrec: FitResult):
    rule = Quantize(activation_bits=4, products=True, backend="qwix")
    types = rule.types_of_product("block_0/attention/scores")
    assert types is not None

    def loss(queries: Any, keys: Any) -> Any:
        return (library("qwix").product(queries, keys, (((2,), (2,)), ((0,), (0,))), types) ** 2).sum()

    with pytest.raises(UserError, match="qwix cannot train int4 by int4 products on a CPU"):
        rule.start(sasrec_experiment.model, trained_sasrec.params, 0, dict)
    gradient = jax.jit(jax.grad(loss, (0, 1))).lower(jnp.ones((2, 4, 8)), jnp.ones((2, 6, 8)))
    with pytest.raises(jax.errors.JaxRuntimeError):  # other shapes do compile; should this one, the refusal can go
        gradient.compile()


@pytest.mark.parametrize("backend", BACKENDS)
def test_static_scales_come_from_validation_batches_and_are_stored(
    backend: str, dlrm_experiment: Experiment, labelled: LabelledData, dlrm_params: Any, batch: Any
):
    rule = quantize(activations="static", backend=backend, calibration_batches=2)
    model = final_dlrm(dlrm_experiment, labelled, dlrm_params, rule)
    flat = flatten(model.variables["params"])
    scale = float(flat["bottom_mlp/dense_0/kernel/input_scale"])
    seen = list(labelled.eval_batches("valid", 64))[:2]
    largest = max(float(np.abs(b["dense"]).max()) for b in seen)  # what that layer reads are the dense features
    assert scale == pytest.approx(largest / 127.5, rel=1e-6)
    assert dots(model.score, model.variables, batch)[INT8] == 8
    # A program with fixed scales takes no maximum over its inputs.
    dynamic = final_dlrm(dlrm_experiment, labelled, dlrm_params, quantize(backend=backend))
    texts = [jax.jit(m.score).lower(m.variables, batch).compile().as_text() for m in (model, dynamic)]
    assert texts[0].count("maximum(") < texts[1].count("maximum(")
    served, other = (np.asarray(jax.jit(m.score)(m.variables, batch)) for m in (model, dynamic))
    np.testing.assert_allclose(served, other, atol=0.1 * np.abs(other).max())


@pytest.mark.parametrize("backend", BACKENDS)
def test_rules_choose_layers_and_bits(
    backend: str, dlrm_experiment: Experiment, labelled: LabelledData, dlrm_params: Any, batch: Any
):
    rule = Quantize(
        include=("top_mlp/.*", "cross/.*"),
        exclude=("cross/up_1",),
        layer_bits=(("top_mlp/dense_1", 4), ("cross/down_.", "fp8")),
        backend=backend,
    )
    model = final_dlrm(dlrm_experiment, labelled, dlrm_params, rule)
    assert next(iter(model.report.details.values())) == {
        "kernels": {
            "cross/down_0/kernel": "fp8",
            "cross/down_1/kernel": "fp8",
            "cross/up_0/kernel": "int8",
            "top_mlp/dense_0/kernel": "int8",
            "top_mlp/dense_1/kernel": "int4",
        }
    }
    assert dots(model.score, model.variables, batch)[INT8] == 3
    np.testing.assert_array_equal(jax.jit(model.score)(model.variables, batch), evaluated(model, dlrm_params, batch))


def test_the_logit_layer_is_quantized_if_asked(
    dlrm_experiment: Experiment, labelled: LabelledData, dlrm_params: Any, batch: Any
):
    model = final_dlrm(dlrm_experiment, labelled, dlrm_params, quantize(logits=True))
    assert dots(model.score, model.variables, batch) == {INT8: 9}
    np.testing.assert_array_equal(jax.jit(model.score)(model.variables, batch), evaluated(model, dlrm_params, batch))


@pytest.mark.parametrize("backend", BACKENDS)
def test_products_of_attention_are_quantized_if_asked(
    backend: str, sasrec_experiment: Experiment, next_item: NextItemData, trained_sasrec: FitResult
):
    experiment = dataclasses.replace(sasrec_experiment, transforms=(quantize(products=True, backend=backend),))
    model = finalize(experiment, next_item, trained_sasrec.params)
    batch = next(next_item.eval_batches("valid", 16))
    assert dots(model.score, model.variables, batch) == {INT8: 6 + 2, FLOAT: 1}  # the catalogue's
    plain = jax.jit(model.config.build(model.schema).apply)({"params": trained_sasrec.params}, batch)
    scores = jax.jit(model.score)(model.variables, batch)
    np.testing.assert_allclose(scores, plain, atol=0.1 * np.abs(plain).max())
    np.testing.assert_array_equal(scores, evaluated(model, trained_sasrec.params, batch))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_recurrent_states_are_quantized_if_asked(
    backend: str, cell: Any, sasrec_experiment: Experiment, next_item: NextItemData
):
    config = GRU4RecConfig(embedding_dim=8, units=(12,), cell=cell)
    batch = next(next_item.eval_batches("valid", 16))
    params = random_variables(config.build(next_item.schema), next(next_item.train_batches(4, 0, 1)))["params"]
    experiment = dataclasses.replace(sasrec_experiment, model=config, transforms=(quantize(backend=backend),))
    inputs_alone = finalize(experiment, next_item, params)
    both = finalize(
        dataclasses.replace(experiment, transforms=(quantize(states=True, backend=backend),)), next_item, params
    )
    assert set(both.report.details["int8 (states)" if backend == "aqt" else "int8 (qwix, states)"]["kernels"]) == {
        "layer_0/input/kernel",
        "layer_0/state_kernel",
        "project/kernel",
    }
    counts = [dots(model.score, model.variables, batch)[INT8] for model in (inputs_alone, both)]
    assert counts == [2, 3]
    np.testing.assert_array_equal(jax.jit(both.score)(both.variables, batch), evaluated(both, params, batch))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("stochastic", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("backward", [8, "fp8"])
def test_training_with_narrow_gradients_learns(
    backend: str,
    stochastic: bool,
    backward: Any,
    dlrm_experiment: Experiment,
    labelled: LabelledData,
    dlrm_params: Any,
):
    if backward == "fp8" and backend == "qwix" and stochastic:
        pytest.skip("Qwix rounds them to the nearest")
    rule = quantize(
        "fp8" if backward == "fp8" else 8, backward_bits=backward, stochastic_rounding=stochastic, backend=backend
    )
    batch = next(labelled.train_batches(32, 0, 1))
    module = chain(rule).intercept(dlrm_experiment.model.build(labelled.schema), Mode.TRAIN)
    assert module.dots.needs_key == stochastic
    optimizer = make_optimizer(dlrm_experiment.training, chain(rule), dlrm_experiment.model, 10)
    step = make_train_step(module, optimizer, 0)
    # Both backward dots of every kernel, but for the input gradient of the first layer, which nothing needs.
    counted = dots(step, init_state(dlrm_params, optimizer), batch)
    narrow = sum(n for types, n in counted.items() if types[0] == types[1] != "f32")
    # AQT takes the incoming gradient as e5m2 and the other operand as e5m2 too; Qwix keeps the other as e4m3.
    mixed = sum(n for types, n in counted.items() if types[0] != types[1])
    assert narrow + mixed >= 3 * 8 - 1
    state, losses = init_state(dlrm_params, optimizer), []
    for _ in range(10):
        state, loss = step(state, batch)
        losses.append(float(loss))
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("bits", [4, "fp8"])
def test_narrow_values_survive_a_checkpoint_bit_for_bit(
    bits: Any, dlrm_experiment: Experiment, labelled: LabelledData, dlrm_params: Any, batch: Any, tmp_path: Path
):
    experiment = dataclasses.replace(dlrm_experiment, transforms=(quantize(bits),))
    model = finalize(experiment, labelled, dlrm_params)
    model.save(tmp_path / "model", experiment, Quality("toy/test", {"auc": 0.5}, 30, {}))
    loaded = load_final_model(tmp_path / "model", experiment, labelled)
    original, restored = flatten(model.variables), flatten(loaded.variables)
    assert {p: (x.dtype, x.shape) for p, x in original.items()} == {p: (x.dtype, x.shape) for p, x in restored.items()}
    scores = (jax.jit(m.score)(m.variables, batch) for m in (model, loaded))
    np.testing.assert_array_equal(*scores)


def test_rounding_after_training_leaves_training_as_it_is(
    dlrm_experiment: Experiment, labelled: LabelledData, dlrm_params: Any
):
    after = chain(quantize(when="after"))
    assert not after.trains
    module = dlrm_experiment.model.build(labelled.schema)
    assert after.intercept(module, Mode.TRAIN) is module
    frozen, trained = (
        final_dlrm(dlrm_experiment, labelled, dlrm_params, quantize(when=when)) for when in ("after", "training")
    )
    jax.tree.map(np.testing.assert_array_equal, frozen.variables, trained.variables)  # from the same parameters


def test_a_training_run_with_rules_starts_and_ends(dlrm_experiment: Experiment, labelled: LabelledData):
    rule = quantize(4, backward_bits=8, exclude=("cross/.*",))
    experiment = dataclasses.replace(
        dlrm_experiment,
        training=dataclasses.replace(dlrm_experiment.training, epochs=1),
        transforms=(rule,),
    )
    result = train(experiment, labelled)
    model = finalize(experiment, labelled, result.params)
    assert set(model.report.details[rule.label]["kernels"].values()) == {"int4"}
    assert rule.label == "int4 (int8 backward, some layers)"


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_packing_is_undone_by_unpacking(n_inputs: int, n_outputs: int, seed: int):
    values = np.random.default_rng(seed).integers(-8, 8, (n_inputs, n_outputs)).astype(np.int8)
    packed = pack(jnp.asarray(values))
    assert packed.nbytes == -(-n_inputs // 2) * n_outputs
    np.testing.assert_array_equal(unpack(packed, n_inputs), values)


def test_packing_by_hand():
    packed = pack(jnp.array([[1], [-2], [7]], jnp.int8))  # rows 0 and 2 share a byte, row 1 and padding the other
    np.testing.assert_array_equal(np.asarray(packed).view(np.uint8), [[0x71], [0x0E]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": [8]}, r"quantize bits is \[8\]; allowed: 4, 8, 'fp8'"),
        ({"bits": 8.0}, "quantize bits is 8.0; allowed: 4, 8, 'fp8'"),
        ({"backward_bits": [8]}, r"quantize backward_bits is \[8\]; allowed: None, 4, 8, 'fp8'"),
        ({"bits": 3}, "quantize bits is 3; allowed: 4, 8, 'fp8'"),
        ({"activation_bits": 16}, "quantize activation_bits is 16; allowed: None, 4, 8, 'fp8'"),
        ({"backend": "aqtt"}, "Quantize.backend 'aqtt'"),
        ({"layer_bits": (("a", 2),)}, "quantize layer_bits of 'a' is 2; allowed: 4, 8, 'fp8'"),
        ({"include": ("(",)}, r"quantize pattern '\(' is no regular expression"),
        ({"when": "after", "backward_bits": 8}, "quantize backward_bits with when='after' is 8; allowed: None"),
        ({"activations": "static", "weight_only": True}, "quantize activations with weight_only is 'static'"),
        ({"calibration_batches": 0}, "quantize calibration_batches is 0; allowed: >= 1"),
        ({"calibration_batches": 9}, "quantize calibration_batches of dynamic activations is 9; allowed: 4"),
        ({"weight_only": True, "activation_bits": 8}, "quantize activation_bits with weight_only is 8; allowed: None"),
        ({"weight_only": True, "products": True}, "quantize products with weight_only is True; allowed: False"),
        ({"stochastic_rounding": False}, "quantize stochastic_rounding without backward_bits is False; allowed: True"),
        (
            {"bits": "fp8", "backward_bits": "fp8", "backend": "qwix"},
            "quantize stochastic_rounding of fp8 gradients by qwix is True; allowed: False",
        ),
        (
            {"bits": "fp8", "activation_bits": 8},
            "quantize activation_bits beside weights of 'fp8' is 8; allowed: None, or integers beside integers",
        ),
        ({"activation_bits": "fp8"}, "quantize activation_bits beside weights of 8 is 'fp8'"),
        (
            {"activation_bits": 8, "layer_bits": (("top_mlp/.*", "fp8"),)},
            "quantize activation_bits beside weights of 8 is 8; allowed: None, or .* in every layer",
        ),
        ({"backward_bits": "fp8", "backend": "qwix"}, "quantize backward_bits of qwix beside weights of 8 is 'fp8'"),
        (
            {"weight_only": True, "backward_bits": 8, "backend": "qwix"},
            "quantize backward_bits of qwix with weight_only is 8; allowed: None",
        ),
    ],
)
def test_unusable_options_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        Quantize(**options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bits", [8, "fp8"])
def test_inputs_that_were_zero_in_calibration_have_a_scale(
    bits: Any, backend: str, dlrm_experiment: Experiment, labelled: LabelledData, dlrm_params: Any, batch: Any
):
    never = set_path(dlrm_params, "top_mlp/dense_0/bias", jnp.full(16, -1e6))  # no unit of the layer ever fires
    rule = quantize(bits, activations="static", backend=backend)
    model = final_dlrm(dlrm_experiment, labelled, never, rule)
    assert flatten(model.variables["params"])["top_mlp/dense_1/kernel/input_scale"] == 1
    plain = jax.jit(model.config.build(labelled.schema).apply)({"params": never}, batch)
    np.testing.assert_allclose(jax.jit(model.score)(model.variables, batch), plain, atol=0.05 * np.abs(plain).max())


def test_rules_choose_products_of_attention(
    sasrec_experiment: Experiment, next_item: NextItemData, trained_sasrec: FitResult
):
    batch = next(next_item.eval_batches("valid", 16))

    def answered(**options: Any) -> tuple[collections.Counter, np.ndarray]:
        experiment = dataclasses.replace(sasrec_experiment, transforms=(quantize(**options),))
        model = finalize(experiment, next_item, trained_sasrec.params)
        return dots(model.score, model.variables, batch), np.asarray(jax.jit(model.score)(model.variables, batch))

    counts, _ = answered(products=True, exclude=("block_0/attention/scores",))
    assert counts == {INT8: 6 + 1, FLOAT: 1 + 1}  # the catalogue's and the scores'
    counts, _ = answered(products=True, include=("block_0/attention/(query|values)",))
    assert counts == {INT8: 1 + 1, FLOAT: 1 + 5 + 1}
    counts, _ = answered(products=True, include=("block_0/attention/(scores|values)",))
    assert counts == {INT8: 2, FLOAT: 6 + 1}
    counts, eight = answered(products=True)
    counts_4, four = answered(products=True, layer_bits=(("block_0/attention/values", "fp8"),))
    assert counts[FP8] == 0
    assert counts_4[FP8] == 1
    assert (eight != four).any()


def test_products_that_do_not_exist_are_refused(
    sasrec_experiment: Experiment, next_item: NextItemData, dlrm_experiment: Experiment, labelled: LabelledData
):
    def start(experiment: Experiment, data: Any, **options: Any) -> None:
        train(dataclasses.replace(experiment, transforms=(quantize(**options),)), data)

    with pytest.raises(UserError, match=r"quantize\(products=True\) finds no product .* DLRMDCNv2Config.*: none"):
        start(dlrm_experiment, labelled, products=True)
    with pytest.raises(UserError, match=r"none that include and exclude leave; .*: block_0/attention/scores, block_0/"):
        start(sasrec_experiment, next_item, products=True, exclude=("block_0/attention/(scores|values)",))
    with pytest.raises(UserError, match=r"'block_0/attention/scores' matches no layer of SASRecConfig"):
        start(sasrec_experiment, next_item, exclude=("block_0/attention/scores",))
    scores = "block_0/attention/scores"
    with pytest.raises(UserError, match=rf"'{scores}' matches only layers that are left out: by include and exclude"):
        start(sasrec_experiment, next_item, products=True, exclude=(scores,), layer_bits=((scores, 4),))
    with pytest.raises(UserError, match=r"'logit' matches only layers that are left out: .*logits=True"):
        start(dlrm_experiment, labelled, layer_bits=(("logit", 4),))


@pytest.mark.parametrize(
    ("backend", "bits"), [("aqt", 8), ("aqt", 4), ("aqt", "fp8"), ("qwix", 8), pytest.param("qwix", 4)]
)
def test_gradients_rounded_by_chance_are_right_on_average(backend: str, bits: Any):
    rule = Quantize(bits="fp8" if bits == "fp8" else 8, backward_bits=bits, backend=backend)
    keys = jax.random.split(jax.random.key(1), 3)
    x, kernel, incoming = (jax.random.normal(keys[i], shape) for i, shape in enumerate([(16, 32), (32, 16), (16, 16)]))

    @jax.jit
    def gradients(x: Any, kernel: Any, incoming: Any, key: Any) -> Any:
        def product(x: Any, kernel: Any) -> Any:
            return library(backend).product(x, kernel, (((1,), (0,)), ((), ())), rule.types_of("layer"), key)

        return jax.vjp(product, x, kernel)[1](incoming)

    kernel_OI, x_IB = gradients(x, kernel, jnp.eye(16), keys[0])  # the other operand of each product, as it is rounded
    many = jax.vmap(lambda key: gradients(x, kernel, incoming, key))(jax.random.split(keys[0], 300))
    for found, exact in zip(many, (incoming @ kernel_OI, x_IB @ incoming), strict=True):
        assert (found[0] != found[1]).any()  # the key decides
        errors = jnp.linalg.norm(found - exact[None], axis=(1, 2))
        # Of ones, the integers' bound of 127.5 (or 7.5) makes a little less: a bias that no average takes away.
        assert jnp.linalg.norm(found.mean(0) - exact) < 0.6 * jnp.median(errors)


def test_fp8_gradients_are_rounded_to_the_nearest_by_qwix():
    types = Quantize(bits="fp8", backward_bits="fp8", stochastic_rounding=False, backend="qwix").types_of("layer")
    chance = dataclasses.replace(types, stochastic_rounding=True)
    x, kernel = jax.random.normal(jax.random.key(0), (8, 16)), jax.random.normal(jax.random.key(1), (16, 8))

    def gradient(types: Any, key: Any) -> Any:
        product = lambda x: (library("qwix").product(x, kernel, (((1,), (0,)), ((), ())), types, key) ** 2).sum()  # noqa: E731
        return jax.grad(product)(x)

    # Should this end, `quantize` can allow them to be rounded by chance.
    np.testing.assert_array_equal(gradient(types, None), gradient(chance, jax.random.key(2)))


@pytest.mark.parametrize("field", ["include", "exclude", "layer_bits"])
def test_a_pattern_that_matches_no_layer_is_refused_before_training(
    field: str, dlrm_experiment: Experiment, labelled: LabelledData
):
    patterns: Any = (("tpo_mlp/.*", 8),) if field == "layer_bits" else ("tpo_mlp/.*",)
    experiment = dataclasses.replace(dlrm_experiment, transforms=(Quantize(**{field: patterns}),))
    with pytest.raises(UserError, match=r"'tpo_mlp/\.\*' matches no layer of DLRMDCNv2Config; its layers: bottom_mlp/"):
        train(experiment, labelled)
