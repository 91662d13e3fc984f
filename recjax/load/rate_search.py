"""The search for the highest rate at which a system holds its latency limit."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from recjax.load.checks import window_fault
from recjax.load.window import Window
from recjax.measurement.early_stopping import limit_verdict

CONFIRMATIONS = 3  # windows in a row that must hold at the rate that is reported
MIN_CONFIRMING_QUERIES = 1307  # early stopping lets 5 of them exceed a limit of p99 (99% confidence)
MIN_PROBE_QUERIES = 662  # and 1 of these
LOWERED_BY = 0.9  # of the rate, when it is not confirmed
MAX_LOWERED = 12  # times; 0.9 ** 12 = 0.28 of the rate that the probes found
MAX_DESCENTS = 8  # halvings of the rate before one holds at all

Probe = Callable[[float, int], Window]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RateSearch:
    """The confirmed rate and how it was found.

    Attributes:
      rate_qps: the rate of `windows`: the highest that was confirmed or, if none was, the lowest that was tried.
      windows: of the last attempt at confirming it, in order.
      confirmed: whether all of CONFIRMATIONS windows held.
      failed_at_qps: the lowest rate at which a window failed, None if none did.
      probes: windows before the first attempt at confirming.
      lowered: how often the rate was lowered because it was not confirmed.
    """

    rate_qps: float
    windows: tuple[Window, ...]
    confirmed: bool
    failed_at_qps: float | None
    probes: int
    lowered: int

    def in_row(self) -> dict[str, Any]:
        """Returns the search as it stands in a result row."""
        return {
            "confirmed": self.confirmed,
            "confirmations": len(self.windows),
            "held_at_qps": self.rate_qps if self.confirmed else None,
            "failed_at_qps": self.failed_at_qps,
            "probes": self.probes,
            "lowered": self.lowered,
        }


def holds_limit(window: Window, slo_ms: float) -> tuple[bool, str]:
    """Returns whether the window shows with 99% confidence that p99 is within the limit, and in words why not.

    Every arrival has to be answered; of n answers, as many may exceed the limit as MLPerf's early stopping allows.
    """
    if window.overloaded:
        return False, f"waiting grew without bound: a query waited several times {slo_ms:g} ms"
    if window.failed_early:
        return False, f"more queries took longer than {slo_ms:g} ms than p99 allows of as many as were to come"
    if window.unanswered:
        return False, f"{window.unanswered:,} arrivals were not answered"
    return limit_verdict(window.latency_ms, slo_ms, percentile=0.99)


def highest_rate_within_limit(
    probe: Probe, capacity_qps: float, slo_ms: float, probe_s: float, steps: int
) -> RateSearch:
    """Returns the highest rate that holds the limit in CONFIRMATIONS windows of CONFIRMATIONS.

    The rate is halved until a short probe holds; from there on the bracket is halved (geometrically), with `steps`
    probes in all. A probe that fails is repeated once, so that
    one stall of a shared machine does not cut the bracket. The rate found must then be confirmed, in windows twice as
    long: see `confirm_rate`.

    Args:
      probe: runs a window at (rate_qps, n_queries).
      capacity_qps: what the system answers at most, such as its offline rate: the search starts at 0.6 and
        never goes above 1.2 times this.
      slo_ms: limit of p99.
      probe_s: length of a probe; a probe has at least MIN_PROBE_QUERIES.
      steps: probes from the first that holds.
    """

    def held_at(rate_qps: float) -> bool:
        return _probed(probe, rate_qps, max(MIN_PROBE_QUERIES, round(rate_qps * probe_s)), slo_ms)[1]

    probes, failed = 0, list[float]()
    low, high = 0.0, 1.2 * capacity_qps
    rate = 0.6 * capacity_qps
    within = descents = 0
    while within < steps and descents < MAX_DESCENTS:
        held, probes = held_at(rate), probes + 1
        if not held:
            held, probes = held_at(rate), probes + 1
        low, high = (rate, high) if held else (low, rate)
        failed += [] if held else [rate]
        within, descents = (within + 1, descents) if low else (within, descents + 1)
        rate = (low * high) ** 0.5 if low else high / 2
    found = confirm_rate(probe, low or rate, slo_ms, 2 * probe_s)
    failed += [found.failed_at_qps] if found.failed_at_qps else []
    return dataclasses.replace(found, failed_at_qps=float(np.min(failed)) if failed else None, probes=probes)


def confirm_rate(probe: Probe, rate_qps: float, slo_ms: float, window_s: float) -> RateSearch:
    """Returns the rate at which CONFIRMATIONS windows of CONFIRMATIONS held the limit, the given one or a lower one.

    No window is repeated: at the first that does not hold, or is no measurement, such as one whose generator fell
    behind, the rate is lowered by a tenth and has to be confirmed anew.

    Args:
      probe: runs a window at (rate_qps, n_queries).
      rate_qps: to begin with.
      slo_ms: limit of p99.
      window_s: length of a window; it has at least MIN_CONFIRMING_QUERIES.
    """
    rate, failed = rate_qps, list[float]()
    for lowered in range(MAX_LOWERED + 1):
        windows: list[Window] = []
        held = True
        while held and len(windows) < CONFIRMATIONS:
            window, held = _probed(probe, rate, max(MIN_CONFIRMING_QUERIES, round(rate * window_s)), slo_ms)
            windows.append(window)
        failed += [] if held else [rate]
        if held or lowered == MAX_LOWERED:
            break
        rate *= LOWERED_BY
    return RateSearch(
        rate_qps=rate,
        windows=tuple(windows),
        confirmed=held,
        failed_at_qps=min(failed, default=None),
        probes=0,
        lowered=lowered,
    )


def _probed(probe: Probe, rate_qps: float, n_queries: int, slo_ms: float) -> tuple[Window, bool]:
    window = probe(rate_qps, n_queries)
    return window, window_fault(window, slo_ms) is None and holds_limit(window, slo_ms)[0]
