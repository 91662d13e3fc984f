"""How sure a comparison is: intervals of means, ranges of ratios."""

from collections.abc import Sequence

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from recjax.measurement.percentiles import CONFIDENCE


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
