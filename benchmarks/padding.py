"""How much of the computed samples is padding, and how much it would be with other compiled batch sizes.

The second is arithmetic on the batches that were formed, not a measurement: with other sizes other batches would have
formed, and each size takes time to compile. It tells which sizes are worth measuring.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.row_fields import bucket_of

STEPS = 8  # of "equal steps"


def bucket_policies(buckets: Sequence[int]) -> dict[str, list[int]]:
    """Returns sets of batch sizes up to the same largest one, by name; the first is the given one."""
    largest = buckets[-1]
    equal = sorted({max(1, largest * step // STEPS) for step in range(1, STEPS + 1)})
    return {
        "as served": list(buckets),
        "one size": [largest],
        "powers of 4": _powers(4, largest),
        "powers of 2": _powers(2, largest),
        f"{STEPS} equal steps": equal,
    }


def padding_by_buckets(batch_sizes: Iterable[Mapping[str, int]], buckets: Sequence[int]) -> dict[str, Any]:
    """Returns by policy its batch sizes and the share of padding that these batches would have with them.

    Args:
      batch_sizes: of each window, how many batches of each number of samples were formed.
      buckets: that they were padded to; the largest holds every batch.
    """
    counted: dict[int, int] = {}
    for of_window in batch_sizes:
        for samples, count in of_window.items():
            counted[int(samples)] = counted.get(int(samples), 0) + count
    asked = sum(samples * count for samples, count in counted.items())
    if not asked:
        return {}
    found = {}
    for name, sizes in bucket_policies(buckets).items():
        computed = sum(count * bucket_of(sizes, samples) for samples, count in counted.items())
        found[name] = {"buckets": sizes, "padding_waste": 1 - asked / computed}
    return found


def _powers(base: int, largest: int) -> list[int]:
    sizes = [1]
    while sizes[-1] * base < largest:
        sizes.append(sizes[-1] * base)
    return sizes if largest == 1 else [*sizes, largest]
