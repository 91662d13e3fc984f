"""Rules by a parameter's path, what they refuse, and what follows for the optimizer's state."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from recjax.errors import UserError
from recjax.parallel.mesh import make_mesh
from recjax.parallel.rules import like_parameters, parameter_specs, shardings

RULES = (
    (r"(^|/)mlp/dense_0/kernel$", P(None, "model")),
    (r"(^|/)mlp/dense_0/bias$", P("model")),
    (r"(^|/)dense_\d+/kernel$", P("model", None)),
    (r"bias$", P()),
    (r"table$", P()),
)
PARAMS = {
    "mlp": {
        "dense_0": {"kernel": jnp.zeros((6, 12)), "bias": jnp.zeros(12)},
        "dense_1": {"kernel": jnp.zeros((12, 5)), "bias": jnp.zeros(5)},
    },
    "items": {"table": jnp.zeros((40, 8))},
}


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return make_mesh({"data": 4, "model": 2})


def specs(params: Any, mesh: Mesh, *, fully_sharded: bool = False) -> dict[str, P]:
    return parameter_specs(params, RULES, mesh, "Tiny", fully_sharded=fully_sharded)


def test_the_first_rule_that_is_found_in_the_path_counts(mesh: Mesh):
    assert specs(PARAMS, mesh) == {
        "mlp/dense_0/kernel": P(None, "model"),
        "mlp/dense_0/bias": P("model"),
        "mlp/dense_1/kernel": P("model", None),
        "mlp/dense_1/bias": P(),
        "items/table": P(),
    }


def test_shapes_serve_as_well_as_arrays(mesh: Mesh):
    shapes = jax.eval_shape(lambda: PARAMS)
    assert specs(shapes, mesh) == specs(PARAMS, mesh)


def test_a_parameter_without_a_rule_names_the_rule_to_add(mesh: Mesh):
    with pytest.raises(UserError) as raised:
        specs({**PARAMS, "gate.x": {"scale": jnp.zeros(3)}}, mesh)
    message = str(raised.value)
    assert message.startswith("no sharding rule of Tiny covers the parameter gate.x/scale; its rules: ")
    assert message.endswith(r"add one to TinyConfig.sharding_rules(), as in (r'gate\.x/scale$', PartitionSpec())")
    assert "\n" not in message
    assert all(repr(pattern) in message for pattern, _ in RULES)


def test_a_model_without_rules_says_so(mesh: Mesh):
    with pytest.raises(UserError, match="its rules: none; add one to TinyConfig"):
        parameter_specs({"x": jnp.zeros(2)}, (), mesh, "Tiny", fully_sharded=False)


def test_an_axis_that_does_not_divide_names_the_sizes_that_do():
    mesh = make_mesh({"data": 1, "model": 8})
    with pytest.raises(UserError) as raised:
        specs(PARAMS, mesh)
    assert str(raised.value) == (
        "model=8 does not divide mlp/dense_0/bias of Tiny, whose shape is [12]: 12 cannot be split evenly; "
        "allowed model sizes below it: 1, 2, 3, 4, 6"
    )


def test_fully_sharded_splits_the_longest_axis_that_is_free_and_divides(mesh: Mesh):
    params = {
        **PARAMS,
        "long": {"bias": jnp.zeros((8, 16, 30))},  # 30 is longest, and 4 does not divide it
        "odd": {"bias": jnp.zeros((3, 5))},
        "one": {"bias": jnp.zeros(())},
    }
    assert specs(params, mesh, fully_sharded=True) == {
        "mlp/dense_0/kernel": P(None, "model"),  # 4 divides neither 6 nor half of 12
        "mlp/dense_0/bias": P("model"),
        "mlp/dense_1/kernel": P("model", None),  # nor 5
        "mlp/dense_1/bias": P(None),
        "items/table": P("data", None),
        "long/bias": P(None, "data", None),
        "odd/bias": P(None, None),
        "one/bias": P(),
    }


def test_fully_sharded_leaves_the_axis_that_the_model_splits(mesh: Mesh):
    params = {"mlp": {"dense_0": {"kernel": jnp.zeros((8, 64))}, "dense_1": {"kernel": jnp.zeros((64, 12))}}}
    found = specs(params, mesh, fully_sharded=True)
    assert found == {"mlp/dense_0/kernel": P("data", "model"), "mlp/dense_1/kernel": P("model", "data")}


def test_fully_sharded_splits_on_where_nothing_else_divides():
    params = {"mlp": {"dense_0": {"kernel": jnp.zeros((5, 64))}}}
    assert specs(params, make_mesh({"data": 4, "model": 2}), fully_sharded=True) == {
        "mlp/dense_0/kernel": P(None, ("model", "data"))
    }
    assert specs(params, make_mesh({"data": 8}), fully_sharded=True) == {"mlp/dense_0/kernel": P(None, "data")}


@pytest.mark.parametrize("name", ["kernel", "state_kernel", "table"])
def test_what_stands_in_the_place_of_a_kernel_or_table_is_whole(mesh: Mesh, name: str):
    # As after a factorization or a compression of tables: no rule knows its parts, none needs to.
    params = {"mlp": {"dense_0": {name: {"down": jnp.zeros((6, 3)), "up": jnp.zeros((3, 12))}}}}
    assert set(specs(params, mesh).values()) == {P()}


def test_shardings_put_a_share_on_each_device(mesh: Mesh):
    placed = shardings({"a": P(None, "model"), "b": {"c": P()}}, mesh)
    assert placed == {"a": NamedSharding(mesh, P(None, "model")), "b": {"c": NamedSharding(mesh, P())}}
    assert placed["a"].shard_shape((6, 12)) == (6, 6)


def test_an_optimizers_state_is_split_as_its_parameters(mesh: Mesh):
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.masked(optax.scale(2.0), {"mlp": True, "items": False}),
        optax.adam(1e-3),
    )
    state = jax.eval_shape(optimizer.init, PARAMS)
    of_params = specs(PARAMS, mesh, fully_sharded=True)
    found = like_parameters(state, of_params, shapes_of(PARAMS))
    assert jax.tree.structure(found) == jax.tree.structure(state)
    adam = found[2][0]
    assert adam.count == P()
    for moment in (adam.mu, adam.nu):
        assert moment["mlp"]["dense_0"] == {"kernel": P(None, "model"), "bias": P("model")}
        assert moment["items"]["table"] == P("data", None)


def test_state_of_another_shape_than_its_parameter_is_whole(mesh: Mesh):
    # Adafactor keeps a row's and a column's means of the squares of large matrices.
    params = {"mlp": {"dense_0": {"kernel": jnp.zeros((128, 256))}}}
    optimizer = optax.scale_by_factored_rms(min_dim_size_to_factor=128)
    found = like_parameters(jax.eval_shape(optimizer.init, params), specs(params, mesh), shapes_of(params))
    assert found.v_row["mlp"]["dense_0"]["kernel"] == found.v_col["mlp"]["dense_0"]["kernel"] == P()


def test_state_of_parameters_given_by_path(mesh: Mesh):
    # As row updates hand the dense parameters to their optimizer.
    flat = {"mlp/dense_0/kernel": jnp.zeros((6, 12)), "mlp/dense_0/bias": jnp.zeros(12)}
    state = jax.eval_shape(optax.adam(1e-3).init, flat)
    found = like_parameters(
        state, specs(PARAMS, mesh), {path: leaf.shape for path, leaf in flat.items()} | shapes_of(PARAMS)
    )
    assert found[0].mu == {"mlp/dense_0/kernel": P(None, "model"), "mlp/dense_0/bias": P("model")}


def test_a_name_within_another_is_not_taken_for_it():
    found = like_parameters(
        {"mu": {"a": {"table": jnp.zeros((4, 2))}, "table": jnp.zeros((4, 2)), "untable": jnp.zeros((4, 2))}},
        {"a/table": P("data", None), "table": P(None, "model")},
        {"a/table": (4, 2), "table": (4, 2)},
    )
    assert found == {"mu": {"a": {"table": P("data", None)}, "table": P(None, "model"), "untable": P()}}


def shapes_of(params: Any) -> dict[str, tuple[int, ...]]:
    flat = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(key.key for key in path): leaf.shape for path, leaf in flat}
