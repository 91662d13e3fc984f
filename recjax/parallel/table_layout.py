"""Where the rows of every embedding table lie on many devices, and tables brought into that layout and back.

Tables of one width are packed together, so that one exchange serves them all:

- "owned" [S x Q, D], split by rows over all devices: of a row-wise table row i lies on device i mod S; a table-wise
  table lies on one device whole;
- "columns" [V, D], split by columns over all devices;
- "copied" [V, D], whole on every device: replicated tables, and the hot rows of row-wise ones.

What an optimizer keeps of a table, [V] or [V, k x D], is packed in the same way. Checkpoints and everything outside a
training step see whole tables [V, D] in the order of their ids, so that they do not depend on the layout.

Shapes: S shards (devices), V rows of a table, Q rows of one shard, D embedding dim, W a slot's width, k x D.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array
from numpy.typing import NDArray

Kind = Literal["replicated", "row_wise", "column_wise", "table_wise"]
KINDS: tuple[Kind, ...] = ("replicated", "row_wise", "column_wise", "table_wise")
Packed = dict[str, dict[str, Array]]  # by width, as in "dim_64", then "owned", "columns" or "copied"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one table lies.

    Attributes:
      kind: how it is split.
      vocab_size: V.
      dim: D.
      offset: its first row in a shard of "owned", in "columns" or in "copied".
      owner: of a table-wise table, the device that has it.
      hot_ids: ascending ids of a row-wise table whose rows are in "copied" as well, where the current values are.
      hot_offset: the first of those rows in "copied".
    """

    kind: Kind
    vocab_size: int
    dim: int
    offset: int
    owner: int = 0
    hot_ids: NDArray[np.int32] = dataclasses.field(default_factory=lambda: np.empty(0, np.int32))
    hot_offset: int = 0

    def rows_a_shard(self, shards: int) -> int:
        """Returns how many rows of each shard of "owned" a row-wise table takes."""
        return -(-self.vocab_size // shards)


@dataclasses.dataclass(frozen=True)
class Group:
    """All tables of one width.

    Attributes:
      dim: D.
      places: by the table's path.
      owned_rows: Q.
      column_rows: rows of "columns".
      copied_rows: rows of "copied".
    """

    dim: int
    places: Mapping[str, Place]
    owned_rows: int
    column_rows: int
    copied_rows: int


@dataclasses.dataclass(frozen=True)
class TableLayout:
    """The layout of all tables on a mesh; `axes` are all of its axes, over which rows and columns are split."""

    mesh: Mesh
    groups: Mapping[str, Group]

    @property
    def axes(self) -> tuple[str, ...]:
        """Returns the mesh axes, the first the slowest to vary from one shard to the next."""
        return tuple(self.mesh.axis_names)

    @property
    def shards(self) -> int:
        """Returns S."""
        return math.prod(self.mesh.shape.values())

    @property
    def places(self) -> dict[str, Place]:
        """Returns the place of every table by its path."""
        return {path: place for group in self.groups.values() for path, place in group.places.items()}

    def shardings(self, packed: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, NamedSharding]]:
        """Returns the sharding of each array of packed tables, or of their packed slots."""
        return {
            name: {part: NamedSharding(self.mesh, self.spec(part, array.ndim)) for part, array in arrays.items()}
            for name, arrays in packed.items()
        }

    def spec(self, part: str, ndim: int) -> PartitionSpec:
        """Returns how "owned", "columns" or "copied" is split; a column-wise slot of one number a row is not."""
        if part == "owned":
            return PartitionSpec(self.axes)
        return PartitionSpec(None, self.axes) if part == "columns" and ndim == 2 else PartitionSpec()


def whole_spec(mesh: Mesh, shape: tuple[int, ...]) -> PartitionSpec:
    """Returns how a table [V, D], or a slot of it, lies on a mesh outside a training step: its columns split evenly.

    They are split along all axes, or along those that divide them; a slot of one number a row is whole.
    """
    if len(shape) < 2:
        return PartitionSpec()
    axes, left = [], shape[1]
    for name, size in mesh.shape.items():
        if left % size == 0:
            axes.append(name)
            left //= size
    return PartitionSpec(None, tuple(axes) if axes else None)


def lay_out(
    mesh: Mesh, tables: Mapping[str, tuple[int, int]], kinds: Mapping[str, Kind], hot_ids: Mapping
) -> TableLayout:
    """Returns the layout in which every table is split as `kinds` says.

    Args:
      mesh: of the devices.
      tables: (V, D) by path.
      kinds: by path.
      hot_ids: of row-wise tables, ascending ids whose rows every device gets a copy of; by path, missing for none.
    """
    shards = math.prod(mesh.shape.values())
    groups = {}
    for dim in sorted({dim for _, dim in tables.values()}):
        places: dict[str, Place] = {}
        of_dim = {path: vocab_size for path, (vocab_size, width) in tables.items() if width == dim}
        owned = columns = copied = 0
        for path, vocab_size in of_dim.items():
            hot = np.asarray(hot_ids.get(path, ()), np.int32)
            match kinds[path]:
                case "row_wise":
                    places[path] = Place("row_wise", vocab_size, dim, owned, hot_ids=hot, hot_offset=copied)
                    owned += places[path].rows_a_shard(shards)
                    copied += len(hot)
                case "column_wise":
                    places[path] = Place("column_wise", vocab_size, dim, columns)
                    columns += vocab_size
                case "replicated":
                    places[path] = Place("replicated", vocab_size, dim, copied)
                    copied += vocab_size
        ends = [owned] * shards
        whole = [path for path in of_dim if kinds[path] == "table_wise"]
        for path in sorted(whole, key=lambda path: -of_dim[path]):  # the largest first, each to who has least
            owner = int(np.argmin(ends))
            places[path] = Place("table_wise", of_dim[path], dim, ends[owner], owner)
            ends[owner] += of_dim[path]
        groups[f"dim_{dim}"] = Group(dim, {path: places[path] for path in of_dim}, max(ends), columns, copied)
    return TableLayout(mesh, groups)


