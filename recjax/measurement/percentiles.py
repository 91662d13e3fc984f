"""Latency samples in, percentiles with confidence intervals out; every sample counts, none is dropped.

Shapes: N samples.
"""

import dataclasses

import numpy as np
import scipy.stats
from numpy.typing import NDArray

CONFIDENCE = 0.95
MIN_SAMPLES = {"p50": 1, "p90": 10, "p95": 20, "p99": 100, "p99_9": 10_000}
PER_MILLE = {"p50": 500, "p90": 900, "p95": 950, "p99": 990, "p99_9": 999}
PARTS = 1_000_000  # a quantile is taken to so many parts, as a whole number


@dataclasses.dataclass(frozen=True)
class LatencySummary:
    """Milliseconds; a percentile that N samples cannot carry is None, with the reason in `reasons`."""

    values: dict[str, float | list[float] | int | None]
    reasons: dict[str, str]


def summarize_latency(latency_ms: NDArray) -> LatencySummary:
    """Returns p50, p90, p95, p99, p99_9, max, mean, n and 95% intervals of p50 and p99.

    Percentiles are order statistics (the smallest sample that at least q% of the samples do not exceed);
    intervals are those of the binomial distribution of ranks, which assume independent samples. For samples of
    several windows or processes, `intervals` has intervals that do not.

    Args:
      latency_ms: [N] in any order.

    Source: Hahn and Meeker, Statistical Intervals (1991), section 5.2.
    """
    ordered = np.sort(latency_ms)
    n = len(ordered)
    values: dict[str, float | list[float] | int | None] = {}
    reasons = {}
    for name, per_mille in PER_MILLE.items():
        if n >= MIN_SAMPLES[name]:
            values[name] = float(ordered[quantile_rank(n, per_mille / 1000) - 1])
        else:
            values[name] = None
            reasons[f"latency_ms.{name}"] = f"{n} samples; at least {MIN_SAMPLES[name]:,} are needed"
    values |= {"max": float(ordered[-1]), "mean": float(ordered.mean()), "n": n}
    for name in ("p50", "p99"):
        interval = percentile_interval(ordered, PER_MILLE[name] / 1000)
        values[f"ci95_{name}"] = interval
        if interval is None:
            reasons[f"latency_ms.ci95_{name}"] = f"{n} samples do not bracket {name} with 95% confidence"
    return LatencySummary(values, reasons)


def quantile_rank(n: int, quantile: float) -> int:
    """Returns the rank, from 1, of the smallest of N samples that at least this share of them do not exceed.

    Whole numbers are divided: 0.999 n in floating point can round up a rank.
    """
    return max(1, -(-n * round(quantile * PARTS) // PARTS))


def quantile_of_samples(samples: NDArray, quantile: float) -> float:
    """Returns the quantile of [N] samples in any order, which is one of them and never a mean of two."""
    index = quantile_rank(len(samples), quantile) - 1
    return float(np.partition(samples, index)[index])


def percentile_interval(ordered: NDArray, quantile: float) -> list[float] | None:
    """Returns the order statistics that bracket the quantile with 95% confidence, None if N is too small.

    The lower rank is the largest l with P(Binomial(N, q) < l) <= 2.5%, the upper the smallest u with
    P(Binomial(N, q) >= u) <= 2.5%.

    Args:
      ordered: [N] ascending, independent of each other.
      quantile: within 0 and 1.
    """
    n = len(ordered)
    tail = (1 - CONFIDENCE) / 2
    lower = int(scipy.stats.binom.ppf(tail, n, quantile))  # rank, from 1
    upper = int(scipy.stats.binom.ppf(1 - tail, n, quantile)) + 1
    if lower < 1 or upper > n:
        return None
    return [float(ordered[lower - 1]), float(ordered[upper - 1])]
