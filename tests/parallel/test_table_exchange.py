"""Lookups and updates of tables on eight devices against row updates of whole tables on one.

And what the compiled programs send: the ids and the rows that are asked for, and never anything of a table's size.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recjax.hardware.collectives import Collective, collectives
from recjax.parallel.mesh import make_mesh
from recjax.parallel.table_exchange import OverColumns, TableExchange
from recjax.parallel.table_layout import KINDS, Kind, TableLayout, lay_out, pack, unpack
from recjax.training.row_updates import (
    RowUpdate,
    Slots,
    combine_duplicates,
    lazy_adam,
    rowwise_adagrad,
    sgd,
    update_rows,
)

S, RATE = 8, 0.5
RULES: dict[str, Callable[[], RowUpdate]] = {"sgd": sgd, "rowwise_adagrad": rowwise_adagrad, "lazy_adam": lazy_adam}
MESHES = {"8x1": {"data": 8}, "4x2": {"data": 4, "model": 2}}

TABLES = {"rows": (21, 8), "hot": (30, 8), "columns": (12, 8), "copied": (9, 8), "one": (10, 8)}
KIND_OF: dict[str, Kind] = {
    "rows": "row_wise",
    "hot": "row_wise",
    "columns": "column_wise",
    "copied": "replicated",
    "one": "table_wise",
}
HOT = {"hot": [0, 5, 6, 29]}
# Of each lookup; few of their sizes are multiples of 8, and most rows are looked up on several devices.
SHAPES = {"rows": [(13,), (16, 2)], "hot": [(24,), (3,)], "columns": [(5, 3)], "copied": [(8,), (7,)], "one": [(16,)]}

Lookups = dict[str, list[Any]]
Tables = Mapping[str, Any]


class Batch(NamedTuple):
    ids: Lookups
    grads: Lookups  # of the rows; all zeros where the id is a multiple of 5


def batch_of(shapes: Mapping[str, list[tuple[int, ...]]], tables: Mapping[str, tuple[int, int]], seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    ids = {
        path: [rng.integers(tables[path][0], size=shape).astype(np.int32) for shape in shapes[path]] for path in shapes
    }
    grads = {
        path: [
            rng.normal(size=(*i.shape, tables[path][1])).astype(np.float32) * (i % 5 != 0)[..., None] for i in ids[path]
        ]
        for path in ids
    }
    return Batch(ids, grads)


def drawn_tables(tables: Mapping[str, tuple[int, int]]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {path: rng.normal(size=shape).astype(np.float32) for path, shape in tables.items()}


def exchange_step(exchange: TableExchange, rule: RowUpdate) -> Callable:
    """Returns (tables, slots, batch, step), all of them in whole shapes -> (rows, tables, slots)."""
    layout = exchange.layout

    def step(tables: Any, slots: Any, batch: Batch, number: jax.Array) -> tuple[Any, ...]:
        def update(table: jax.Array, slots: Slots, ids: jax.Array, grads: jax.Array, over: OverColumns) -> Any:
            gradient = combine_duplicates([ids], [grads], len(table) + 1, over)
            return update_rows(rule, table, slots, gradient, number, RATE, over)

        packed, of_slots = pack(layout, tables), {name: pack(layout, slot) for name, slot in slots.items()}
        found = exchange.look_up(packed, batch.ids)
        packed, of_slots = exchange.update(packed, of_slots, batch.ids, found.routes, batch.grads, update)
        return found.rows, unpack(layout, packed), {name: unpack(layout, slot) for name, slot in of_slots.items()}

    return step


def one_device_step(rule: RowUpdate, tables: Any, slots: Any, batch: Batch, number: jax.Array) -> tuple[Any, ...]:
    """Returns what an `exchange_step` returns, by whole tables."""
    rows = {path: [tables[path][i] for i in of_table] for path, of_table in batch.ids.items()}
    new_tables, new_slots = dict(tables), {name: dict(slot) for name, slot in slots.items()}
    for path, ids in batch.ids.items():
        gradient = combine_duplicates(ids, batch.grads[path], len(tables[path]))
        of_table = {name: slots[name][path] for name in slots}
        new_tables[path], of_table = update_rows(rule, tables[path], of_table, gradient, number, RATE)
        for name in slots:
            new_slots[name][path] = of_table[name]
    return rows, new_tables, new_slots


def check_steps(layout: TableLayout, rule: RowUpdate, shapes: Mapping[str, list[tuple[int, ...]]], n: int = 2) -> None:
    """Asserts that `n` steps on the layout give what they give on one device, and leave all other rows as they are."""
    sizes = {path: (place.vocab_size, place.dim) for path, place in layout.places.items()}
    tables = jax.tree.map(jnp.asarray, drawn_tables(sizes))
    by_table = {path: rule.init(table) for path, table in tables.items()}
    slots = {name: {path: by_table[path][name] for path in tables} for name in next(iter(by_table.values()))}
    many, one = jax.jit(exchange_step(TableExchange(layout), rule)), jax.jit(functools.partial(one_device_step, rule))
    state, expected = (tables, slots), (tables, slots)
    for number in range(n):
        batch = jax.tree.map(jnp.asarray, batch_of(shapes, sizes, seed=number))
        before = state
        rows, *state = many(*state, batch, jnp.int32(number))
        expected_rows, *expected = one(*expected, batch, jnp.int32(number))
        for path in shapes:
            touched = np.unique(np.concatenate([np.asarray(i).reshape(-1) for i in batch.ids[path]]))
            touched = touched[touched % 5 != 0]  # the gradients of the others are zero
            spared = np.setdiff1d(np.arange(sizes[path][0]), touched)
            for found, wanted in zip(rows[path], expected_rows[path], strict=True):
                np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5, err_msg=path)
            after = [state[0][path], *(slot[path] for slot in state[1].values())]
            of_before = [before[0][path], *(slot[path] for slot in before[1].values())]
            of_expected = [expected[0][path], *(slot[path] for slot in expected[1].values())]
            for found, old, wanted in zip(after, of_before, of_expected, strict=True):
                np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5, err_msg=path)
                np.testing.assert_array_equal(np.asarray(found)[spared], np.asarray(old)[spared], err_msg=path)
            assert (np.asarray(after[0])[touched] != np.asarray(of_before[0])[touched]).any(axis=1).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("mesh", ["4x2", pytest.param("8x1", marks=pytest.mark.slow)])
def test_all_kinds_together_step_as_one_device_does(mesh: str, rule: str):
    check_steps(lay_out(make_mesh(MESHES[mesh]), TABLES, KIND_OF, HOT), RULES[rule](), SHAPES)


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_alone(kind: Kind):
    layout = lay_out(make_mesh(MESHES["4x2"]), {"t": (21, 8)}, {"t": kind}, {})
    check_steps(layout, rowwise_adagrad(), {"t": [(13,)]}, n=1)


def test_a_large_replicated_table_whose_gradients_are_gathered():
    layout = lay_out(make_mesh(MESHES["4x2"]), {"t": (500, 16)}, {"t": "replicated"}, {})
    check_steps(layout, rowwise_adagrad(), {"t": [(16,), (3,)]}, n=1)


@pytest.mark.parametrize("mesh", MESHES)
def test_the_squared_norm_is_that_of_dense_gradients(mesh: str):
    layout = lay_out(make_mesh(MESHES[mesh]), TABLES, KIND_OF, HOT)
    exchange, batch = TableExchange(layout), batch_of(SHAPES, TABLES, 0)

    def combine(ids_T: jax.Array, grads_TD: jax.Array, vocab_size: int) -> jax.Array:
        dense_VD = jnp.zeros((vocab_size, grads_TD.shape[1]))
        return dense_VD.at[ids_T].add(grads_TD, mode="drop")

    @jax.jit
    def squared_norm(tables: Any, batch: Batch) -> jax.Array:
        packed = pack(layout, tables)
        routes = exchange.look_up(packed, batch.ids).routes
        return exchange.squared_norm(packed, batch.ids, routes, batch.grads, combine)

    expected = 0.0
    for path, (vocab_size, dim) in TABLES.items():
        dense = np.zeros((vocab_size, dim))
        for ids, grads in zip(batch.ids[path], batch.grads[path], strict=True):
            np.add.at(dense, ids.reshape(-1), grads.reshape(-1, dim))
        expected += (dense**2).sum()
    assert squared_norm(drawn_tables(TABLES), batch) == pytest.approx(expected, rel=1e-5)


def test_tables_that_nobody_looks_up_stay_as_they_are():
    layout = lay_out(make_mesh(MESHES["8x1"]), TABLES, KIND_OF, HOT)
    tables = jax.tree.map(jnp.asarray, drawn_tables(TABLES))
    batch = Batch({"one": [jnp.array([3, 3, 1])]}, {"one": [jnp.ones((3, 8))]})
    rows, after, _ = jax.jit(exchange_step(TableExchange(layout), sgd()))(tables, {}, batch, jnp.int32(0))
    np.testing.assert_array_equal(rows["one"][0], tables["one"][jnp.array([3, 3, 1])])
    expected = {**tables, "one": tables["one"].at[jnp.array([3, 1])].add(-RATE * jnp.array([[2.0], [1.0]]))}
    for path in TABLES:
        np.testing.assert_allclose(after[path], expected[path], rtol=1e-6)


def test_a_share_that_is_too_small_takes_more_rounds_and_gives_the_same():
    layout = lay_out(make_mesh(MESHES["8x1"]), {"t": (4096, 4)}, {"t": "row_wise"}, {})
    ids = np.random.default_rng(0).permutation(4096)[:2048].astype(np.int32)
    table, rounds = drawn_tables({"t": (4096, 4)}), {}
    for share in (1.0, 0.25):
        exchange = TableExchange(layout, {"dim_4": share})

        @jax.jit
        def look_up(tables: Any, ids: jax.Array, exchange: TableExchange = exchange) -> tuple[jax.Array, jax.Array]:
            found = exchange.look_up(pack(layout, tables), {"t": [ids]})
            return found.rows["t"][0], found.routes["dim_4"].rounds

        rows, rounds[share] = look_up(table, ids)
        np.testing.assert_array_equal(rows, table["t"][ids])
    assert rounds[1.0] == 1
    assert rounds[0.25] > 1


# What compiled programs send. Tables are so large that what a step asks for is small beside a shard.
DIM, VOCAB = 16, 2**17
PER_OWNER, SLOTS = 512, 583  # 512 + (sqrt(2 ln 64) + 0.25) x sqrt(512)


class Compiled(NamedTuple):
    found: list[Collective]
    temporary_bytes: int


def compiled(function: Callable, *arguments: Any, donate: tuple[int, ...] = (), made: Any = None) -> Compiled:
    """Returns what is asked of the program; `made` is the sharding of its result, None being the compiler's choice."""
    program = jax.jit(function, donate_argnums=donate, out_shardings=made).lower(*arguments).compile()
    return Compiled(collectives(program.as_text()), program.memory_analysis().temp_size_in_bytes)


