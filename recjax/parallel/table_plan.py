"""Which table is split how: the choice by size, lookups and memory, and what it costs.

Costs are counted, not measured: bytes that a device sends to others in a training step at least, and bytes that the
fullest device holds. Everything is float32.

Shapes: V rows of a table, D embedding dim.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from recjax.config import Parallel
from recjax.errors import UserError
from recjax.parallel.table_layout import KINDS, Kind, Place, TableLayout, lay_out

WORD = 4  # bytes of a float32, and of an id


@dataclasses.dataclass(frozen=True)
class TableUse:
    """One table and what a training step does with it.

    Attributes:
      path: of the parameter.
      vocab_size: V.
      dim: D.
      ids: looked up in a step, of the whole batch.
      slot_words: numbers that the optimizer keeps for each row.
      counts: [V] how often an epoch looks each row up; None where nobody counted.
      sample: of some batches the ids of each of their lookups, [...] with samples along the first axis; may be empty.
    """

    path: str
    vocab_size: int
    dim: int
    ids: int
    slot_words: int
    counts: NDArray[np.int32] | None = None
    sample: tuple[tuple[NDArray[np.int32], ...], ...] = ()

    def distinct_ids(self, shards: int, hot_ids: Sequence[int] | NDArray[np.int32] = ()) -> float:
        """Returns how many distinct rows one of `shards` devices asks for in a step, `hot_ids` left out.

        That is what devices would have asked for in the sampled batches, on average, or what the counts let expect.
        Without either every id is taken to be distinct, up to V.
        """
        if self.sample:
            parts = [
                np.concatenate(of_device)
                for lookups in self.sample
                for of_device in zip(*(np.array_split(ids.ravel(), shards) for ids in lookups), strict=True)
            ]
            return float(np.mean([len(np.setdiff1d(ids, hot_ids)) for ids in parts]))
        ids = self.ids / shards
        if self.counts is None:
            return float(min(ids, self.vocab_size))
        share_V = self.counts / max(int(self.counts.sum()), 1)
        share_V[np.asarray(hot_ids, np.int64)] = 0
        return float(-np.expm1(ids * np.log1p(-np.minimum(share_V, 1 - 1e-12))).sum())

    def hottest(self, n: int) -> NDArray[np.int32]:
        """Returns the ids of the `n` rows that are looked up most, ascending; none where nobody counted."""
        if self.counts is None or not n:
            return np.empty(0, np.int32)
        n = min(n, self.vocab_size)
        return np.sort(np.argpartition(-self.counts, n - 1)[:n]).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class TableCost:
    """What one way to split a table costs.

    Attributes:
      sent_bytes: that a device sends in a step, forward and backward.
      held_bytes: of the table and the optimizer's slots on the device that has most.
    """

    sent_bytes: float
    held_bytes: int


@dataclasses.dataclass(frozen=True)
class TablePlan:
    """The way chosen for every table, and what each way would have cost."""

    layout: TableLayout
    uses: tuple[TableUse, ...]
    kinds: Mapping[str, Kind]
    costs: Mapping[str, Mapping[Kind, TableCost]]  # by path, of the ways that can be
    distinct_share: Mapping[str, float]  # by group of the layout, of TableExchange

    @property
    def chosen_costs(self) -> dict[str, TableCost]:
        """Returns each table's cost as it is split."""
        return {path: self.costs[path][kind] for path, kind in self.kinds.items()}


def plan_tables(uses: Sequence[TableUse], mesh: Mesh, parallel: Parallel, free_bytes: float = math.inf) -> TablePlan:
    """Returns how to split every table: as `parallel.tables` says, or planned.

    A planned table is split in the way that sends least, of equal ones in the one that holds least. Where the tables
    then take more than `free_bytes` of a device, replicated ones are split after all, the largest first.

    Raises:
      UserError: a table cannot be split as the config says.
    """
    shards = math.prod(mesh.shape.values())
    hot = {use.path: use.hottest(parallel.hot_rows) for use in uses}
    costs = {use.path: _costs(use, shards, hot[use.path]) for use in uses}
    kinds: dict[str, Kind] = {}
    for use in uses:
        if parallel.tables != "planned":
            kinds[use.path] = _demanded(use, parallel.tables, shards)
            continue
        of_table = costs[use.path]
        candidates = [kind for kind in of_table if kind != "table_wise"]  # which asks all of one device
        kinds[use.path] = min(candidates, key=lambda kind: (of_table[kind].sent_bytes, of_table[kind].held_bytes))
    if parallel.tables == "planned":
        _fit(kinds, costs, free_bytes)
    hot = {path: ids for path, ids in hot.items() if kinds[path] == "row_wise" and len(ids)}
    layout = lay_out(mesh, {use.path: (use.vocab_size, use.dim) for use in uses}, kinds, hot)
    shares = {name: _distinct_share(uses, group.places, hot, shards) for name, group in layout.groups.items()}
    return TablePlan(layout, tuple(uses), kinds, costs, shares)


