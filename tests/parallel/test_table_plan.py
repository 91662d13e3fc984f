"""Plans against costs that are worked out by hand, for a mesh of eight devices."""

import dataclasses
import io
import math

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from rich.console import Console

from recjax.config import Parallel
from recjax.errors import UserError
from recjax.parallel.exchange import capacity
from recjax.parallel.mesh import make_mesh
from recjax.parallel.table_plan import TableCost, TablePlan, TableUse, describe_plan, plan_tables

AWAY = 7 / 8  # of what is spread over all devices, the part that is on another one


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return make_mesh({"data": 4, "model": 2})


def parallel(**fields: object) -> Parallel:
    return Parallel(strategy="pjit", data=4, model=2, **fields)


def use(vocab_size: int, dim: int = 16, ids: int = 800, path: str = "t/table", **fields: object) -> TableUse:
    return TableUse(**{"path": path, "vocab_size": vocab_size, "dim": dim, "ids": ids, "slot_words": 1, **fields})


def shown(plan: TablePlan) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(describe_plan(plan))
    return console.file.getvalue()


def test_costs_of_a_large_table_by_hand(mesh: Mesh):
    plan = plan_tables([use(100_000)], mesh, parallel())
    # 100 ids a device. Replicated: each device sends its ids and gradients to 7 others, less than sums of all rows.
    # Row-wise: an id and a row there and back; column-wise: ids to all, and a sixteenth of rows from each and back.
    row = 16 * 4
    assert {kind: dataclasses.astuple(cost) for kind, cost in plan.costs["t/table"].items()} == {
        "replicated": (7 * 100 * (4 + row), 100_000 * (row + 4)),
        "row_wise": (100 * AWAY * 2 * (4 + row), 12_500 * (row + 4)),
        "column_wise": (2 * 7 * 100 * 4 + 2 * AWAY * 100 * row, 100_000 * (row + 4) / 8),
        "table_wise": (8 * 100 * AWAY * 2 * (4 + row), 100_000 * (row + 4)),  # room for all ids to every owner
    }
    assert plan.kinds == {"t/table": "row_wise"}
    assert plan.chosen_costs == {"t/table": TableCost(11_900.0, 850_000)}


def test_a_small_table_is_replicated(mesh: Mesh):
    plan = plan_tables([use(9)], mesh, parallel())
    # An all-reduce of 9 rows sends 2 x 7/8 of them; 9 distinct rows there and back, with their ids, are more.
    assert plan.costs["t/table"]["replicated"].sent_bytes == 2 * AWAY * 9 * 64 == 1008
    assert plan.costs["t/table"]["row_wise"].sent_bytes == 9 * AWAY * 2 * 68 == 1071
    assert plan.kinds == {"t/table": "replicated"}


def test_ways_that_cannot_be_are_left_out(mesh: Mesh):
    plan = plan_tables([use(7, path="short"), use(100, 12, path="uneven"), use(100, 1, path="one")], mesh, parallel())
    assert "row_wise" not in plan.costs["short"]
    assert "column_wise" not in plan.costs["uneven"]
    assert "column_wise" not in plan.costs["one"]


@pytest.mark.parametrize("kind", ["replicated", "row_wise", "column_wise", "table_wise"])
def test_a_demanded_kind_is_that_of_all_tables(mesh: Mesh, kind: str):
    plan = plan_tables([use(9, path="a"), use(100_000, path="b")], mesh, parallel(tables=kind), free_bytes=1.0)
    assert plan.kinds == {"a": kind, "b": kind}
    assert {place.kind for place in plan.layout.places.values()} == {kind}


def test_more_shards_than_rows(mesh: Mesh):
    with pytest.raises(UserError, match=r"^t/table has 7 rows, fewer than the 8 devices .*planned, replicated or"):
        plan_tables([use(7)], mesh, parallel(tables="row_wise"))


def test_columns_that_do_not_divide(mesh: Mesh):
    with pytest.raises(UserError, match=r"^t/table has 12 columns, which 8 devices .*a multiple of 8$"):
        plan_tables([use(100, 12)], mesh, parallel(tables="column_wise"))