def on(mesh: Mesh, shape: tuple[int, ...], dtype: Any, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))


@functools.cache
def row_wise(program: str, mesh_name: str, per_owner: int = PER_OWNER, vocab_size: int = VOCAB) -> Compiled:
    """Returns the "look_up" or "update" of a row-wise table of which each device asks `per_owner` ids of each."""
    mesh = make_mesh(MESHES[mesh_name])
    layout = lay_out(mesh, {"t": (vocab_size, DIM)}, {"t": "row_wise"}, {})
    exchange, rule, n = TableExchange(layout), rowwise_adagrad(), S * S * per_owner
    ids = on(mesh, (n,), jnp.int32, PartitionSpec("data"))
    grads = on(mesh, (n, DIM), jnp.float32, PartitionSpec("data"))
    packed = {"dim_16": {"owned": on(mesh, (vocab_size, DIM), jnp.float32, layout.spec("owned", 2))}}
    sums = {"dim_16": {"owned": on(mesh, (vocab_size,), jnp.float32, layout.spec("owned", 1))}}

    def look_up(packed: Any, ids: jax.Array) -> jax.Array:
        return exchange.look_up(packed, {"t": [ids]}).rows["t"][0]

    def update(packed: Any, slots: Any, ids: jax.Array, grads: jax.Array) -> Any:
        def update_part(table: jax.Array, slots: Slots, ids: jax.Array, grads: jax.Array, over: OverColumns) -> Any:
            gradient = combine_duplicates([ids], [grads], len(table) + 1, over, in_order=True)
            return update_rows(rule, table, slots, gradient, jnp.int32(0), RATE, over)

        routes = exchange.look_up(packed, {"t": [ids]}).routes
        return exchange.update(packed, slots, {"t": [ids]}, routes, {"t": [grads]}, update_part)

    if program == "look_up":
        return compiled(look_up, packed, ids)
    return compiled(update, packed, {"sum_of_squares": sums}, ids, grads, donate=(0, 1))