def describe_plan(plan: TablePlan) -> Table:
    """Returns the plan as a table: a row for each embedding table, the largest first."""
    chosen, shards = plan.chosen_costs.values(), plan.layout.shards
    held, sent = sum(cost.held_bytes for cost in chosen), sum(cost.sent_bytes for cost in chosen)
    shown = Table(
        title=f"tables on {shards} device{'s' * (shards > 1)}; last, kB that each sends in a step if split so",
        caption=f"as planned, a device holds {held / 1e6:,.2f} MB and sends {sent / 1e3:,.0f} kB in a step",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    shown.add_column("table", no_wrap=True)
    for name in ("rows", "dim", "ids"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("split", no_wrap=True)
    for name in ("MB", "copied", "rows", "columns", "owner"):
        shown.add_column(name, justify="right", no_wrap=True)

    def kilobytes(path: str, kind: Kind) -> str:
        return f"{plan.costs[path][kind].sent_bytes / 1e3:,.0f}" if kind in plan.costs[path] else "–"

    for use in sorted(plan.uses, key=lambda use: -use.vocab_size * use.dim):
        path, kind = use.path, plan.kinds[use.path]
        hot = len(plan.layout.places[path].hot_ids)
        shown.add_row(
            path.removesuffix("/table").removeprefix("table_"),
            f"{use.vocab_size:,}",
            str(use.dim),
            f"{use.ids:,}",
            kind + (f", {hot:,} hot" if hot else ""),
            f"{plan.costs[path][kind].held_bytes / 1e6:,.2f}",
            *(kilobytes(path, one) for one in KINDS),
        )
    return shown


def _costs(use: TableUse, shards: int, hot_ids: NDArray[np.int32]) -> dict[Kind, TableCost]:
    """Returns the cost of each way in which the table can be split over `shards` devices."""
    ids, away = use.ids / shards, (shards - 1) / shards
    row_bytes = WORD * (use.dim + use.slot_words)
    table_bytes = use.vocab_size * row_bytes
    summed = 2 * away * use.vocab_size * use.dim * WORD
    gathered = (shards - 1) * ids * (1 + use.dim) * WORD
    costs: dict[Kind, TableCost] = {"replicated": TableCost(min(summed, gathered), table_bytes)}
    if use.vocab_size >= shards:
        travelling = use.distinct_ids(shards, hot_ids) * away * 2 * (1 + use.dim) * WORD
        copied = 2 * away * len(hot_ids) * use.dim * WORD
        held = -(-use.vocab_size // shards) * row_bytes + len(hot_ids) * row_bytes
        costs["row_wise"] = TableCost(travelling + copied, held)
    if use.dim % shards == 0 and use.dim > 1:
        of_ids, of_rows = 2 * (shards - 1) * ids * WORD, 2 * away * ids * use.dim * WORD
        costs["column_wise"] = TableCost(of_ids + of_rows, table_bytes // shards)
    # What travels has room for as many ids to every owner as go to the only one that is asked.
    costs["table_wise"] = TableCost(shards * use.distinct_ids(shards) * away * 2 * (1 + use.dim) * WORD, table_bytes)
    return costs


def _demanded(use: TableUse, kind: Kind, shards: int) -> Kind:
    """Returns the way that the config demands; raises UserError if the table cannot be split so."""
    if kind == "row_wise" and use.vocab_size < shards:
        raise UserError(
            f"{use.path} has {use.vocab_size} rows, fewer than the {shards} devices that row_wise would split it over; "
            "set parallel.tables to planned, replicated or table_wise, or use fewer devices"
        )
    if kind == "column_wise" and use.dim % shards:
        raise UserError(
            f"{use.path} has {use.dim} columns, which {shards} devices cannot share evenly; set parallel.tables to "
            f"planned or row_wise, or an embedding dim that is a multiple of {shards}"
        )
    return kind


def _fit(kinds: dict[str, Kind], costs: Mapping[str, Mapping[Kind, TableCost]], free_bytes: float) -> None:
    """Splits replicated tables, the largest first, until the tables fit or none is left that can be split."""
    for path in sorted(kinds, key=lambda path: -costs[path]["replicated"].held_bytes):
        if sum(costs[name][kind].held_bytes for name, kind in kinds.items()) <= free_bytes:
            return
        if kinds[path] == "replicated":
            kinds[path] = next((kind for kind in ("row_wise", "column_wise") if kind in costs[path]), "replicated")


def _distinct_share(
    uses: Sequence[TableUse], places: Mapping[str, Place], hot: Mapping[str, NDArray], shards: int
) -> float:
    """Returns the expected distinct ids over ids of a device, of a group's tables whose rows have owners."""
    travelling = [use for use in uses if use.path in places and places[use.path].kind in ("row_wise", "table_wise")]
    ids = sum(use.ids / shards for use in travelling)
    distinct = sum(use.distinct_ids(shards, hot.get(use.path, ())) for use in travelling)
    return min(1.0, distinct / ids) if ids else 1.0
