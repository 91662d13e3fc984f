"""Does a system leak? Its memory at the boundaries of windows, against the queries it answered in between.

A system that warms up grows and stops; an allocator that keeps pages goes up and down. A leak goes on.
"""

import ctypes
import dataclasses
import gc
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recjax.measurement.trend import theil_sen

MIN_GROWTH_BYTES = 8 * 2**20  # over the later half; less may be fragmentation
MIN_GROWTH_SHARE = 0.01  # of the first reading, if that is more
GROWING_SHARE = 0.75  # of the later windows; a leak is in all of them
MIN_STEP_BYTES = 64 * 2**10  # that a growing window adds
MIN_WINDOWS = 5  # fewer show no trend with 95% confidence
STATM = Path("/proc/self/statm")


@dataclasses.dataclass(frozen=True)
class MemoryGrowth:
    """Whether memory grows without end.

    Attributes:
      leaking: None if there were too few windows to tell.
      bytes_per_query: Theil-Sen slope.
      later_bytes: growth over the later half of the windows.
      reason: in words.
    """

    leaking: bool | None
    bytes_per_query: float | None
    later_bytes: int
    reason: str


def memory_growth(boundary_bytes: Sequence[int], queries: Sequence[int]) -> MemoryGrowth:
    """Returns whether memory leaks; call it once with resident and once with device bytes.

    It leaks if all of this holds:
    - bytes grow with the queries over all windows: the 95% interval of the slope lies above 0;
    - they grow by more than the threshold over the later half, 8 MiB or 1% of the first reading;
    - without the largest step of that half, they still grow by half of the threshold: a buffer that is made once
      is one step;
    - three quarters of that half's windows grow, by 64 KiB or more: at large batches some windows hold tens of MiB of
      buffers more than others, which come and go.

    Args:
      boundary_bytes: [W + 1] before the first window and after each.
      queries: [W] answered in each window, at least one.
    """
    sizes = np.asarray(boundary_bytes, float)
    middle = len(queries) // 2
    steps = np.diff(sizes[middle:])
    later, largest_step = float(steps.sum()), float(steps.max())
    threshold = max(MIN_GROWTH_BYTES, MIN_GROWTH_SHARE * sizes[0])
    if len(queries) < MIN_WINDOWS:
        return MemoryGrowth(None, None, int(later), f"{len(queries)} windows; at least {MIN_WINDOWS} are needed")
    trend = theil_sen(np.concatenate([[0.0], np.cumsum(queries, dtype=float)]), sizes)
    seen = f"{later / 2**20:+.1f} MiB over the last {len(steps)} of {len(queries)} windows"
    if trend.low is None or trend.low <= 0:
        leaking, reason = False, f"{seen}, no growth that goes on"
    elif later <= threshold:
        leaking, reason = False, f"{seen}, up to {threshold / 2**20:.1f} MiB are no leak"
    elif later - largest_step <= threshold / 2:
        leaking, reason = False, f"{seen}, most of it in one step"
    elif np.mean(steps >= MIN_STEP_BYTES) < GROWING_SHARE:
        leaking, reason = False, f"{seen}, in {np.count_nonzero(steps >= MIN_STEP_BYTES)} of {len(steps)} windows"
    else:
        leaking, reason = True, f"{seen}, {trend.slope:,.0f} bytes a query (at least {trend.low:,.0f})"
    return MemoryGrowth(leaking, trend.slope, int(later), reason)


def resident_bytes() -> tuple[int | None, str | None]:
    """Returns the memory of this process that lies in RAM, or None and why; garbage and free pages are returned first.

    Without that, a heap that has shrunk looks as large as it ever was. It takes milliseconds: call it between windows.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it; musl and macOS have not
    if trim is not None:
        trim(0)
    try:
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"), None
    except OSError:
        return None, f"the system has no {STATM}"