def plain_programs(vocab_size: int, mesh_name: str, axis: str) -> dict[str, Compiled]:
    """Returns the same without an exchange: XLA sees a whole table, split by rows along an axis of the mesh."""
    mesh, n = make_mesh(MESHES[mesh_name]), S * S * PER_OWNER
    of_table, of_batch = PartitionSpec(axis), PartitionSpec("data")
    table = on(mesh, (vocab_size, DIM), jnp.float32, of_table)
    ids, grads = on(mesh, (n,), jnp.int32, of_batch), on(mesh, (n, DIM), jnp.float32, of_batch)

    def update(table: jax.Array, ids: jax.Array, grads: jax.Array) -> jax.Array:
        return table - RATE * jax.grad(lambda table: jnp.sum(table[ids] * grads))(table)

    return {
        "look_up": compiled(lambda table, ids: table[ids], table, ids, made=NamedSharding(mesh, of_batch)),
        "update": compiled(update, table, ids, grads, donate=(0,), made=NamedSharding(mesh, of_table)),
    }


def bytes_sent(found: list[Collective]) -> int:
    return sum(one.bytes_crossing * one.runs for one in found)


def least_bytes(ids_of_a_device: int) -> int:
    """Returns the bytes of ids that are for others, and of their rows."""
    return ids_of_a_device * (S - 1) // S * (4 + 4 * DIM)


