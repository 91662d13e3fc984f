"""What waits for the next batch, first come first served; a query may be spread over several batches.

Shapes: N queries, S samples.
"""

import bisect
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recjax.load.wire import INT32


class RequestQueue:
    """Samples in the order of their queries."""

    def __init__(self) -> None:
        """Starts empty."""
        self._row_bytes = bytearray()  # of the samples that wait, int32
        self._ends = list[int]()  # of all queries: number of the sample after their last
        self._taken = self._added = 0  # samples
        self._completed = 0  # queries

    @property
    def waiting(self) -> int:
        """Returns how many samples wait."""
        return self._added - self._taken

    def add(self, sizes_N: Sequence[int], row_bytes: bytes) -> None:
        """Appends queries of these sizes, and their rows [S], int32."""
        ends = itertools.accumulate(sizes_N, initial=self._added)
        next(ends)
        self._ends.extend(ends)
        self._added = self._ends[-1]
        self._row_bytes += row_bytes

    def take(self, n: int) -> tuple[NDArray, int]:
        """Returns the rows of the first n waiting samples, int32, and how many queries they complete."""
        rows = np.frombuffer(bytes(self._row_bytes[: INT32 * n]), np.int32)
        del self._row_bytes[: INT32 * n]
        self._taken += n
        before, self._completed = self._completed, bisect.bisect_right(self._ends, self._taken, self._completed)
        return rows, self._completed - before


def batch_size_of(waiting: int, buckets: Sequence[int]) -> int:
    """Returns how many of the waiting samples go into the next batch.

    Usually all of them. But as many as fill a bucket, if the rest then fits in a second batch of that size and
    all together would leave more than half of the next bucket empty: two full small batches beat a large one
    that is mostly padding.

    Args:
      waiting: samples, one or more.
      buckets: batch sizes, ascending.
    """
    above = bisect.bisect_left(buckets, waiting)
    if above == len(buckets):
        return buckets[-1]
    padded = buckets[above]
    if padded == waiting or not above:
        return waiting
    full = buckets[above - 1]
    return full if waiting <= 2 * full and 2 * waiting < padded else waiting
