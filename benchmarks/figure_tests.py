"""Tests whether the figures of a row differ between two runs.

Three figures are tested: the median latency, samples/s, and p99 where both rows have one. The median is what a shared
machine disturbs least: in repeats of one program on two quiet shared cores, processes differed by 3% in it, by 5% in
samples/s and by 25% in p99. The other two see what happens to few queries.

A figure is called different if

1. its ratio differs from 1 by more than the threshold, and
2. 1 lies outside its interval, at a level that is corrected for the number of figures of all rows: by Benjamini and
   Hochberg's procedure, at a false discovery rate of 5%. Holm's finds a single change as well, and far fewer where all
   rows became slower; without a correction one figure of twenty is called different when nothing has changed.

tests/benchmarks/test_comparison_rule.py has the simulation. Intervals that are shown are the plain 95% ones: what is
called different lies outside of them, not the other way round.

Source: Benjamini and Hochberg, Controlling the false discovery rate (1995), section 3. For figures that rise and fall
together: Benjamini and Yekutieli, The control of the false discovery rate under dependency (2001).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from benchmarks.results import Row, RowSamples
from recjax.measurement.intervals import Interval, Statistic, paired_ratio, quantile_of, rate_of, ratio

FALSE_DISCOVERIES = 0.05

Verdict = Literal["invalid", "slower", "faster", "same", "not comparable"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of B over that of A.

    Attributes:
      name: "p50", "samples/s" or "p99".
      ratio: B / A.
      low: bound of its 95% interval, None where it has none.
      high: the other bound.
      p_value: of the hypothesis that nothing changed; None without an interval.
      verdict: "slower", "faster" or "same".
    """

    name: str
    ratio: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    verdict: Verdict = "same"

    @property
    def slowdown(self) -> float:
        """Returns by which factor B is slower."""
        return 1 / self.ratio if self.name == "samples/s" else self.ratio

    @property
    def worst(self) -> float | None:
        """Returns the largest slowdown within the interval."""
        if self.low is None or self.high is None:
            return None
        return 1 / self.low if self.name == "samples/s" else self.high


def figures_of(rows: tuple[Row, Row], samples: tuple[RowSamples, RowSamples], *, paired: bool) -> list[Figure]:
    """Returns the figures of a row with their intervals, the median first.

    Args:
      rows: of A and B.
      samples: likewise; of three processes or more each.
      paired: whether process k of B is compared with process k of A; both have the same ones.
    """
    of_a, of_b = (_by_process(side) for side in samples)
    sides = list(of_a.values()), list(of_b.values())
    statistics = {"p50": [quantile_of(side, 0.5) for side in sides]}
    is_of_loadgen = bool((rows[0].load or {}).get("verdict"))  # which lets time pass between two queries
    if rows[0].scenario != "server" and not is_of_loadgen:  # a server's rate is given
        statistics["samples/s"] = [_rate_of(row, side) for row, side in zip(rows, sides, strict=True)]
    if all(row.latency_ms["p99"] is not None for row in rows):
        statistics["p99"] = [quantile_of(side, 0.99) for side in sides]
    a, b = list(of_a), list(of_b)
    if paired:
        ratios = {name: paired_ratio(after, before, a) for name, (before, after) in statistics.items()}
    else:
        ratios = {name: ratio(after, b, before, a) for name, (before, after) in statistics.items()}
    return [_figure(name, of_figure) for name, of_figure in ratios.items()]


def ratios_of(a: Row, b: Row) -> list[Figure]:
    """Returns the ratios that two rows alone give, which have no intervals."""
    values = {"p50": (a.latency_ms["p50"], b.latency_ms["p50"])}
    if a.scenario != "server":
        values["samples/s"] = (a.throughput_samples_per_s, b.throughput_samples_per_s)
    values["p99"] = (a.latency_ms["p99"], b.latency_ms["p99"])
    return [Figure(name=name, ratio=after / before) for name, (before, after) in values.items() if before and after]


def judge(figures: Sequence[Figure], threshold: float) -> list[Figure]:
    """Returns the figures of all rows with their verdicts.

    Args:
      figures: all that are tested: the correction depends on their number.
      threshold: share by which a figure must have changed.
    """
    tested = [index for index, figure in enumerate(figures) if figure.p_value is not None]
    judged = list(figures)
    if not tested:
        return judged
    adjusted = scipy.stats.false_discovery_control([figures[index].p_value for index in tested])
    for index, p_value in zip(tested, adjusted, strict=True):
        figure = figures[index]
        if p_value <= FALSE_DISCOVERIES and abs(math.log(figure.ratio)) > math.log1p(threshold):
            judged[index] = dataclasses.replace(figure, verdict="slower" if figure.slowdown > 1 else "faster")
    return judged


def _by_process(samples: RowSamples) -> dict[int, NDArray]:
    """Returns the latencies of each process in ms: processes are resampled whole, whatever windows they had."""
    pairs = list(zip(samples.processes, samples.windows_ms, strict=True))
    numbers = sorted(set(samples.processes))
    return {number: np.concatenate([ms for process, ms in pairs if process == number]) for number in numbers}


def _rate_of(row: Row, processes: Sequence[NDArray]) -> Statistic:
    """Returns samples/s of a closed loop: a query begins when the last one ends, so latencies add up to the time."""
    return rate_of([row.batch_size * len(ms) for ms in processes], [float(ms.sum()) / 1e3 for ms in processes])


def _figure(name: str, found: Interval) -> Figure:
    if found.low is None or found.error is None:
        return Figure(name=name, ratio=found.value)
    distance = abs(math.log(found.value)) / max(found.error, 1e-12)
    p_value = 2 * float(scipy.stats.t.sf(distance, found.freedom))
    return Figure(name=name, ratio=found.value, low=found.low, high=found.high, p_value=p_value)
