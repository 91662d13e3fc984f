"""How sure a comparison is: intervals of means, ranges of ratios.

Percentiles of latencies are those of `recjax.measurement.percentiles`, under their names here.
"""

from collections.abc import Sequence

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from recjax.measurement.percentiles import (
    CONFIDENCE,
    MIN_SAMPLES,
    PER_MILLE,
    LatencySummary,
    percentile_interval,
    summarize_latency,
)

__all__ = [
    "CONFIDENCE",
    "MIN_SAMPLES",
    "PER_MILLE",
    "LatencySummary",
    "mean_interval",
    "percentile_interval",
    "ratio_summary",
    "summarize_latency",
]


def mean_interval(values: Sequence[float]) -> float:
    """Returns half the width of Student's 95% interval of the mean of two or more values."""
    return float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * scipy.stats.sem(values))


def ratio_summary(ratios: NDArray) -> dict[str, float | int | list[float]]:
    """Returns the median of paired ratios and the range that all of them lie in."""
    return {
        "median": float(np.median(ratios)),
        "range": [float(ratios.min()), float(ratios.max())],
        "rounds": len(ratios),
    }
