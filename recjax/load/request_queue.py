"""What waits for the next batch, first come first served; a query may be spread over several batches.

Shapes: N queries, S samples.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class RequestQueue:
    """Samples in the order of their queries."""

    def __init__(self) -> None:
        """Starts empty."""
        self._rows = np.zeros(1024, np.int32)
        self._ends = np.zeros(1024, np.int64)  # of queries: number of the sample after their last
        self._taken = self._added = 0  # samples
        self._completed = self._queries = 0  # queries

    @property
    def waiting(self) -> int:
        """Returns how many samples wait."""
        return self._added - self._taken

    def add(self, sizes_N: NDArray, rows_S: NDArray) -> None:
        """Appends queries of these sizes and rows."""
        self._rows = _grown(self._rows, self._added + len(rows_S))
        self._ends = _grown(self._ends, self._queries + len(sizes_N))
        self._rows[self._added : self._added + len(rows_S)] = rows_S
        self._ends[self._queries : self._queries + len(sizes_N)] = self._added + np.cumsum(sizes_N)
        self._added += len(rows_S)
        self._queries += len(sizes_N)

    def take(self, n: int) -> tuple[NDArray, int]:
        """Returns the rows of the first n waiting samples, and how many queries they complete."""
        rows = self._rows[self._taken : self._taken + n]
        self._taken += n
        ends = self._ends[: self._queries]
        before, self._completed = self._completed, int(np.searchsorted(ends, self._taken, side="right"))
        return rows, self._completed - before


def _grown(array: NDArray, needed: int) -> NDArray:
    if needed <= len(array):
        return array
    larger = np.zeros(max(needed, 2 * len(array)), array.dtype)
    larger[: len(array)] = array
    return larger


def batch_size_of(waiting: int, buckets: Sequence[int]) -> int:
    """Returns how many of the waiting samples go into the next batch.

    Usually all of them. But as many as fill a bucket, if the rest then fits in a second batch of that size and
    all together would leave more than half of the next bucket empty: two full small batches beat a large one
    that is mostly padding.
    """
    full = max((size for size in buckets if size <= waiting), default=0)
    padded = min((size for size in buckets if size >= waiting), default=buckets[-1])
    if waiting > buckets[-1] or (waiting <= 2 * full and 2 * waiting < padded):
        return full
    return waiting
