"""The sharding rules of every model of the zoo cover all of its parameters, and split what they are meant to."""

import functools
import re

import jax
import pytest
from jax.sharding import Mesh, PartitionSpec
from portable_programs import data_of, experiments

from recjax.errors import UserError
from recjax.models.sharding import BY_INPUT, BY_OUTPUT, OF_OUTPUT, WHOLE, block_rules, dense_rules, mlp_rules
from recjax.parallel.mesh import make_mesh
from recjax.parallel.rules import Rules, parameter_specs
from recjax.training.pipeline import one_batch
from recjax.training.step import init_params, is_solved
from recjax.transforms.paths import flatten

SOLVED = ("popularity", "item_knn", "ease", "ials")
TRAINED = tuple(name for name in experiments() if name not in SOLVED)


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return make_mesh({"data": 4, "model": 2})


@functools.cache
def shapes_of(name: str) -> dict[str, jax.ShapeDtypeStruct]:
    data = data_of(name)
    module = experiments()[name].model.build(data.schema)
    return flatten(jax.eval_shape(lambda: init_params(module, one_batch(data, 1), 0)))


def specs_of(name: str, mesh: Mesh, **settings: bool) -> dict[str, PartitionSpec]:
    model = experiments()[name].model
    given = {"fully_sharded": False, **settings}
    return parameter_specs(shapes_of(name), model.sharding_rules(), mesh, type(model).__name__, **given)


def first_of(rules: Rules, path: str) -> PartitionSpec | None:
    return next((spec for pattern, spec in rules if re.search(pattern, path)), None)


@pytest.mark.parametrize("name", TRAINED)
def test_every_parameter_is_covered_and_divides(name: str, mesh: Mesh):
    shapes, specs = shapes_of(name), specs_of(name, mesh)
    assert specs.keys() == shapes.keys()
    for path, spec in specs.items():
        assert len(spec) <= len(shapes[path].shape), path
        assert "data" not in spec, path  # which fully sharded training splits
        for axis, size in zip(spec, shapes[path].shape, strict=False):
            assert axis is None or size % 2 == 0


@pytest.mark.parametrize("name", TRAINED)
def test_a_bias_is_split_as_its_kernels_outputs(name: str, mesh: Mesh):
    specs = specs_of(name, mesh)
    for path, spec in specs.items():
        if path.endswith("/bias") and (kernel := specs.get(path.removesuffix("bias") + "kernel")) is not None:
            assert spec == (OF_OUTPUT if kernel == BY_OUTPUT else WHOLE), path


@pytest.mark.parametrize("name", TRAINED)
def test_tables_are_whole(name: str, mesh: Mesh):
    specs = specs_of(name, mesh)
    assert all(spec == WHOLE for path, spec in specs.items() if path.endswith("table"))


@pytest.mark.parametrize("name", TRAINED)
def test_fully_sharded_splits_all_that_has_a_free_axis(name: str, mesh: Mesh):
    shapes, by_rules, specs = shapes_of(name), specs_of(name, mesh), specs_of(name, mesh, fully_sharded=True)
    for path, spec in specs.items():
        shape = shapes[path].shape
        taken = [*by_rules[path], *[None] * (len(shape) - len(by_rules[path]))]
        free = [size for size, axis in zip(shape, taken, strict=True) if axis is None and size % 4 == 0]
        shared = [size for size, axis in zip(shape, taken, strict=True) if axis == "model" and size // 2 % 4 == 0]
        by_axis = [axis if isinstance(axis, tuple) else (axis,) for axis in spec]
        split = [size for size, axes in zip(shape, by_axis, strict=False) if "data" in axes]
        assert split == [max(free or shared)] if free or shared else not split, path
        assert ["model" if "model" in axes else None for axes in by_axis] == taken, path


@pytest.mark.parametrize("name", SOLVED)
def test_models_that_are_solved_have_no_rules(name: str):
    # They have no batches to split, and training them on several devices is refused before rules are asked for.
    model = experiments()[name].model
    assert model.sharding_rules() == ()
    assert is_solved(model.build(data_of(name).schema))


def test_which_models_split_nothing(mesh: Mesh):
    nothing = {name for name in TRAINED if set(specs_of(name, mesh).values()) == {WHOLE}}
    assert nothing == {
        "matrix_factorization",
        "bpr",
        "irgan",
        "logistic_regression",
        "lightgcn",
        "social_lightgcn",
        "cke",
    }


def test_autorec_of_100_units_on_eight_devices():
    with pytest.raises(UserError, match=r"model=8 does not divide decoder/kernel of AutoRec.*: 1, 2, 4, 5$"):
        specs_of("autorec_users", make_mesh({"data": 1, "model": 8}))


def test_a_dense_layer_by_hand():
    out, whole = dense_rules("logit", split="output"), dense_rules("logit")
    assert first_of(out, "logit/kernel") == first_of(out, "top/logit/kernel") == BY_OUTPUT
    assert first_of(out, "logit/bias") == OF_OUTPUT
    assert first_of(dense_rules("logit", split="input"), "logit/kernel") == BY_INPUT
    assert first_of(dense_rules("logit", split="input"), "logit/bias") == WHOLE
    assert first_of(whole, "logit/kernel") == first_of(whole, "logit/bias") == WHOLE
    for path in ("my_logit/kernel", "logit/kernel/down", "logit2/kernel", "logit/scale"):
        assert first_of(out, path) is None


def test_layers_of_an_mlp_alternate():
    rules = mlp_rules("mlp")
    kernels = [first_of(rules, f"mlp/dense_{i}/kernel") for i in (0, 1, 2, 3, 9, 10, 11, 20)]
    assert kernels == [BY_OUTPUT, BY_INPUT, BY_OUTPUT, BY_INPUT, BY_INPUT, BY_OUTPUT, BY_INPUT, BY_OUTPUT]
    biases = [first_of(rules, f"block_3/mlp/dense_{i}/bias") for i in (0, 1, 10)]
    assert biases == [OF_OUTPUT, WHOLE, OF_OUTPUT]
    assert first_of(rules, "other_mlp/dense_0/kernel") is None


def test_a_transformer_block_by_hand():
    found = {
        path: first_of(block_rules(), f"block_11/{path}")
        for path in (
            "attention/query/kernel",
            "attention/key/bias",
            "attention/value/kernel",
            "attention/out/kernel",
            "attention/out/bias",
            "mlp/dense_0/kernel",
            "mlp/dense_1/kernel",
            "norm_mlp/scale",
            "norm_attention/bias",
        )
    }
    assert list(found.values()) == [
        BY_OUTPUT,
        OF_OUTPUT,
        BY_OUTPUT,
        BY_INPUT,
        WHOLE,
        BY_OUTPUT,
        BY_INPUT,
        WHOLE,
        WHOLE,
    ]


def test_dlrm_dcnv2_splits_the_ranks_of_its_cross_network(mesh: Mesh):
    specs = specs_of("dlrm_dcnv2", mesh)
    assert specs["cross/down_0/kernel"] == BY_OUTPUT
    assert specs["cross/up_0/kernel"] == BY_INPUT
    assert specs["cross/up_0/bias"] == WHOLE
