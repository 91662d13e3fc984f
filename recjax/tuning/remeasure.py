"""The last measurement: finalists and baseline in turn, in windows that have selected nothing.

The best of many noisy figures is too good (the winner's curse). So the probes only say who comes this far and at which
rate to begin; what is reported is measured here, with other arrivals. In every round each candidate has one window,
in random order, until its rate has held CONFIRMATIONS times in a row; a window that fails lowers the rate by a tenth.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from recjax.load.checks import window_fault
from recjax.load.rate_search import (
    CONFIRMATIONS,
    LOWERED_BY,
    MAX_LATE,
    MAX_LOWERED,
    MIN_CONFIRMING_QUERIES,
    Probe,
    blamed_generator,
    holds_limit,
)
from recjax.load.window import Window
from recjax.measurement.intervals import Interval, interval, paired_ratio, quantile_of, rate_of

CONFIRM_S = 1.0  # of a window, or as long as MIN_CONFIRMING_QUERIES take
ROUNDS = 9  # of closed loops


@dataclasses.dataclass(frozen=True, kw_only=True)
class Confirmation:
    """A rate that held, or the lowest that was tried, and its windows.

    Attributes:
      rate_qps: of the windows.
      windows: CONFIRMATIONS that held at this rate, or fewer.
      confirmed: whether there are so many.
      failed_at_qps: the lowest rate at which a window failed, None if none did.
      lowered: how often the rate was lowered.
      late: windows at this rate whose generator fell behind.
      late_generator: that the rate that failed last failed for the generator alone, in words.
      fault: why the windows are no measurement, None if they are.
    """

    rate_qps: float
    windows: tuple[Window, ...] = ()
    confirmed: bool = False
    failed_at_qps: float | None = None
    lowered: int = 0
    late: int = 0
    late_generator: str | None = None
    fault: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remeasured:
    """What is reported of a finalist.

    Attributes:
      samples_per_s: its confirmed rate, or the lowest that was tried.
      confirmed: whether CONFIRMATIONS windows of as many held.
      failed_at_samples_per_s: the lowest rate that failed; None if none did: the true highest rate lies above then.
      over_baseline: ratio of the rates, None without a confirmed baseline.
      p99_ms: value with its 95% interval over the windows; None if no window held.
      padding_waste: share of the computed samples that nobody asked for.
      closed_loop: samples a second in full batches, with its interval over rounds.
      closed_loop_over_baseline: paired ratio with its interval; None without a baseline.
      usd_per_million: at the confirmed rate.
      test: the metric on the test part.
      test_share: of the baseline's.
      test_share_ci95: its interval.
      fault: why it must not be chosen.
      reasons: why figures are None.
    """

    samples_per_s: float
    confirmed: bool
    failed_at_samples_per_s: float | None
    over_baseline: float | None
    p99_ms: tuple[float, float | None, float | None] | None
    padding_waste: float | None
    closed_loop: tuple[float, float | None, float | None]
    closed_loop_over_baseline: tuple[float, float | None, float | None] | None
    usd_per_million: float | None
    test: float
    test_share: float | None
    test_share_ci95: tuple[float, float] | None
    fault: str | None
    reasons: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Returns the figures as plain JSON values."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(self).items()}


def confirm_in_turn(
    probes: Sequence[Probe],
    first_qps: Sequence[float],
    p99_ms: float,
    seed: int,
    done: Callable[[int], None] = lambda open_ones: None,
    is_late: Callable[[], bool] = lambda: False,
) -> list[Confirmation]:
    """Returns for each candidate the rate that held in CONFIRMATIONS windows in a row.

    Once it is late, those that are not settled stay so, unless none is: then it goes on until one is.

    Args:
      probes: each runs a window of its candidate at (rate_qps, n_queries), every time with other arrivals.
      first_qps: at which each begins.
      p99_ms: limit.
      seed: of the order within the rounds.
      done: called after each window with how many candidates are not settled yet.
      is_late: whether the time that was given is over.
    """
    rng, found = np.random.default_rng(seed), [Confirmation(rate_qps=rate) for rate in first_qps]
    left = list(range(len(found)))
    while left:
        for index in rng.permutation(left):
            if is_late() and any(one.confirmed for one in found):
                return found
            found[index] = _after(found[index], probes[index], p99_ms)
            left = [i for i in left if not _settled(found[i])]
            done(len(left))
    return found


def _after(one: Confirmation, probe: Probe, p99_ms: float) -> Confirmation:
    """Returns what is known of a candidate after one more window.

    A window that failed for its generator alone is taken again, up to MAX_LATE times in all.
    """
    window = probe(one.rate_qps, max(MIN_CONFIRMING_QUERIES, round(one.rate_qps * CONFIRM_S)))
    fault = window_fault(window, p99_ms)
    if fault is None and holds_limit(window, p99_ms)[0]:
        windows = (*one.windows, window)
        return dataclasses.replace(one, windows=windows, confirmed=len(windows) == CONFIRMATIONS, fault=None)
    late = blamed_generator(window, p99_ms)
    if late and one.late + 1 < MAX_LATE:
        return dataclasses.replace(one, late=one.late + 1)
    late = late and f"the rate is that of the load generator: at {one.rate_qps:,.0f} queries/s {late}"
    failed = min(one.rate_qps, one.failed_at_qps or one.rate_qps)
    if one.lowered == MAX_LOWERED:
        return dataclasses.replace(one, failed_at_qps=failed, lowered=one.lowered + 1, late_generator=late, fault=fault)
    return Confirmation(
        rate_qps=one.rate_qps * LOWERED_BY,
        failed_at_qps=failed,
        lowered=one.lowered + 1,
        late_generator=late,
        fault=fault,
    )


def _settled(one: Confirmation) -> bool:
    return one.confirmed or one.lowered > MAX_LOWERED


def closed_loops_in_turn(measure: Sequence[Callable[[int], Window]], seed: int) -> list[list[Window]]:
    """Returns ROUNDS closed-loop windows of each candidate; in every round they take turns in random order.

    Args:
      measure: each gives a window of its candidate for a seed.
      seed: of the order, and the first of the windows'.
    """
    rng, windows = np.random.default_rng(seed), [list[Window]() for _ in measure]
    for number in range(ROUNDS):
        for index in rng.permutation(len(measure)):
            windows[index].append(measure[index](seed + number))
    return windows


def rate_interval(windows: Sequence[Window]) -> Interval:
    """Returns samples a second of all windows, with the interval over them."""
    return interval(_rate_of(windows), [0] * len(windows))


def rate_ratio(windows: Sequence[Window], reference: Sequence[Window]) -> Interval:
    """Returns the ratio of two candidates' rates, whose windows ran in the same rounds, with its interval."""
    return paired_ratio(_rate_of(windows), _rate_of(reference), [0] * len(windows))


def p99_interval(windows: Sequence[Window]) -> Interval:
    """Returns the p99 of all latencies with the interval over windows."""
    return interval(quantile_of([window.latency_ms for window in windows], 0.99), [0] * len(windows))


def _rate_of(windows: Sequence[Window]) -> Any:
    return rate_of([window.samples for window in windows], [window.duration_s for window in windows])
