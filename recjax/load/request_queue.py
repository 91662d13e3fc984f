"""What waits for the next batch, first come first served; a query may be spread over several batches.

Shapes: N queries, S samples.
"""

import bisect
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recjax.load.wire import INT32


class RequestQueue:
    """Samples in the order of their queries."""

    def __init__(self) -> None:
        """Starts empty."""
        self._rows = bytearray()  # of the samples that wait
        self._ends = deque[int]()  # of the queries that wait: number of the sample after their last
        self._taken = self._added = 0  # samples

    @property
    def waiting(self) -> int:
        """Returns how many samples wait."""
        return self._added - self._taken

    def add(self, sizes_N: Sequence[int], rows: bytes) -> None:
        """Appends queries of these sizes; `rows` are the bytes of [S] int32."""
        for size in sizes_N:
            self._added += size
            self._ends.append(self._added)
        self._rows += rows

    def take(self, n: int) -> tuple[NDArray, int]:
        """Returns the rows of the first n waiting samples, int32, and how many queries they complete."""
        rows = bytes(self._rows[: INT32 * n])
        del self._rows[: INT32 * n]
        self._taken += n
        completed = 0
        while self._ends and self._ends[0] <= self._taken:
            self._ends.popleft()
            completed += 1
        return np.frombuffer(rows, np.int32), completed


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
