"""The search for the highest rate at which a system holds its latency limit."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from recjax.load.checks import late_generator, window_fault
from recjax.load.window import Window
from recjax.measurement.early_stopping import limit_verdict

CONFIRMATIONS = 3  # windows in a row that must hold at the rate that is reported
MIN_CONFIRMING_QUERIES = 1307  # early stopping lets 5 of them exceed a limit of p99 (99% confidence)
MIN_PROBE_QUERIES = 662  # and 1 of these
LOWERED_BY = 0.9  # of the rate, when it is not confirmed
MAX_LOWERED = 24  # times; 0.9 ** 24 = 0.08 of the rate that the probes found
MAX_DESCENTS = 8  # halvings of the rate before one holds at all
MAX_LATE = 3  # windows at one rate whose generator fell behind, before that counts as a failure

Probe = Callable[[float, int], Window]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RateSearch:
    """The confirmed rate and how it was found.

    Attributes:
      rate_qps: the rate of `windows`: the highest that was confirmed or, if none was, the lowest that was tried.
      windows: of the last attempt at confirming it, in order.
      confirmed: whether all of CONFIRMATIONS windows held.
      failed_at_qps: the lowest rate at which a window failed, None if none did.
      late_generator: that it failed there because the load generator fell behind, in words; None if the system failed.
      probes: windows before the first attempt at confirming.
      lowered: how often the rate was lowered because it was not confirmed.
    """

    rate_qps: float
    windows: tuple[Window, ...]
    confirmed: bool
    failed_at_qps: float | None
    late_generator: str | None
    probes: int
    lowered: int

    def in_row(self) -> dict[str, Any]:
        """Returns the search as it stands in a result row."""
        return {
            "confirmed": self.confirmed,
            "confirmations": len(self.windows),
            "held_at_qps": self.rate_qps if self.confirmed else None,
            "failed_at_qps": self.failed_at_qps,
            "late_generator": self.late_generator,
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
    probes in all. A probe that fails is repeated once, so that one stall of a shared machine does not cut the bracket.
    The rate found must then be confirmed, in windows twice as long: see `confirm_rate`.

    Args:
      probe: runs a window at (rate_qps, n_queries).
      capacity_qps: what the system answers at most, such as its offline rate: the search starts at 0.6 and
        never goes above 1.2 times this.
      slo_ms: limit of p99.
      probe_s: length of a probe; a probe has at least MIN_PROBE_QUERIES.
      steps: probes from the first that holds.
    """

    def probed_at(rate_qps: float) -> tuple[bool, str | None]:
        return _probed(probe, rate_qps, max(MIN_PROBE_QUERIES, round(rate_qps * probe_s)), slo_ms)[1:]

    probes, failures = 0, list[tuple[float, str | None]]()
    low, high = 0.0, 1.2 * capacity_qps
    rate = 0.6 * capacity_qps
    within = descents = 0
    while within < steps and descents < MAX_DESCENTS:
        (held, late), probes = probed_at(rate), probes + 1
        if not held:
            (held, late), probes = probed_at(rate), probes + 1
        low, high = (rate, high) if held else (low, rate)
        failures += [] if held else [(rate, late)]
        within, descents = (within + 1, descents) if low else (within, descents + 1)
        rate = (low * high) ** 0.5 if low else high / 2
    found = confirm_rate(probe, low or rate, slo_ms, 2 * probe_s)
    failures += [(found.failed_at_qps, found.late_generator)] if found.failed_at_qps else []
    failed_at_qps, late = _lowest(failures)
    return dataclasses.replace(found, failed_at_qps=failed_at_qps, late_generator=late, probes=probes)


def confirm_rate(probe: Probe, rate_qps: float, slo_ms: float, window_s: float) -> RateSearch:
    """Returns the rate at which CONFIRMATIONS windows of CONFIRMATIONS held the limit, the given one or a lower one.

    No window that does not hold is repeated: the rate is lowered by a tenth and has to be confirmed anew.

    Args:
      probe: runs a window at (rate_qps, n_queries).
      rate_qps: to begin with.
      slo_ms: limit of p99.
      window_s: length of a window; it has at least MIN_CONFIRMING_QUERIES.
    """
    rate, failures = rate_qps, list[tuple[float, str | None]]()
    for lowered in range(MAX_LOWERED + 1):
        windows: list[Window] = []
        held = True
        while held and len(windows) < CONFIRMATIONS:
            window, held, late = _probed(probe, rate, max(MIN_CONFIRMING_QUERIES, round(rate * window_s)), slo_ms)
            windows.append(window)
        failures += [] if held else [(rate, late)]
        if held or lowered == MAX_LOWERED:
            break
        rate *= LOWERED_BY
    failed_at_qps, late = _lowest(failures)
    return RateSearch(
        rate_qps=rate,
        windows=tuple(windows),
        confirmed=held,
        failed_at_qps=failed_at_qps,
        late_generator=late,
        probes=0,
        lowered=lowered,
    )


def _probed(probe: Probe, rate_qps: float, n_queries: int, slo_ms: float) -> tuple[Window, bool, str | None]:
    """Returns a window, whether it held, and in words whether that is for its generator, which fell behind.

    Such a window is no measurement of the system, and is taken again, up to MAX_LATE times in all.
    """
    late: str | None = None
    for _ in range(MAX_LATE):
        window = probe(rate_qps, n_queries)
        if window_fault(window, slo_ms) is None and holds_limit(window, slo_ms)[0]:
            return window, True, None
        late = _to_blame(window, slo_ms)
        if late is None:
            break
    return window, False, late


def _to_blame(window: Window, slo_ms: float) -> str | None:
    """Returns that the generator fell behind, if it did and p99 would be within the limit without the lag."""
    late = late_generator(window, slo_ms)
    if late is None or window.overloaded:
        return None
    from_sending_ms = window.latency_ms - window.parts_ms["send_lag"]
    return late if np.percentile(from_sending_ms, 99) <= slo_ms else None


def _lowest(failures: Sequence[tuple[float, str | None]]) -> tuple[float | None, str | None]:
    """Returns the lowest rate that failed, and whether its generator was late."""
    return min(failures, key=lambda failure: failure[0], default=(None, None))
