"""The fixed sizes of the buffers that SparseCores take a batch's ids in."""

import dataclasses
from collections.abc import Collection, Mapping

from recjax.errors import UserError
from recjax.parallel.sparsecore_library import ALIGNMENT


@dataclasses.dataclass(frozen=True, kw_only=True)
class StackLimits:
    """The fixed sizes of one stack's buffers; a batch that needs more is refused.

    Attributes:
      ids: that the samples of one SparseCore look up on one SparseCore, at most; multiple of 8.
      unique_ids: distinct ones among them; multiple of 8.
      buffer: entries of one device's id buffer, padding between partitions included; multiple of 8 for each of the
        device's SparseCores.
    """

    ids: int
    unique_ids: int
    buffer: int


def largest_buffer(ids: int, devices: int, sparsecores: int) -> int:
    """Returns the entries of a device's buffer when every partition is full; the library allows no more."""
    return ids * devices * sparsecores * sparsecores


def limits_of_any_batch(
    ids_a_sample: Mapping[str, int], samples: int, devices: int, sparsecores: int
) -> dict[str, StackLimits]:
    """Returns limits that no batch exceeds: all ids of a SparseCore's samples could lie on one SparseCore.

    Args:
      ids_a_sample: of each stack, at most.
      samples: of one SparseCore.
      devices: of the mesh.
      sparsecores: of one device.
    """
    limits = {}
    for name, most in ids_a_sample.items():
        ids = -(-samples * most // ALIGNMENT) * ALIGNMENT
        padded = (ids + ALIGNMENT * devices * sparsecores) * sparsecores  # every partition is padded
        buffer = min(padded, largest_buffer(ids, devices, sparsecores))
        limits[name] = StackLimits(ids=ids, unique_ids=ids, buffer=buffer)
    return limits


def check_limits(limits: Mapping[str, StackLimits], stacks: Collection[str], devices: int, sparsecores: int) -> None:
    """Raises UserError for limits of other stacks, and for those on which the library would end the process."""
    if set(limits) != set(stacks):
        raise UserError(
            f"limits are of the stacks {', '.join(sorted(limits))}; these tables have {', '.join(sorted(stacks))}; "
            "take them from measure_limits of tables of this schema and mesh"
        )
    step = ALIGNMENT * sparsecores
    for name, limit in limits.items():
        positive = min(limit.ids, limit.unique_ids, limit.buffer) > 0
        aligned = limit.ids % ALIGNMENT == 0 and limit.buffer % step == 0
        most = largest_buffer(limit.ids, devices, sparsecores)
        if not positive or not aligned or limit.unique_ids > limit.ids or limit.buffer > most:
            raise UserError(
                f"limits of stack {name} are {limit}; allowed: ids a multiple of {ALIGNMENT}, unique_ids 1 to ids, "
                f"buffer a multiple of {step} up to {most}"
            )
