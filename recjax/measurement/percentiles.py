"""Latency samples in, percentiles out; every sample counts, none is dropped. Their intervals are in `intervals`.

Shapes: N samples.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
MIN_SAMPLES = {"p50": 1, "p90": 10, "p95": 20, "p99": 100, "p99_9": 10_000}
PER_MILLE = {"p50": 500, "p90": 900, "p95": 950, "p99": 990, "p99_9": 999}
PARTS = 1_000_000  # a quantile is taken to so many parts, as a whole number


@dataclasses.dataclass(frozen=True)
class LatencySummary:
    """Milliseconds; a percentile that N samples cannot carry is None, with the reason in `reasons`."""

    values: dict[str, Any]
    reasons: dict[str, str]


def summarize_latency(latency_ms: NDArray) -> LatencySummary:
    """Returns p50, p90, p95, p99, p99_9, max, mean and n.

    Percentiles are order statistics: the smallest sample that at least q% of the samples do not exceed.

    Args:
      latency_ms: [N] in any order.
    """
    ordered = np.sort(latency_ms)
    n = len(ordered)
    values: dict[str, Any] = {}
    reasons = {}
    for name, per_mille in PER_MILLE.items():
        if n >= MIN_SAMPLES[name]:
            values[name] = float(ordered[quantile_rank(n, per_mille / 1000) - 1])
        else:
            values[name] = None
            reasons[f"latency_ms.{name}"] = f"{n} samples; at least {MIN_SAMPLES[name]:,} are needed"
    values |= {"max": float(ordered[-1]), "mean": float(ordered.mean()), "n": n}
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