def test_replicated_tables_are_split_the_largest_first_until_they_fit(mesh: Mesh):
    # Few rows and many ids: to replicate all three costs least. Each row holds 16 + 1 numbers of 4 bytes.
    uses = [use(rows, ids=8 * 10_000, path=name) for name, rows in (("a", 16), ("b", 64), ("c", 32))]
    assert set(plan_tables(uses, mesh, parallel()).kinds.values()) == {"replicated"}
    whole = (16 + 64 + 32) * 68
    kinds = {
        free: plan_tables(uses, mesh, parallel(), float(free)).kinds
        for free in (whole, whole - 1, (16 + 8 + 32) * 68 - 1)
    }
    assert kinds[whole] == {"a": "replicated", "b": "replicated", "c": "replicated"}
    assert kinds[whole - 1] == {"a": "replicated", "b": "row_wise", "c": "replicated"}
    assert kinds[(16 + 8 + 32) * 68 - 1] == {"a": "replicated", "b": "row_wise", "c": "row_wise"}


def test_a_short_table_that_does_not_fit_is_split_by_columns(mesh: Mesh):
    table = use(7, 64, ids=8 * 10_000)
    assert plan_tables([table], mesh, parallel()).kinds == {"t/table": "replicated"}
    assert plan_tables([table], mesh, parallel(), 7 * 65 * 4 - 1.0).kinds == {"t/table": "column_wise"}


def test_distinct_ids_of_counted_rows_by_hand():
    counts = np.array([3, 1, 0], np.int32)
    few, many = use(3, ids=16, counts=counts), use(3, ids=80_000, counts=counts)
    # Two lookups miss a row of share p with probability (1 - p)^2.
    assert few.distinct_ids(8) == pytest.approx((1 - 0.25**2) + (1 - 0.75**2))
    assert few.distinct_ids(8, [0]) == pytest.approx(1 - 0.75**2)
    assert many.distinct_ids(8) == pytest.approx(2)
    assert use(3, ids=16).distinct_ids(8) == 2
    assert use(3, ids=80_000).distinct_ids(8) == 3


def test_distinct_ids_of_sampled_batches_by_hand():
    bags = np.array([[1, 1], [2, 3], [4, 4], [4, 4]], np.int32)
    singles = np.array([1, 9, 4, 5], np.int32)
    sampled = use(10, ids=12, counts=np.ones(10, np.int32), sample=((bags, singles), (bags[:, :1], singles)))
    # Two devices: {1, 2, 3, 9} and {4, 5}; {1, 2, 9} and {4, 5}.
    assert sampled.distinct_ids(2) == pytest.approx((4 + 2 + 3 + 2) / 4)
    assert sampled.distinct_ids(2, [4, 9]) == pytest.approx((3 + 1 + 2 + 1) / 4)
    assert sampled.distinct_ids(1) == pytest.approx((6 + 5) / 2)


def test_the_hottest_rows():
    counted = use(5, counts=np.array([5, 1, 9, 7, 0], np.int32))
    assert counted.hottest(2).tolist() == [2, 3]
    assert counted.hottest(9).tolist() == [0, 1, 2, 3, 4]
    assert counted.hottest(0).tolist() == use(5).hottest(2).tolist() == []


def power_law(rows: int) -> np.ndarray:
    return (1e6 / np.arange(1, rows + 1) ** 1.5).astype(np.int32)


