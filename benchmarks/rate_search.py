"""The search for the highest rate at which a server's p99 holds its latency limit."""

from collections.abc import Callable

import numpy as np

from benchmarks.scenarios import Window

MIN_SERVER_QUERIES = 700  # MLPerf's early stopping needs 662 for a p99 with one miss (99% confidence, one window)
MAX_LOWERED = 8  # times that an unconfirmed rate is lowered by 10% before the row is given up as invalid

Probe = Callable[[float, int], Window]


def window_at_rate(probe: Probe, rate_qps: float, n_queries: int, slo_ms: float) -> tuple[Window, bool, bool]:
    """Returns the window, whether its p99 holds the limit, and whether it is the second, the first having failed.

    Only two failures in a row are one: a single stall of a shared machine is longer than many limits, and at
    hundreds of thousands of queries a second it is more than 1% of a window.
    """

    def holds(window: Window) -> bool:
        p99_ms = np.percentile(window.latency_ms, 99, method="inverted_cdf")
        return bool(not window.overloaded and p99_ms <= slo_ms)

    window = probe(rate_qps, n_queries)
    if holds(window):
        return window, True, False
    window = probe(rate_qps, n_queries)
    return window, holds(window), True


def highest_rate_within_limit(
    probe: Probe, capacity_qps: float, slo_ms: float, probe_s: float, steps: int
) -> tuple[Window, dict[str, float | None]]:
    """Returns the window at the highest rate whose p99 held the limit, and how it was searched.

    The bracket is halved (geometrically) `steps` times with short probes. The rate found must then hold the
    limit in a window twice as long; each time it does not, it is lowered by 10%. Every rate has two tries, as
    `window_at_rate` says, which is kinder than a single window: `retried` says where the result needed both.

    Args:
      probe: runs a server window at (rate_qps, n_queries).
      capacity_qps: what the model answers at most, such as its offline rate: the search starts at 0.6 and
        never goes above 1.2 times this.
      slo_ms: limit of p99.
      probe_s: length of a probe; a probe has at least MIN_SERVER_QUERIES.
      steps: halvings of the bracket.

    Returns:
      The window, and `steps`; `lowered`, how often a rate was lowered; `retried`, whether the window is the second
      at its rate, the first having failed; `failed_at_qps`, the lowest rate that failed, None if none did.
    """

    def run(rate_qps: float, length_s: float) -> tuple[Window, bool, bool]:
        return window_at_rate(probe, rate_qps, max(MIN_SERVER_QUERIES, round(rate_qps * length_s)), slo_ms)

    low = 0.0
    high = never_tried = 1.2 * capacity_qps
    rate = 0.6 * capacity_qps
    for _ in range(steps):
        _, held, _ = run(rate, probe_s)
        low, high = (rate, high) if held else (low, rate)
        rate = (low * high) ** 0.5 if low else high / 2
    rate = low or rate
    window, held, retried = run(rate, 2 * probe_s)
    lowered = 0
    while not held and lowered < MAX_LOWERED:
        high, rate, lowered = rate, 0.9 * rate, lowered + 1
        window, held, retried = run(rate, 2 * probe_s)
    if not held:
        high = rate
    failed_at_qps = None if high == never_tried else high
    return window, {"steps": steps, "lowered": lowered, "retried": retried, "failed_at_qps": failed_at_qps}
