"""A batch's ids as SparseCores take them, prepared on the host, and buffers of the size that batches need.

Shapes: B batch, T ids a sample.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from recjax.data.batches import PADDING_ID
from recjax.errors import UserError
from recjax.parallel.sparsecore import Inputs, SparseCoreTables, with_limits
from recjax.parallel.sparsecore_library import ALIGNMENT, import_library
from recjax.parallel.sparsecore_limits import StackLimits, largest_buffer

REMEDY = "measure_limits takes them from batches of ids: give it more batches or more headroom"


def measure_limits(
    tables: SparseCoreTables, batches: Iterable[Mapping[str, NDArray]], *, headroom: float = 1.25
) -> dict[str, StackLimits]:
    """Returns buffer sizes for each stack: the most that any of the batches needs, times `headroom`.

    With several hosts each measures its own part of the batches; the programs need the largest of all.

    Args:
      tables: their own limits do not matter.
      batches: each with `sparse_ids` [B, T] and, where it has one, `weight` [B], as training will have them.
      headroom: >= 1; batches differ, and one that needs more than the limits is refused.

    Raises:
      UserError: no batches, a headroom below 1, or ids outside a table.
    """
    if headroom < 1:
        raise UserError(f"headroom is {headroom!r}; allowed: >= 1")
    room = with_limits(tables, None)
    needed: dict[str, StackLimits] = {}
    for batch in batches:
        _, statistics = _preprocess(room, batch["sparse_ids"], batch.get("weight"))
        for name, now in _needs(room, statistics).items():
            before = needed.get(name, now)
            needed[name] = StackLimits(
                ids=max(before.ids, now.ids),
                unique_ids=max(before.unique_ids, now.unique_ids),
                buffer=max(before.buffer, now.buffer),
            )
    if not needed:
        raise UserError("measure_limits got no batches; give it some of the training part")

    def with_headroom(size: int, most: int, step: int = ALIGNMENT) -> int:
        return min(most, max(step, math.ceil(size * headroom / step) * step))

    limits = {}
    for name, need in needed.items():
        most = room.limits[name]
        ids = with_headroom(need.ids, most.ids)
        limits[name] = StackLimits(
            ids=ids,
            unique_ids=with_headroom(need.unique_ids, ids),
            buffer=with_headroom(
                need.buffer,
                min(most.buffer, largest_buffer(ids, tables.mesh.size, tables.sparsecores)),
                ALIGNMENT * tables.sparsecores,
            ),
        )
    return limits


def preprocess(tables: SparseCoreTables, sparse_ids_BT: Int[np.ndarray, "B T"], weight: Any = None) -> Inputs:
    """Returns a batch's ids as the SparseCores take them; NumPy arrays, to be put on the devices over all axes.

    Runs on the host. Padding looks nothing up, nor do the samples of weight 0, so that neither moves a row.

    Args:
      tables: which rows lie where.
      sparse_ids_BT: in [0, V) of their field, or PADDING_ID; with several hosts, this host's rows of the batch.
      weight: [B]; None counts all samples.

    Raises:
      UserError: an id outside its table, another number of samples, or a batch that needs more than the limits.
    """
    inputs, statistics = _preprocess(tables, sparse_ids_BT, weight)
    dropped = {name: int(count) for name, count in statistics.id_drop_counters.items() if count}
    for name, need in _needs(tables, statistics).items():
        limit = tables.limits[name]
        if (
            dropped.get(name)
            or need.ids > limit.ids
            or need.unique_ids > limit.unique_ids
            or need.buffer > limit.buffer
        ):
            raise UserError(
                f"a batch needs {need} for stack {name}; its limits are {limit}, with which "
                f"{dropped.get(name, 0)} ids would be dropped; {REMEDY}"
            )
    return inputs


def _needs(tables: SparseCoreTables, statistics: Any) -> dict[str, StackLimits]:
    """Returns what a batch needs of each stack."""
    return {
        name: StackLimits(
            ids=int(np.max(statistics.max_ids_per_partition[name])),
            unique_ids=int(np.max(statistics.max_unique_ids_per_partition[name])),
            buffer=int(np.max(statistics.required_buffer_size_per_sc[name])) * tables.sparsecores,
        )
        for name in tables.stacks
    }


def _preprocess(tables: SparseCoreTables, sparse_ids_BT: NDArray, weight: Any) -> tuple[Inputs, Any]:
    """Returns the inputs and their statistics; ids beyond the limits are dropped and counted.

    The library ends the process on such ids unless it may drop them.
    """
    expected = tables.local_batch_size
    if len(sparse_ids_BT) != expected:
        raise UserError(f"sparse_ids has {len(sparse_ids_BT)} samples; allowed: {expected}, this host's of batch_size")
    used_B1 = np.ones((expected, 1), bool) if weight is None else np.asarray(weight)[:, None] > 0
    parts = {}
    fields = tables.schema.fields
    ends = np.cumsum([field.length for field in fields])
    for field, ids_BL in zip(fields, np.split(sparse_ids_BT, ends[:-1], axis=1), strict=True):
        if ids_BL.max(initial=PADDING_ID) >= field.vocab_size or ids_BL.min(initial=0) < PADDING_ID:
            raise UserError(
                f"ids of field {field.name} reach from {ids_BL.min()} to {ids_BL.max()}; allowed: 0 to "
                f"{field.vocab_size - 1}, and {PADDING_ID} for padding"
            )
        sample, place = np.nonzero((ids_BL != PADDING_ID) & used_B1)
        indices = np.stack([sample, place], 1).astype(np.int64)
        parts[field.name] = indices, ids_BL[sample, place].astype(np.int32), np.array(ids_BL.shape, np.int64)
    columns: Sequence[dict[str, NDArray]] = [{name: part[i] for name, part in parts.items()} for i in range(3)]
    return import_library().embedding.preprocess_sparse_dense_matmul_input_from_sparse_tensor(
        *columns,
        dict(tables.features),
        expected * tables.mesh.size // tables.batch_size,  # devices of this host
        tables.mesh.size,
        num_sc_per_device=tables.sparsecores,
        allow_id_dropping=True,
    )
