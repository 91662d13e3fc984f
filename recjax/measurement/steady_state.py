"""Is a system in its steady state? perf_analyzer's rule on the last windows, and drift over all of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recjax.measurement.trend import Trend, theil_sen

LAST_WINDOWS = 3
TOLERANCE = 0.10


def steady_state(
    throughput: Sequence[float | int] | NDArray,
    latency_ms: Sequence[float | int] | NDArray,
    last_windows: int = LAST_WINDOWS,
    tolerance: float = TOLERANCE,
) -> tuple[bool, str]:
    """Returns whether the last windows of one process agree in throughput and in latency, and in words why.

    They do if the largest is at most 1 + tolerance times the smallest, of either, and all have answered something.
    This is what perf_analyzer computes, and a little stricter than "within 10% of their mean".

    Args:
      throughput: [W] of each window in the order of time, in queries/s or samples/s.
      latency_ms: [W] one percentile of each window.
      last_windows: how many must agree.
      tolerance: share.

    Source: triton-inference-server/perf_analyzer, src/inference_profiler.cc, DetermineStability and its parts.
    """
    if len(throughput) < last_windows:
        return False, f"{len(throughput)} windows; {last_windows} must agree within {tolerance:.0%}"
    if min(throughput[-last_windows:]) <= 0:
        return False, f"one of the last {last_windows} windows answered nothing"
    steady, seen = True, []
    for name, values in (("throughput", throughput), ("latency", latency_ms)):
        smallest, largest = min(values[-last_windows:]), max(values[-last_windows:])
        steady = steady and bool(largest <= (1 + tolerance) * smallest)
        seen.append(f"{name} from {smallest:.4g} to {largest:.4g}")
    return steady, f"the last {last_windows} windows reach in {', in '.join(seen)}; {tolerance:.0%} is allowed"


def drift(values: Sequence[float | int] | NDArray) -> Trend:
    """Returns by what share of their median the windows change from the first to the last, with a 95% interval.

    An interval without 0 is a drift: the machine heats up, a cache fills, memory fragments. It takes five windows.

    Args:
      values: [W] of one process in the order of time: throughputs, or one percentile of each window; two or more.
    """
    y = np.asarray(values, float)
    trend = theil_sen(np.arange(len(y), dtype=float), y)
    scale = (len(y) - 1) / float(np.median(y))
    low, high = (None if bound is None else bound * scale for bound in (trend.low, trend.high))
    return Trend(trend.slope * scale, low, high)
