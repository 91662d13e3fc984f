"""Is a system in its steady state? perf_analyzer's rule on the last windows."""

from collections.abc import Sequence

from numpy.typing import NDArray

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
