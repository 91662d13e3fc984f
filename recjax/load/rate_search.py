"""The search for the highest rate at which a system holds its latency limit.

A search is a generator: it yields which window it wants next and is sent that window, so that the searches of several
systems can take turns.
"""

import dataclasses
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from recjax.load.checks import late_generator, window_fault
from recjax.load.window import Window
from recjax.measurement.early_stopping import limit_verdict

CONFIRMATIONS = 3  # windows in a row that must hold at the rate that is reported
MIN_CONFIRMING_QUERIES = 1307  # early stopping lets 5 of them exceed a limit of p99 (99% confidence)
MIN_PROBE_QUERIES = 662  # and 1 of these
LOWERED_BY = 0.9  # of the rate, when it is not confirmed
MAX_LOWERED = 24  # times; 0.9 ** 24 = 0.08 of the rate that the probes found
MAX_DESCENTS = 8  # halvings of the rate before one holds at all
MAX_WINDOW_S = 60.0  # of a probe, and twice of a confirming window: rates whose queries take longer are not tried,
SLOWER_THAN_FIRST = 4  # unless the first window is long itself: then it may be so many times as long
UNQUEUED_SHARE = 0.05  # of the limit: a query that waited for less found the system idle
LIGHT_LOAD = 0.3  # of the capacity: at more, a query finds the system idle only by the end of a queue
SURELY_OVER = 1e-3  # chance that as many of those batches are over the limit if p99 is within it
MAX_LATE = 3  # windows at one rate whose generator fell behind, before that counts as a failure

Probe = Callable[[float, int], Window]


class Asked(NamedTuple):
    """A window that a search wants.

    Attributes:
      rate_qps: of its arrivals.
      n_queries: that arrive.
      to_the_end: even if p99 cannot hold any more.
    """

    rate_qps: float
    n_queries: int
    to_the_end: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class RateSearch:
    """The confirmed rate and how it was found.

    Attributes:
      rate_qps: the rate of `windows`: the highest that was confirmed or, if none was, the lowest that was tried.
      windows: of the last attempt at confirming it, in order.
      confirmed: whether all of CONFIRMATIONS windows held.
      failed_at_qps: the lowest rate at which a window failed, None if none did.
      late_generator: that it failed there because the load generator fell behind, in words; None if the system failed.
      cannot_hold: that no rate can hold the limit, in words: too many queries that did not wait exceeded it.
      probes: windows before the first attempt at confirming.
      lowered: how often the rate was lowered because it was not confirmed.
    """

    rate_qps: float
    windows: tuple[Window, ...]
    confirmed: bool
    failed_at_qps: float | None
    late_generator: str | None
    cannot_hold: str | None
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
            "cannot_hold": self.cannot_hold,
            "probes": self.probes,
            "lowered": self.lowered,
        }


Searching = Generator[Asked, Window, RateSearch]


class _Unqueued:
    """Counts batches, at light load, whose queries did not wait: at any rate they take as long as they did.

    Queries of one batch share what slows it, such as one stall of the machine, and count once.
    """

    def __init__(self, slo_ms: float, capacity_qps: float) -> None:
        self._slo_ms, self._light_qps = slo_ms, LIGHT_LOAD * capacity_qps
        self._batches = self._over = 0

    def add(self, window: Window) -> None:
        """Counts those of a window whose generator knows how long a query waited."""
        if "queue" in window.parts_ms and (window.offered_qps or 0.0) <= self._light_qps:
            unqueued = window.parts_ms["queue"] <= UNQUEUED_SHARE * self._slo_ms
            over = window.latency_ms - window.parts_ms["send_lag"] > self._slo_ms
            served = (part for name, part in window.parts_ms.items() if name not in ("send_lag", "queue"))
            served_ms = np.sum(list(served), axis=0)  # a batch's own: no two take equally long
            self._batches += len(np.unique(served_ms[unqueued]))
            self._over += len(np.unique(served_ms[unqueued & over]))

    @property
    def cannot_hold(self) -> str | None:
        """Returns that p99 is above the limit without any queue, if so many are over it; None if it may hold."""
        if not self._over or scipy.stats.binom.sf(self._over - 1, self._batches, 0.01) > SURELY_OVER:
            return None
        of_all = f"{self._over} of {self._batches} batches whose queries found the system idle"
        return f"{of_all} took longer than {self._slo_ms:g} ms"


def holds_limit(window: Window, slo_ms: float) -> tuple[bool, str]:
    """Returns whether the window shows with 99% confidence that p99 is within the limit, and in words why not.

    Every arrival has to be answered; of n answers, as many may exceed the limit as MLCommons' early stopping allows.
    """
    if window.overloaded:
        return False, f"waiting grew without bound: a query waited several times {slo_ms:g} ms"
    if window.failed_early:
        return False, f"more queries took longer than {slo_ms:g} ms than p99 allows of as many as were to come"
    if window.unanswered:
        return False, f"{window.unanswered:,} arrivals were not answered"
    return limit_verdict(window.latency_ms, slo_ms, percentile=0.99)


def alone(probe: Probe, search: Searching) -> RateSearch:
    """Returns what the search finds with windows of the probe."""
    asked = next(search)
    while True:
        try:
            asked = search.send(probe(asked.rate_qps, asked.n_queries))
        except StopIteration as end:
            return end.value