def table_sized(program: Compiled) -> list[Collective]:
    """Returns the collectives of as many numbers as a shard of the table has, or more."""
    return [one for one in program.found if math.prod(one.shape) >= VOCAB * DIM // S]


def test_a_lookup_sends_at_most_15_percent_more_than_ids_and_rows():
    # A round's loop stands in the text once; ids that are even take one round (test_exchange).
    found, least = row_wise("look_up", "8x1").found, least_bytes(8 * PER_OWNER)
    assert least <= bytes_sent(found) <= 1.15 * least
    travelling = [one for one in found if one.kind == "all-to-all"]
    assert {one.dtype for one in travelling} == {"s32", "f32"}
    assert bytes_sent(travelling) == pytest.approx(
        SLOTS * (S - 1) * (4 + 4 * DIM), abs=S
    )  # of each piece a part of a byte
    # All else is one number, by which the devices agree on how many rounds there are.
    others = [one for one in found if one.kind != "all-to-all"]
    assert {(one.kind, one.shape) for one in others} == {("all-reduce", ())}


def test_an_update_sends_as_much_again():
    # Of the lookup before it the route alone is used here, and XLA leaves the rows out.
    travelling = [one for one in row_wise("update", "8x1").found if one.kind == "all-to-all"]
    assert bytes_sent(travelling) == pytest.approx(
        SLOTS * (S - 1) * (4 + 4 * DIM), abs=S
    )  # of each piece a part of a byte


def test_devices_that_share_samples_ask_for_a_part_of_their_rows_each():
    # And give them to each other: all of them are needed on both, 15 percent more is what slots allow.
    found = row_wise("look_up", "4x2").found
    rows = 2 * 8 * PER_OWNER
    assert bytes_sent(found) <= 1.15 * (rows * (S - 1) // S * 4 * DIM + rows // 2 * (S - 1) // S * 4)


@pytest.mark.parametrize("program", ["look_up", "update"])
@pytest.mark.parametrize("mesh", ["8x1", pytest.param("4x2", marks=pytest.mark.slow)])
def test_no_collective_and_no_temporary_memory_is_of_the_tables_size(mesh: str, program: str):
    small, large = row_wise(program, mesh), row_wise(program, mesh, vocab_size=4 * VOCAB)
    assert table_sized(small) == []
    assert small.temporary_bytes == large.temporary_bytes
    assert bytes_sent(small.found) == bytes_sent(large.found)


def test_xla_alone_sends_and_holds_what_these_tests_forbid():
    by_model = plain_programs(VOCAB, "4x2", "model")["update"]
    assert [(one.kind, one.shape) for one in table_sized(by_model)] == [("all-reduce", (VOCAB // 2, DIM))]
    by_data, of_four = plain_programs(VOCAB, "8x1", "data"), plain_programs(4 * VOCAB, "8x1", "data")
    assert bytes_sent(by_data["look_up"].found) > 10 * bytes_sent(row_wise("look_up", "8x1").found)
    assert of_four["update"].temporary_bytes > by_data["update"].temporary_bytes