def test_hot_rows_of_row_wise_tables_are_copied_and_leave_less_to_send(mesh: Mesh):
    counts = np.random.default_rng(0).permutation(power_law(10_000))
    tables = [use(10_000, ids=80_000, counts=counts), use(9, path="u/table", ids=80_000, counts=np.ones(9, np.int32))]
    without, plan = plan_tables(tables, mesh, parallel()), plan_tables(tables, mesh, parallel(hot_rows=50))
    assert plan.kinds == without.kinds == {"t/table": "row_wise", "u/table": "replicated"}
    place = plan.layout.places["t/table"]
    assert sorted(counts[place.hot_ids].tolist(), reverse=True) == power_law(10_000)[:50].tolist()
    assert len(plan.layout.places["u/table"].hot_ids) == 0
    # Each device has a copy of 50 rows, sums of whose gradients are sent in every step.
    assert plan.costs["t/table"]["row_wise"].held_bytes == (1250 + 50) * 68
    cold = tables[0].distinct_ids(8, place.hot_ids)
    expected = cold * AWAY * 2 * 68 + 2 * AWAY * 50 * 64
    assert plan.costs["t/table"]["row_wise"].sent_bytes == pytest.approx(expected)
    assert plan.distinct_share == {"dim_16": pytest.approx(cold / 10_000)}
    assert plan.distinct_share["dim_16"] < without.distinct_share["dim_16"] < 1


def test_hot_rows_that_nobody_counted_are_none(mesh: Mesh):
    plan = plan_tables([use(100_000)], mesh, parallel(hot_rows=50))
    assert len(plan.layout.places["t/table"].hot_ids) == 0


def test_distinct_shares_are_of_each_width(mesh: Mesh):
    # Of 100 ids a device, at most 10 are distinct in "a"; those of "b" are not counted. "c" is alone in its group.
    uses = [use(10, path="a"), use(1000, path="b"), use(20, 8, path="c"), use(1000, 4, path="d")]
    plan = plan_tables(uses, mesh, parallel(tables="row_wise"))
    assert plan.distinct_share == {"dim_4": 1.0, "dim_8": 0.2, "dim_16": (10 + 100) / 200}
    replicated = plan_tables(uses, mesh, parallel(tables="replicated"))
    assert set(replicated.distinct_share.values()) == {1.0}


def test_a_table_without_lookups(mesh: Mesh):
    plan = plan_tables([use(1000, ids=0)], mesh, parallel())
    assert plan.chosen_costs["t/table"].sent_bytes == 0
    assert plan.kinds["t/table"] != "replicated"  # of what sends nothing, the one that holds least
    assert plan.distinct_share == {"dim_16": 1.0}


def test_one_device_sends_nothing():
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    plan = plan_tables([use(1000), use(3, path="u/table")], mesh, parallel())
    assert {cost.sent_bytes for costs in plan.costs.values() for cost in costs.values()} == {0}


def test_a_plan_shows_every_table_the_largest_first(mesh: Mesh):
    counts = np.random.default_rng(0).permutation(power_law(10_000))
    uses = [use(9, path="table_genre/table"), use(10_000, path="table_user/table", ids=80_000, counts=counts)]
    plan = plan_tables(uses, mesh, parallel(hot_rows=50))
    text = shown(plan)
    lines = text.splitlines()
    first, second = (
        next(i for i, line in enumerate(lines) if line.split()[:1] == [name]) for name in ("user", "genre")
    )
    assert first < second
    assert "tables on 8 devices" in text
    assert lines[first].split()[1:6] == ["10,000", "16", "80,000", "row_wise,", "50"]
    assert "replicated" in lines[second]
    sent = sum(cost.sent_bytes for cost in plan.chosen_costs.values())
    assert f"sends {sent / 1e3:,.0f} kB in a step" in text


def test_a_large_table_is_not_given_to_one_device_because_of_hot_rows(mesh: Mesh):
    counts = np.ones(1_000_000, np.int32)
    counts[:1000] = 2
    plan = plan_tables([use(1_000_000, counts=counts)], mesh, parallel(hot_rows=1000))
    # All ids go to one owner: C slots for each of 8 in at least N / C rounds, so 8 x N rows at least.
    n = 100
    rounds = math.ceil(n / capacity(n, 8))
    least = rounds * 7 * capacity(n, 8) * 2 * 68
    assert plan.costs["t/table"]["table_wise"].sent_bytes >= 0.8 * least  # costs leave out the room for chance
    assert plan.kinds["t/table"] != "table_wise"
