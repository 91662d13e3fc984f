"""Confidence intervals of figures whose samples come in windows, several of each of several processes.

Latencies within a window are not independent, as one waits for the other; windows of one process share its luck, such
as where its memory lies. A resample of single samples takes both for noise that averages out, and its interval is far
too narrow. So whole members of the highest level that has enough of them are resampled: processes, or else windows.

A statistic is a function of weights: how often each window is in the pool. The interval is on a log scale, as
latencies are positive and skewed: value * exp(-+ t * s), with t of Student's distribution for the number of members,
without which the interval of three processes would be less than half as wide as it must be. s is the larger of two
standard errors: the bootstrap's, which knows how the pooled value depends on the members, and that of the members'
own values, which alone sees a tail that comes from one member.

What is covered is the value that repeats of such a run would give on average. tests/measurement/
test_interval_coverage.py has the simulation by which the method was chosen. Where processes differ by more than the
latencies of one process do, p99 is that of the slowest process: its interval covers a little less often, and its value
over very many processes is higher than three or five of them can tell.

Shapes: W windows, R resamples, M members.

Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), section 3.8: of nested samples, resample
the outer level whole. Hesterberg, What Teachers Should Know About the Bootstrap (2015), section 3.2: the bootstrap's
standard error is too small by sqrt((n - 1) / n), and Student's t belongs to few members.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from recjax.measurement.percentiles import CONFIDENCE, PARTS, quantile_of_samples

MIN_MEMBERS = 3  # Student's factor for two is 12.7: such an interval says nothing
RESAMPLES = 1_000  # the standard error is then known to 2%
GRID = 1_024

Statistic = Callable[[NDArray], NDArray]  # weights [R, W], how often each window counts -> values [R]


@dataclasses.dataclass(frozen=True)
class Interval:
    """A figure with its confidence interval.

    Attributes:
      value: of all samples pooled.
      low: lower bound, None if there is no interval.
      high: upper bound.
      over: what was resampled, "processes" or "windows".
      members: how many of them there are.
      reason: why there is no interval.
      error: standard error of the value's logarithm, None without an interval.
      freedom: degrees of freedom of the distribution that `error` belongs to.
    """

    value: float
    low: float | None
    high: float | None
    over: str
    members: int
    reason: str | None = None
    error: float | None = None
    freedom: float = 0.0


def quantile_of(windows: Sequence[NDArray], quantile: float) -> Statistic:
    """Returns the statistic "quantile of the pooled samples".

    The quantile of any pool of the windows lies between the smallest and the largest of their own quantiles, so only
    samples in between are sorted, and a resample's quantile is found to 1/1,024 of that range, on a log scale. With
    equal weights it is exact.

    Args:
      windows: samples of each, one or more.
      quantile: within 0 and 1.
    """
    own = [quantile_of_samples(window, quantile) for window in windows]
    low, high = min(own), max(own)
    spaced = np.geomspace(low, high, GRID) if low > 0 else np.linspace(low, high, GRID)
    candidates = np.unique(np.append(spaced, quantile_of_samples(np.concatenate(windows), quantile)))
    counts = np.empty((len(candidates), len(windows)))  # samples of each window that do not exceed each candidate
    for number, window in enumerate(windows):
        between = np.sort(window[(window >= low) & (window <= high)])
        counts[:, number] = np.count_nonzero(window < low) + np.searchsorted(between, candidates, side="right")
    sizes = np.array([len(window) for window in windows])

    def statistic(weights: NDArray) -> NDArray:
        rank = -(-(weights @ sizes) * round(quantile * PARTS) // PARTS)
        first, last = np.zeros(len(weights), int), np.full(len(weights), len(candidates) - 1)
        while (first < last).any():
            middle = (first + last) // 2
            reached = (weights * counts[middle]).sum(1) >= rank
            last, first = np.where(reached, middle, last), np.where(reached, first, middle + 1)
        return candidates[last]

    return statistic


def rate_of(counts: Sequence[float | int] | NDArray, durations_s: Sequence[float | int] | NDArray) -> Statistic:
    """Returns the statistic "all counts by all seconds", as queries or samples per second.

    Args:
      counts: [W] of what was done in each window.
      durations_s: [W] of each window.
    """
    done, took = np.asarray(counts, float), np.asarray(durations_s, float)
    return lambda weights: (weights @ done) / (weights @ took)


def interval(statistic: Statistic, processes: Sequence[int], confidence: float = CONFIDENCE, seed: int = 0) -> Interval:
    """Returns the pooled value with its interval over processes if there are three or more, else over windows.

    The interval over windows of one process says nothing of what another process would give.

    Args:
      statistic: of the windows, from `quantile_of` or `rate_of`.
      processes: [W] the process of each window.
      confidence: within 0 and 1.
      seed: of the resampling.
    """
    over, members = _members(processes)
    value = _pooled(statistic, processes)
    error = _log_error(statistic, members, seed)
    return _around(value, error, float(len(members) - 1), over, len(members), confidence)


def paired_ratio(
    numerator: Statistic,
    denominator: Statistic,
    processes: Sequence[int],
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """Returns the ratio of two pooled values whose windows ran next to each other, round by round, with its interval.

    Both are resampled together, so that what slowed a whole round, or a whole process, does not widen the interval.

    Args:
      numerator: statistic of W windows.
      denominator: statistic of W windows; its window i ran next to the numerator's window i.
      processes: [W] the process of each round, or the pair of processes.
      confidence: within 0 and 1.
      seed: of the resampling.
    """
    return interval(lambda weights: numerator(weights) / denominator(weights), processes, confidence, seed)


def ratio(
    numerator: Statistic,
    numerator_processes: Sequence[int],
    denominator: Statistic,
    denominator_processes: Sequence[int],
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """Returns the ratio of two pooled values that were measured apart, with its interval.

    `members` is that of the side that has fewer; degrees of freedom are Welch and Satterthwaite's.

    Args:
      numerator: statistic of its windows.
      numerator_processes: the process of each of them.
      denominator: statistic of its windows.
      denominator_processes: the process of each of them.
      confidence: within 0 and 1.
      seed: of the resampling.
    """
    sides = [(numerator, *_members(numerator_processes)), (denominator, *_members(denominator_processes))]
    value = _pooled(numerator, numerator_processes) / _pooled(denominator, denominator_processes)
    errors = [_log_error(statistic, members, seed) for statistic, _, members in sides]
    over = " and ".join(dict.fromkeys(level for _, level, _ in sides))
    sizes = [len(members) for _, _, members in sides]
    squares = [error**2 for error in errors if error is not None]
    if len(squares) < 2:
        return _around(value, None, 0.0, over, min(sizes), confidence)
    weight = sum(square**2 / (n - 1) for square, n in zip(squares, sizes, strict=True))
    freedom = sum(squares) ** 2 / weight if weight else float(min(sizes) - 1)
    return _around(value, math.sqrt(sum(squares)), freedom, over, min(sizes), confidence)


def _members(processes: Sequence[int]) -> tuple[str, NDArray]:
    """Returns the level that is resampled and [M, W] which windows belong to each of its members, as 0 and 1.

    Whole numbers as floating point: its products are tens of times as fast, and exact.
    """
    names, index = np.unique(processes, return_inverse=True)
    if len(names) < MIN_MEMBERS:
        return "windows", np.eye(len(processes))
    return "processes", (index == np.arange(len(names))[:, None]).astype(float)


def _pooled(statistic: Statistic, processes: Sequence[int]) -> float:
    return float(statistic(np.ones((1, len(processes))))[0])


def _log_error(statistic: Statistic, members: NDArray, seed: int) -> float | None:
    """Returns the standard error of the value's logarithm; None for too few members, or a value that has none."""
    n = len(members)
    if n < MIN_MEMBERS:
        return None
    picks = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    resampled, own = statistic(picks @ members), statistic(members)
    if min(resampled.min(), own.min()) <= 0:
        return None
    of_resamples = np.log(resampled).std() * math.sqrt(n / (n - 1))
    return max(float(of_resamples), float(np.log(own).std(ddof=1)) / math.sqrt(n))


def _around(value: float, error: float | None, freedom: float, over: str, members: int, confidence: float) -> Interval:
    if members < MIN_MEMBERS:
        reason = f"{members} {over}; an interval needs at least {MIN_MEMBERS} windows, or {MIN_MEMBERS} processes"
        return Interval(value, None, None, over, members, reason)
    if error is None:
        return Interval(value, None, None, over, members, "a value is 0 in some windows: it has no logarithm")
    factor = math.exp(float(scipy.stats.t.ppf((1 + confidence) / 2, freedom)) * error)
    return Interval(value, value / factor, value * factor, over, members, None, error, freedom)
