"""Lookups in, and updates of, tables in a `TableLayout`: each device asks for the rows of its part of the batch.

Shapes: M ids of one lookup, N ids of one device, T ids that arrive at one, S shards, V rows of a part, D embedding dim.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from recjax.parallel.exchange import EMPTY, Route, capacity, fetch_rows, make_route, visit_gradients
from recjax.parallel.table_layout import Packed, Place, TableLayout

Lookups = Mapping[str, Sequence[Array]]  # by the table's path: ids [...] of each lookup, or rows [..., D]
OverColumns = Callable[[Array], Array]  # the mean over all shards of columns of a number a row

# (table [V, D], slots by name, ids [T], gradients [T, D], OverColumns) -> table and slots after one step. Ids may
# repeat, their gradients add up; one of V counts for nothing. It is called once for each round and part, of which every
# row is in one alone.
UpdateRows = Callable[[Array, dict[str, Array], Array, Array, OverColumns], tuple[Array, dict[str, Array]]]
# (ids [T], gradients [T, D], V) -> the gradient of each distinct row.
CombineRows = Callable[[Array, Array, int], Array]


def all_columns_here(mean_T: Array) -> Array:
    """Returns the mean over a row's columns as it is: this device has all of them."""
    return mean_T


@dataclasses.dataclass(frozen=True)
class LookedUp:
    """The rows of a batch's lookups, and by group the route that their gradients take back."""

    rows: dict[str, list[Array]]
    routes: dict[str, Route]


