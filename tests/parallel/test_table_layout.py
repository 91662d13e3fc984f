"""Tables packed for a mesh: where each row and column lies, and that all come back as they were."""

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, PartitionSpec

from recjax.parallel.mesh import make_mesh
from recjax.parallel.table_layout import KINDS, Kind, TableLayout, lay_out, pack, unpack, unpack_table, whole_spec

S = 8


@pytest.fixture(scope="module", params=[{"data": 8}, {"data": 4, "model": 2}], ids=["8x1", "4x2"])
def mesh(request: pytest.FixtureRequest) -> Mesh:
    return make_mesh(request.param)


def numbered(layout: TableLayout, width: int | None = None) -> dict[str, np.ndarray]:
    """Returns tables, or slots of `width` x D numbers a row (0: one number), in which every number is another."""
    shapes = {
        path: (place.vocab_size,) if width == 0 else (place.vocab_size, (width or 1) * place.dim)
        for path, place in layout.places.items()
    }
    ends = np.cumsum([0, *(np.prod(shape) for shape in shapes.values())])
    return {
        path: np.arange(start + 1, start + 1 + np.prod(shape), dtype=np.float32).reshape(shape)
        for (path, shape), start in zip(shapes.items(), ends, strict=False)
    }


def packed_on_devices(layout: TableLayout, tables: Any) -> Any:
    shardings = layout.shardings(jax.eval_shape(lambda tables: pack(layout, tables), tables))
    return jax.jit(lambda tables: pack(layout, tables), out_shardings=shardings)(tables)


def on_devices(array: jax.Array) -> list[np.ndarray]:
    """Returns each device's part, in the order of the mesh."""
    by_device = {shard.device: np.asarray(shard.data) for shard in array.addressable_shards}
    return [by_device[device] for device in jax.devices()]


def check_round_trip(layout: TableLayout, tables: dict[str, np.ndarray]) -> None:
    there_and_back = jax.jit(lambda tables: unpack(layout, pack(layout, tables)))(tables)
    assert there_and_back.keys() == tables.keys()
    for path, table in tables.items():
        np.testing.assert_array_equal(there_and_back[path], table)