def pack(layout: TableLayout, tables: Mapping[str, Array]) -> Packed:
    """Returns the tables [V, D], or one slot of each of them, [V] or [V, W], in the layout; call it under jit."""
    packed: Packed = {}
    for name, group in layout.groups.items():
        arrays = {path: tables[path] for path in group.places}
        parts = {
            "owned": _pack_owned(group, arrays, layout.shards) if group.owned_rows else None,
            "columns": _pack_columns(group, arrays, layout.shards) if group.column_rows else None,
            "copied": _pack_copied(group, arrays) if group.copied_rows else None,
        }
        packed[name] = {part: array for part, array in parts.items() if array is not None}
    return packed


def unpack(layout: TableLayout, packed: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    """Returns every table, or one slot of each, in the order of its ids; call it under jit."""
    tables = {}
    for name, group in layout.groups.items():
        for path, place in group.places.items():
            tables[path] = unpack_table(layout, packed[name], place)
    return tables


def unpack_table(layout: TableLayout, parts: Mapping[str, Array], place: Place) -> Array:
    """Returns one table of a packed group, or one slot of it; call it under jit."""
    shards = layout.shards
    if place.kind == "replicated":
        return parts["copied"][place.offset : place.offset + place.vocab_size]
    if place.kind == "column_wise":
        rows = parts["columns"][place.offset : place.offset + place.vocab_size]
        return rows if rows.ndim == 1 else _swap_columns(rows, shards, place.dim, packed=True)
    by_shard = parts["owned"].reshape(shards, -1, *parts["owned"].shape[1:])
    if place.kind == "table_wise":
        return by_shard[place.owner, place.offset : place.offset + place.vocab_size]
    rows = by_shard[:, place.offset : place.offset + place.rows_a_shard(shards)].swapaxes(0, 1)
    table = rows.reshape(-1, *rows.shape[2:])[: place.vocab_size]
    if len(place.hot_ids):
        hot = parts["copied"][place.hot_offset : place.hot_offset + len(place.hot_ids)]
        table = table.at[place.hot_ids].set(hot, unique_indices=True, indices_are_sorted=True)
    return table


def _pack_owned(group: Group, tables: Mapping[str, Array], shards: int) -> Array:
    blocks: list[Array] = []
    whole: list[list[tuple[int, Array]]] = [[] for _ in range(shards)]
    for path, place in group.places.items():
        if place.kind == "row_wise":
            table, rows = tables[path], place.rows_a_shard(shards)
            padded = _pad(table, rows * shards)
            blocks.append(padded.reshape(rows, shards, *table.shape[1:]).swapaxes(0, 1))
        elif place.kind == "table_wise":
            whole[place.owner].append((place.offset, tables[path]))
    left = group.owned_rows - sum(block.shape[1] for block in blocks)
    if left:
        like = next(iter(tables.values()))
        ordered = [[table for _, table in sorted(of_owner, key=lambda one: one[0])] for of_owner in whole]
        empty = jnp.zeros((0, *like.shape[1:]), like.dtype)
        blocks.append(jnp.stack([_pad(jnp.concatenate([empty, *of_owner]), left) for of_owner in ordered]))
    stacked = jnp.concatenate(blocks, axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])


def _pack_columns(group: Group, tables: Mapping[str, Array], shards: int) -> Array:
    rows = jnp.concatenate([tables[path] for path, place in group.places.items() if place.kind == "column_wise"])
    return rows if rows.ndim == 1 else _swap_columns(rows, shards, group.dim, packed=False)


def _pack_copied(group: Group, tables: Mapping[str, Array]) -> Array:
    parts = []
    for path, place in group.places.items():
        if place.kind == "replicated":
            parts.append(tables[path])
        elif len(place.hot_ids):
            parts.append(tables[path].at[place.hot_ids].get(mode="promise_in_bounds"))
    return jnp.concatenate(parts)


def _swap_columns(rows: Array, shards: int, dim: int, *, packed: bool) -> Array:
    """Returns rows [V, k x D] with each shard's columns of all k parts side by side, or such rows as they were."""
    k, of_shard = rows.shape[1] // dim, dim // shards
    order = (shards, k) if packed else (k, shards)
    return rows.reshape(-1, *order, of_shard).swapaxes(1, 2).reshape(rows.shape)


def _pad(rows: Array, length: int) -> Array:
    return jnp.pad(rows, [(0, length - len(rows)), *[(0, 0)] * (rows.ndim - 1)])