@dataclasses.dataclass(frozen=True)
class TableExchange:
    """Lookups and updates under one layout; every method is to be called under jit.

    Attributes:
      layout: where rows lie.
      distinct_share: by group, distinct ids over ids of a device's part of a batch, 1 where it is missing. A smaller
        share makes what travels smaller; a batch with more distinct ids than that takes more rounds.
    """

    layout: TableLayout
    distinct_share: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def look_up(self, packed: Packed, ids: Lookups) -> LookedUp:
        """Returns the row of every id, which must lie in [0, V)."""
        rows: dict[str, list[Array]] = {path: [] for path in ids}
        routes = {}
        for name, paths in self._asked(ids):
            split = [self._split] * len(paths)
            on_shards = self._on_shards(
                functools.partial(self._local_rows, name, paths),
                in_specs=(self._part_specs(packed[name]), split),
                out_specs=(split, self._route_specs(name, paths)),
            )
            found, route = on_shards(packed[name], self._flat_ids(paths, ids))
            if route is not None:
                routes[name] = route
            for path, of_lookup in zip(paths, found, strict=True):
                one = ids[path][len(rows[path])]
                rows[path].append(self._split_like_batch(of_lookup[: one.size].reshape(*one.shape, -1)))
        return LookedUp(rows, routes)

    def update(
        self,
        packed: Packed,
        slots: Mapping[str, Packed],
        ids: Lookups,
        routes: Mapping[str, Route],
        grads: Lookups,
        update_rows: UpdateRows,
    ) -> tuple[Packed, dict[str, Packed]]:
        """Returns tables and slots after one step on the rows that were looked up; in place where they are donated.

        Args:
          packed: the tables.
          slots: of the optimizer, by name, packed like the tables.
          ids: of `look_up`.
          routes: that it returned.
          grads: of the rows that it returned.
          update_rows: the optimizer.
        """
        packed = dict(packed)
        slots = {slot: dict(of_slot) for slot, of_slot in slots.items()}
        for name, paths in self._asked(ids):
            of_group = {slot: slots[slot][name] for slot in slots}
            table_specs = self._part_specs(packed[name])
            slot_specs = {slot: self._part_specs(of_group[slot]) for slot in of_group}
            inputs, specs = self._inputs(name, paths, ids, routes, grads)
            on_shards = self._on_shards(
                functools.partial(self._local_update, name, paths, update_rows),
                in_specs=(table_specs, slot_specs, *specs),
                out_specs=(table_specs, slot_specs),
            )
            packed[name], of_group = on_shards(packed[name], of_group, *inputs)
            for slot in slots:
                slots[slot][name] = of_group[slot]
        return packed, slots

    def squared_norm(
        self, packed: Packed, ids: Lookups, routes: Mapping[str, Route], grads: Lookups, combine: CombineRows
    ) -> Array:
        """Returns the sum of squares of all tables' gradients, those of equal ids added up: another exchange."""
        total = jnp.zeros(())
        for name, paths in self._asked(ids):
            inputs, specs = self._inputs(name, paths, ids, routes, grads)
            local = functools.partial(self._local_squares, name, paths, combine)
            on_shards = self._on_shards(
                local, in_specs=(self._part_specs(packed[name]), *specs), out_specs=PartitionSpec()
            )
            total += on_shards(packed[name], *inputs)
        return total

    def _local_update(
        self, name: str, paths: tuple[str, ...], update_rows: UpdateRows, tables: Any, slots: Any, *inputs: Any
    ) -> tuple[Any, Any]:
        def visit(carry: Any, part: str, rows_T: Array, grads_TD: Array, over: OverColumns) -> Any:
            tables, slots = carry
            of_part = {slot: slots[slot][part] for slot in slots}
            table, of_part = update_rows(tables[part], of_part, rows_T, grads_TD, over)
            return {**tables, part: table}, {slot: {**slots[slot], part: of_part[slot]} for slot in slots}

        return self._visit(name, paths, _lengths(tables), inputs, visit, (tables, slots))

    def _local_squares(
        self, name: str, paths: tuple[str, ...], combine: CombineRows, tables: Any, *inputs: Any
    ) -> Array:
        lengths = _lengths(tables)

        def visit(carry: Any, part: str, rows_T: Array, grads_TD: Array, over: OverColumns) -> Any:
            del over
            squares = jnp.sum(jnp.square(combine(rows_T, grads_TD, lengths[part])))
            return {**carry, part: carry[part] + squares}

        sums = self._visit(name, paths, lengths, inputs, visit, dict.fromkeys(lengths, jnp.zeros(())))
        copied = sums.pop("copied", jnp.zeros(()))  # every device has all of it
        return copied + jax.lax.psum(sum(sums.values(), start=jnp.zeros(())), self.layout.axes)

    def _local_rows(
        self, name: str, paths: tuple[str, ...], parts: Mapping[str, Array], flat: Sequence[Array]
    ) -> tuple[list[Array], Route | None]:
        """Returns one device's rows of each lookup, and the route of those that other devices own."""
        layout, group, axes = self.layout, self.layout.groups[name], self.layout.axes
        places = [group.places[path] for path in paths]
        route = fetched = None
        if owned := [_owner_and_row(p, i, layout.shards) for p, i in zip(places, flat, strict=True) if _is_owned(p)]:
            owner_N, row_N = (jnp.concatenate(column) for column in zip(*owned, strict=True))
            slots = self._slots(name, len(owner_N))
            route = make_route(owner_N, row_N, group.owned_rows, layout.shards, slots, axes)
            fetched = fetch_rows(parts["owned"], route, layout.shards, slots, axes)
        found, start = [], 0
        for place, ids_M in zip(places, flat, strict=True):
            if _is_owned(place):
                assert fetched is not None
                rows_MD, start = fetched[start : start + len(ids_M)], start + len(ids_M)
            if place.kind == "column_wise":
                rows_MD = _gather_columns(parts["columns"], place.offset + ids_M, axes)
            elif place.kind == "replicated" or len(place.hot_ids):
                copied_M, is_copied_M = _copied_row(place, ids_M)
                copied_MD = parts["copied"].at[copied_M].get(mode="promise_in_bounds")
                rows_MD = (
                    copied_MD if place.kind == "replicated" else jnp.where(is_copied_M[:, None], copied_MD, rows_MD)
                )
            found.append(rows_MD)
        return found, route

    def _visit(
        self,
        name: str,
        paths: tuple[str, ...],
        sizes: Mapping[str, int],
        inputs: Any,
        visit: Callable[..., Any],
        carry: Any,
    ) -> Any:
        """Returns `carry` after `visit(carry, part, ids, gradients, over columns)` of what reaches this device."""
        layout, axes = self.layout, self.layout.axes
        flat, route, grads = inputs
        lookups = [(layout.groups[name].places[path], i, g) for path, i, g in zip(paths, flat, grads, strict=True)]
        if route is not None:
            grads_ND = jnp.concatenate([g for place, _, g in lookups if _is_owned(place)])
            slots = self._slots(name, len(grads_ND))

            def of_round(carry: Any, rows_T: Array, grads_TD: Array) -> Any:
                rows_T = jnp.where(rows_T == EMPTY, sizes["owned"], rows_T)
                return visit(carry, "owned", rows_T, grads_TD, all_columns_here)

            carry = visit_gradients(grads_ND, route, layout.shards, slots, axes, of_round, carry)
        if of_columns := [
            (jnp.where(i < 0, sizes["columns"], p.offset + i), g) for p, i, g in lookups if p.kind == "column_wise"
        ]:
            ids_N, grads_ND = (jnp.concatenate(column) for column in zip(*of_columns, strict=True))
            by_shard = grads_ND.reshape(len(ids_N), layout.shards, -1).swapaxes(0, 1)
            mine_TD = jax.lax.all_to_all(by_shard, axes, 0, 0).reshape(layout.shards * len(ids_N), -1)
            ids_T = jax.lax.all_gather(ids_N, axes, tiled=True)
            carry = visit(carry, "columns", ids_T, mine_TD, lambda mean_T: jax.lax.pmean(mean_T, axes))
        if copied := [(p, i, g) for p, i, g in lookups if p.kind == "replicated" or len(p.hot_ids)]:
            rows = [jnp.where(is_in, row, sizes["copied"]) for row, is_in in (_copied_row(p, i) for p, i, _ in copied)]
            rows_N, grads_ND = jnp.concatenate(rows), jnp.concatenate([g for _, _, g in copied])
            rows_T, grads_TD = _share_gradients(rows_N, grads_ND, sizes["copied"], layout.shards, axes)
            carry = visit(carry, "copied", rows_T, grads_TD, all_columns_here)
        return carry

    def _slots(self, name: str, n_ids: int) -> int:
        return capacity(n_ids, self.layout.shards, self.distinct_share.get(name, 1.0))

    @property
    def _split(self) -> PartitionSpec:
        return PartitionSpec(self.layout.axes)

    def _asked(self, lookups: Lookups) -> list[tuple[str, tuple[str, ...]]]:
        """Returns, for each group of which rows are looked up, the path of each lookup, in the order of the tables."""
        asked = (
            (name, tuple(path for path in group.places for _ in lookups.get(path, ())))
            for name, group in self.layout.groups.items()
        )
        return [(name, paths) for name, paths in asked if paths]

    def _flat_ids(self, paths: tuple[str, ...], ids: Lookups) -> list[Array]:
        """Returns the ids [M] of each lookup, M padded to a multiple of S with EMPTY."""
        flat = (one.reshape(-1).astype(jnp.int32) for one in _in_turn(paths, ids))
        return [jnp.pad(one, (0, -len(one) % self.layout.shards), constant_values=EMPTY) for one in flat]

    def _inputs(
        self, name: str, paths: tuple[str, ...], ids: Lookups, routes: Mapping[str, Route], grads: Lookups
    ) -> tuple[Any, Any]:
        """Returns the arguments of `_visit` that are arrays, and how they are split."""
        rows = (self._split_like_batch(one).reshape(-1, one.shape[-1]) for one in _in_turn(paths, grads))
        flat_grads = [jnp.pad(one, ((0, -len(one) % self.layout.shards), (0, 0))) for one in rows]
        split = [self._split] * len(paths)
        inputs = (self._flat_ids(paths, ids), routes.get(name), flat_grads)
        return inputs, (split, self._route_specs(name, paths), split)

    def _split_like_batch(self, rows: Array) -> Array:
        """Returns rows split along "data" alone where they were split along all axes, as what reads them is."""
        if rows.ndim < 2 or rows.shape[0] % self.layout.shards:
            return rows
        return jax.lax.with_sharding_constraint(rows, NamedSharding(self.layout.mesh, PartitionSpec("data")))

    def _part_specs(self, parts: Mapping[str, Array]) -> dict[str, PartitionSpec]:
        return {part: self.layout.spec(part, array.ndim) for part, array in parts.items()}

    def _route_specs(self, name: str, paths: tuple[str, ...]) -> Route | None:
        if not any(_is_owned(self.layout.groups[name].places[path]) for path in paths):
            return None
        spec: Any = self._split
        whole: Any = PartitionSpec()
        return Route(spec, spec, spec, spec, spec, spec, spec, whole)

    def _on_shards(self, local: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
        return jax.shard_map(local, mesh=self.layout.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _in_turn(paths: tuple[str, ...], lookups: Lookups) -> list[Array]:
    """Returns the arrays of the lookups in the order of `paths`, where a path stands once for each of its lookups."""
    remaining = {path: iter(lookups[path]) for path in set(paths)}
    return [next(remaining[path]) for path in paths]


def _lengths(parts: Mapping[str, Array]) -> dict[str, int]:
    return {part: len(array) for part, array in parts.items()}


def _is_owned(place: Place) -> bool:
    return place.kind in ("row_wise", "table_wise")


def _owner_and_row(place: Place, ids_M: Array, shards: int) -> tuple[Array, Array]:
    """Returns the shard that each id's row is asked of, S for none, and its row there."""
    if place.kind == "table_wise":
        owner_M, row_M = jnp.full_like(ids_M, place.owner), place.offset + ids_M
    else:
        owner_M, row_M = ids_M % shards, place.offset + ids_M // shards
    nobody_M = ids_M == EMPTY
    if len(place.hot_ids):
        nobody_M |= _copied_row(place, ids_M)[1]
    return jnp.where(nobody_M, shards, owner_M), row_M


def _copied_row(place: Place, ids_M: Array) -> tuple[Array, Array]:
    """Returns each id's row in "copied", and whether it has one."""
    if place.kind == "replicated":
        return place.offset + ids_M, ids_M != EMPTY
    hot = jnp.asarray(place.hot_ids)
    number_M = jnp.minimum(jnp.searchsorted(hot, ids_M), len(hot) - 1).astype(jnp.int32)
    return place.hot_offset + number_M, hot[number_M] == ids_M


def _gather_columns(columns: Array, rows_M: Array, axes: tuple[str, ...]) -> Array:
    """Returns rows [M, D], each device having looked its columns of everybody's rows up."""
    rows_SM = jax.lax.all_gather(rows_M, axes)
    found_SMC = columns.at[rows_SM].get(mode="clip")
    return jax.lax.all_to_all(found_SMC, axes, 0, 0).swapaxes(0, 1).reshape(len(rows_M), -1)


def _share_gradients(
    rows_N: Array, grads_ND: Array, vocab_size: int, shards: int, axes: tuple[str, ...]
) -> tuple[Array, Array]:
    """Returns every device's ids and gradients on every device, summed up by row first where that is less to send."""
    n, dim = grads_ND.shape
    if shards * n * (1 + dim) < 2 * vocab_size * dim:
        return jax.lax.all_gather(rows_N, axes, tiled=True), jax.lax.all_gather(grads_ND, axes, tiled=True)
    summed_VD = jnp.zeros((vocab_size, dim), grads_ND.dtype).at[rows_N].add(grads_ND, mode="drop")
    return jnp.arange(vocab_size, dtype=jnp.int32), jax.lax.psum(summed_VD, axes)