@pytest.mark.parametrize("vocab_size", [3, 8, 21])
def test_row_i_of_a_row_wise_table_lies_on_device_i_mod_s(mesh: Mesh, vocab_size: int):
    layout = lay_out(mesh, {"a": (vocab_size, 5), "b": (6, 5)}, {"a": "row_wise", "b": "row_wise"}, {})
    tables = numbered(layout)
    packed = packed_on_devices(layout, tables)["dim_5"]
    assert packed.keys() == {"owned"}
    rows_of_a = -(-vocab_size // S)
    for device, part in enumerate(on_devices(packed["owned"])):
        assert part.shape == (rows_of_a + 1, 5)  # a share, and a row of "b"
        for rows, table in ((part[:rows_of_a], tables["a"][device::S]), (part[rows_of_a:], tables["b"][device::S])):
            np.testing.assert_array_equal(rows[: len(table)], table)
            assert not rows[len(table) :].any()


def test_a_table_wise_table_lies_on_one_device_whole(mesh: Mesh):
    sizes = {"small": 4, "large": 9, "other": 6}
    layout = lay_out(mesh, {name: (v, 2) for name, v in sizes.items()}, dict.fromkeys(sizes, "table_wise"), {})
    tables = numbered(layout)
    packed = packed_on_devices(layout, tables)["dim_2"]["owned"]
    assert packed.shape == (S * 9, 2)
    assert [layout.places[name].owner for name in ("large", "other", "small")] == [0, 1, 2]
    for device, part in enumerate(on_devices(packed)):
        name = {0: "large", 1: "other", 2: "small"}.get(device)
        held = tables[name] if name else np.zeros((0, 2))
        np.testing.assert_array_equal(part[: len(held)], held)
        assert not part[len(held) :].any()


def test_table_wise_tables_go_to_the_device_that_has_least():
    # On two devices, by hand: 5 -> 0, 4 -> 1, 3 -> 1 (4 < 5), 3 -> 0 (5 < 7), 1 -> 1 (7 < 8): 8 rows each.
    mesh = make_mesh({"data": 2}, jax.devices()[:2])
    sizes = {"t1": 1, "t3": 3, "u3": 3, "t5": 5, "t4": 4}
    layout = lay_out(mesh, {name: (v, 1) for name, v in sizes.items()}, dict.fromkeys(sizes, "table_wise"), {})
    found = {name: (place.owner, place.offset) for name, place in layout.places.items()}
    assert found == {"t5": (0, 0), "t4": (1, 0), "t3": (1, 4), "u3": (0, 5), "t1": (1, 7)}
    assert layout.groups["dim_1"].owned_rows == 8


def test_each_device_has_its_columns_of_all_rows(mesh: Mesh):
    layout = lay_out(mesh, {"a": (3, 16), "b": (4, 16)}, {"a": "column_wise", "b": "column_wise"}, {})
    tables, moments, sums = numbered(layout), numbered(layout, 2), numbered(layout, 0)
    of_tables = on_devices(packed_on_devices(layout, tables)["dim_16"]["columns"])
    of_moments = on_devices(packed_on_devices(layout, moments)["dim_16"]["columns"])
    of_sums = on_devices(packed_on_devices(layout, sums)["dim_16"]["columns"])
    for device in range(S):
        mine = slice(2 * device, 2 * device + 2)
        whole = np.concatenate([tables["a"], tables["b"]])
        np.testing.assert_array_equal(of_tables[device], whole[:, mine])
        means, squares = np.split(np.concatenate([moments["a"], moments["b"]]), 2, axis=1)
        np.testing.assert_array_equal(of_moments[device], np.concatenate([means[:, mine], squares[:, mine]], axis=1))
        np.testing.assert_array_equal(of_sums[device], np.concatenate([sums["a"], sums["b"]]))  # whole on each


def test_replicated_tables_and_hot_rows_are_on_every_device(mesh: Mesh):
    tables = {"cold": (20, 3), "all": (4, 3)}
    layout = lay_out(mesh, tables, {"cold": "row_wise", "all": "replicated"}, {"cold": [2, 7, 19]})
    values = numbered(layout)
    packed = packed_on_devices(layout, values)["dim_3"]
    for part in on_devices(packed["copied"]):
        np.testing.assert_array_equal(part, np.concatenate([values["cold"][[2, 7, 19]], values["all"]]))
    assert [part.shape for part in on_devices(packed["owned"])] == [(3, 3)] * S


def test_the_current_values_of_hot_rows_are_the_copied_ones(mesh: Mesh):
    layout = lay_out(mesh, {"t": (20, 3)}, {"t": "row_wise"}, {"t": [2, 7, 19]})
    values = numbered(layout)
    packed = packed_on_devices(layout, values)
    packed["dim_3"]["copied"] = -packed["dim_3"]["copied"]
    unpacked = unpack_table(layout, packed["dim_3"], layout.places["t"])
    expected = values["t"].copy()
    expected[[2, 7, 19]] *= -1
    np.testing.assert_array_equal(unpacked, expected)


def test_tables_of_one_width_are_packed_together(mesh: Mesh):
    tables = {"a": (5, 8), "b": (9, 8), "c": (9, 4)}
    kinds: dict[str, Kind] = {"a": "replicated", "b": "column_wise", "c": "row_wise"}
    layout = lay_out(mesh, tables, kinds, {})
    shapes = jax.tree.map(np.shape, packed_on_devices(layout, numbered(layout)))
    assert shapes == {"dim_4": {"owned": (16, 4)}, "dim_8": {"columns": (9, 8), "copied": (5, 8)}}
    assert layout.shards == S
    assert layout.axes == ("data", "model")
    assert list(layout.places) == ["c", "a", "b"]


@settings(max_examples=20)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4),
    sizes=st.lists(st.integers(1, 19), min_size=4, max_size=4),
    dims=st.lists(st.sampled_from([8, 16]), min_size=4, max_size=4),
    slot=st.sampled_from([None, 0, 2]),
    hot=st.integers(0, 3),
)
def test_what_was_packed_comes_back(kinds: list[Kind], sizes: list[int], dims: list[int], slot: int | None, hot: int):
    mesh = make_mesh({"data": 4, "model": 2})
    tables = {f"t{i}": (size, dim) for i, (_, size, dim) in enumerate(zip(kinds, sizes, dims, strict=False))}
    of_table = dict(zip(tables, kinds, strict=True))
    hot_ids = {path: list(range(min(hot, v))) for path, (v, _) in tables.items() if of_table[path] == "row_wise"}
    layout = lay_out(mesh, tables, of_table, hot_ids)
    check_round_trip(layout, numbered(layout, slot))


@pytest.mark.parametrize("kind", KINDS)
def test_one_table_on_one_device(kind: Kind):
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    layout = lay_out(mesh, {"t": (5, 3)}, {"t": kind}, {})
    for width in (None, 0, 2):
        check_round_trip(layout, numbered(layout, width))


def test_no_device_has_more_than_its_share(mesh: Mesh):
    tables = {"rows": (64, 16), "columns": (64, 16)}
    layout = lay_out(mesh, tables, {"rows": "row_wise", "columns": "column_wise"}, {})
    for width, of_row in ((None, 16), (2, 32)):
        packed = packed_on_devices(layout, numbered(layout, width))["dim_16"]
        for array in packed.values():
            assert {part.size for part in on_devices(array)} == {64 * of_row // S}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((7, 16), PartitionSpec(None, ("data", "model"))),
        ((7, 4), PartitionSpec(None, ("data",))),
        ((7, 6), PartitionSpec(None, ("model",))),  # 4 does not divide 6, and 2 does
        ((7, 3), PartitionSpec(None, None)),
        ((16,), PartitionSpec()),
    ],
)
def test_how_whole_tables_lie_outside_a_step(shape: tuple[int, ...], expected: PartitionSpec):
    assert whole_spec(make_mesh({"data": 4, "model": 2}), shape) == expected
