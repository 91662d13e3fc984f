"""Every store of tables takes the step that whole tables take on one device."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.parallel.mesh import make_mesh
from recjax.parallel.table_exchange import TableExchange
from recjax.parallel.table_layout import Kind, lay_out, pack, unpack
from recjax.replicas import AXIS
from recjax.training.row_updates import rowwise_adagrad
from recjax.training.table_store import WHOLE_TABLES, RowStep, ShardedParams, ShardedTables, TableStore, WholeTables

SIZES = {"fields/user/table": (21, 8), "fields/item/table": (12, 8)}
KINDS: dict[str, Kind] = {"fields/user/table": "row_wise", "fields/item/table": "column_wise"}
SHAPES = {"fields/user/table": [(16,), (8, 3)], "fields/item/table": [(16,)]}  # of each lookup
RULE, SCALE = rowwise_adagrad(), 0.25


class Given(NamedTuple):
    params: Any
    slots: Any  # by table and name
    ids: Any
    grads: Any


class Done(NamedTuple):
    rows: Any
    squares: jax.Array
    tables: Any
    slots: Any


@pytest.fixture(scope="module")
def given() -> Given:
    rng = np.random.default_rng(0)
    tables = {path: jnp.asarray(rng.normal(size=shape), jnp.float32) for path, shape in SIZES.items()}
    ids = {
        path: [jnp.asarray(rng.integers(SIZES[path][0], size=shape), jnp.int32) for shape in SHAPES[path]]
        for path in SIZES
    }
    grads = {path: [jnp.asarray(rng.normal(size=(*i.shape, 8)), jnp.float32) for i in ids[path]] for path in ids}
    params = {
        "fields": {"user": {"table": tables["fields/user/table"]}, "item": {"table": tables["fields/item/table"]}},
        "logit": {"bias": jnp.ones(3)},
    }
    return Given(
        params, {path: {"sum_of_squares": jnp.full(len(table), 0.5)} for path, table in tables.items()}, ids, grads
    )


def take_step(store: TableStore, stored: Any, slots: Any, ids: Any, grads: Any) -> Done:
    rows, kept = store.read(stored, ids)
    squares = store.squared_norm(stored, ids, kept, grads)
    step = RowStep(RULE, jnp.int32(3), 0.1, SCALE)
    return Done(rows, squares, *store.update(stored, slots, ids, kept, grads, step))


@pytest.fixture(scope="module")
def on_one_device(given: Given) -> Done:
    stored, _, _ = WHOLE_TABLES.split(given.params)
    return jax.jit(lambda *arguments: take_step(WHOLE_TABLES, *arguments))(stored, *given[1:])


@pytest.fixture(scope="module")
def sharded(given: Given) -> ShardedTables:
    layout = lay_out(make_mesh({"data": 4, "model": 2}), SIZES, KINDS, {})
    return ShardedTables(TableExchange(layout), jax.eval_shape(lambda: given.params))


def check_close(found: Any, expected: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_whole_tables_by_hand():
    table = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    ids, grads = {"t/table": [jnp.array([2, 0, 2])]}, {"t/table": [jnp.array([[1.0, 1.0], [0.0, 0.0], [3.0, 1.0]])]}
    slots = {"t/table": {"sum_of_squares": jnp.zeros(3)}}
    done = jax.jit(lambda *arguments: take_step(WHOLE_TABLES, *arguments))({"t/table": table}, slots, ids, grads)
    assert done.rows["t/table"][0].tolist() == [[5, 6], [1, 2], [5, 6]]
    assert done.squares == 4**2 + 2**2
    # The gradient (4, 2) is multiplied by a quarter: its mean square is (1 + 0.25) / 2.
    assert done.slots["t/table"]["sum_of_squares"].tolist() == [0, 0, 0.625]
    expected = [[1, 2], [3, 4], [5 - 0.1 / 0.625**0.5, 6 - 0.05 / 0.625**0.5]]
    np.testing.assert_allclose(done.tables["t/table"], expected, rtol=1e-6)


def test_sharded_tables_take_the_same_step(given: Given, sharded: ShardedTables, on_one_device: Done):
    layout = sharded.exchange.layout

    @jax.jit
    def step(tables: Any, sums: Any, ids: Any, grads: Any) -> Done:
        done = take_step(sharded, pack(layout, tables), {"sum_of_squares": pack(layout, sums)}, ids, grads)
        slots = unpack(layout, done.slots["sum_of_squares"])
        by_table = {path: {"sum_of_squares": slot} for path, slot in slots.items()}
        return done._replace(tables=unpack(layout, done.tables), slots=by_table)

    tables, _, _ = WHOLE_TABLES.split(given.params)
    sums = {path: slots["sum_of_squares"] for path, slots in given.slots.items()}
    check_close(step(tables, sums, given.ids, given.grads), on_one_device)


def test_replicas_take_the_same_step(given: Given, on_one_device: Done):
    # A replica's gradient is that of all replicas' losses, which are equal: four times its own samples' part.
    n, store = 4, WholeTables(in_replicas=True)
    parts, of_parts = jax.tree.map(lambda one: one.reshape(n, -1, *one.shape[1:]), (given.ids, given.grads))
    grads = jax.tree.map(lambda one: n * one, of_parts)
    mapped = jax.pmap(
        lambda *arguments: take_step(store, *arguments),
        axis_name=AXIS,
        in_axes=(None, None, 0, 0),
        devices=jax.devices()[:n],
    )
    done = mapped(WHOLE_TABLES.split(given.params)[0], given.slots, parts, grads)
    rows = jax.tree.map(lambda part, whole: part.reshape(whole.shape), done.rows, on_one_device.rows)
    for replica in range(n):
        of_replica = jax.tree.map(lambda one, replica=replica: one[replica], done._replace(rows=None))
        check_close(of_replica._replace(rows=rows), on_one_device)


@pytest.mark.parametrize("store", ["whole", "sharded"])
def test_parameters_are_split_and_joined_again(store: str, given: Given, sharded: ShardedTables):
    params: Any = given.params
    chosen: TableStore = WHOLE_TABLES
    if store == "sharded":
        chosen = sharded
        params = ShardedParams(
            pack(sharded.exchange.layout, WHOLE_TABLES.split(params)[0]), {"logit/bias": jnp.ones(3)}
        )
    stored, others, traced = chosen.split(params)
    assert others.keys() == {"logit/bias"}
    assert {path: table.shape for path, table in traced.items()} == SIZES
    joined = chosen.join(params, jax.tree.map(lambda leaf: leaf + 1, stored), {"logit/bias": jnp.zeros(3)})
    assert type(joined) is type(params)
    again, others, _ = chosen.split(joined)
    jax.tree.map(np.testing.assert_array_equal, again, jax.tree.map(lambda leaf: leaf + 1, stored))
    assert others["logit/bias"].tolist() == [0, 0, 0]
    nested = chosen.nested(params, {**traced, **others})
    assert jax.tree.map(np.shape, nested) == jax.tree.map(np.shape, given.params)
    assert nested["logit"]["bias"].tolist() == [0, 0, 0]


def test_stores_are_stores(sharded: ShardedTables):
    assert isinstance(WHOLE_TABLES, TableStore)
    assert isinstance(sharded, TableStore)