def search_rate(capacity_qps: float, slo_ms: float, probe_s: float, steps: int) -> Searching:
    """Searches the highest rate that holds the limit in CONFIRMATIONS windows of CONFIRMATIONS.

    The rate is halved until a short probe holds, or until queries that did not wait show that no rate can; from there
    on the bracket is halved (geometrically), with `steps` probes in all. A probe that fails is repeated once, so that
    one stall of a shared machine does not cut the bracket. The rate found must then be confirmed, in windows twice as
    long: see `confirm_rate`. Rates are not tried at which a window would take minutes.

    Args:
      capacity_qps: what the system answers at most, such as its offline rate: the search starts at 0.6 and
        never goes above 1.2 times this.
      slo_ms: limit of p99.
      probe_s: length of a probe; a probe has at least MIN_PROBE_QUERIES.
      steps: probes from the first that holds.
    """
    unqueued = _Unqueued(slo_ms, capacity_qps)

    def takes_s(rate_qps: float) -> float:
        return max(MIN_PROBE_QUERIES / rate_qps, probe_s)

    def probed_at(rate_qps: float) -> Generator[Asked, Window, tuple[bool, str | None]]:
        window, held, late = yield from _probed(rate_qps, round(rate_qps * takes_s(rate_qps)), slo_ms)
        unqueued.add(window)
        return held, late

    probes, failures = 0, list[tuple[float, str | None]]()
    low, high = 0.0, 1.2 * capacity_qps
    rate = 0.6 * capacity_qps
    longest_s, within, descents = max(MAX_WINDOW_S, SLOWER_THAN_FIRST * takes_s(rate)), 0, 0
    while within < steps and (
        low or (descents < MAX_DESCENTS and takes_s(rate) <= longest_s and not unqueued.cannot_hold)
    ):
        (held, late), probes = (yield from probed_at(rate)), probes + 1
        if not held:
            (held, late), probes = (yield from probed_at(rate)), probes + 1
        low, high = (rate, high) if held else (low, rate)
        failures += [] if held else [(rate, late)]
        within, descents = (within + 1, descents) if low else (within, descents + 1)
        rate = (low * high) ** 0.5 if low else high / 2
    found = yield from confirm_rate(low or high, slo_ms, 2 * probe_s, max_lowered=MAX_LOWERED if low else 0)
    failures += [(found.failed_at_qps, found.late_generator)] if found.failed_at_qps else []
    failed_at_qps, late = _lowest(failures)
    cannot_hold = None if found.confirmed or low else unqueued.cannot_hold
    return dataclasses.replace(
        found, failed_at_qps=failed_at_qps, late_generator=late, cannot_hold=cannot_hold, probes=probes
    )


def confirm_rate(rate_qps: float, slo_ms: float, window_s: float, max_lowered: int = MAX_LOWERED) -> Searching:
    """Looks for a rate at which CONFIRMATIONS windows of CONFIRMATIONS hold the limit: the given one or a lower one.

    No window that does not hold is repeated: the rate is lowered by a tenth and has to be confirmed anew.

    Args:
      rate_qps: to begin with.
      slo_ms: limit of p99.
      window_s: length of a window; it has at least MIN_CONFIRMING_QUERIES.
      max_lowered: how often the rate may be lowered.
    """
    rate, failures = rate_qps, list[tuple[float, str | None]]()
    longest_s = max(2 * MAX_WINDOW_S, SLOWER_THAN_FIRST * MIN_CONFIRMING_QUERIES / rate)
    for lowered in range(max_lowered + 1):
        windows: list[Window] = []
        held = True
        while held and len(windows) < CONFIRMATIONS:
            window, held, late = yield from _probed(rate, max(MIN_CONFIRMING_QUERIES, round(rate * window_s)), slo_ms)
            windows.append(window)
        failures += [] if held else [(rate, late)]
        takes_too_long = MIN_CONFIRMING_QUERIES / (rate * LOWERED_BY) > longest_s
        if held or lowered == max_lowered or takes_too_long:
            break
        rate *= LOWERED_BY
    failed_at_qps, late = _lowest(failures)
    return RateSearch(
        rate_qps=rate,
        windows=tuple(windows),
        confirmed=held,
        failed_at_qps=failed_at_qps,
        late_generator=late,
        cannot_hold=None,
        probes=0,
        lowered=lowered,
    )


def _probed(
    rate_qps: float, n_queries: int, slo_ms: float
) -> Generator[Asked, Window, tuple[Window, bool, str | None]]:
    """Asks for a window; returns it, whether it held, and in words that its generator fell behind, if that is why not.

    Such a window is no measurement of the system, and is taken again, up to MAX_LATE times in all.
    """
    late: str | None = None
    for _ in range(MAX_LATE):
        window = yield Asked(rate_qps, n_queries)
        if window_fault(window, slo_ms) is None and holds_limit(window, slo_ms)[0]:
            return window, True, None
        late = blamed_generator(window, slo_ms)
        if late is None:
            break
    return window, False, late


def blamed_generator(window: Window, slo_ms: float) -> str | None:
    """Returns that the generator fell behind, if it did and p99 would be within the limit without the lag."""
    late = late_generator(window, slo_ms)
    if late is None or window.overloaded:
        return None
    from_sending_ms = window.latency_ms - window.parts_ms["send_lag"]
    return late if np.percentile(from_sending_ms, 99) <= slo_ms else None


def _lowest(failures: Sequence[tuple[float, str | None]]) -> tuple[float | None, str | None]:
    """Returns the lowest rate that failed, and whether its generator was late."""
    return min(failures, key=lambda failure: failure[0], default=(None, None))
