"""Does a series go up or down? Its Theil-Sen slope, with an interval that holds for few points and any noise."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from recjax.measurement.percentiles import CONFIDENCE


@dataclasses.dataclass(frozen=True)
class Trend:
    """The change of y for each unit of x.

    Attributes:
      slope: median of the slopes of all pairs of points.
      low: lower bound, None if there are too few points (fewer than five for 95%).
      high: upper bound.
    """

    slope: float
    low: float | None
    high: float | None


def theil_sen(x: NDArray, y: NDArray, confidence: float = CONFIDENCE) -> Trend:
    """Returns the Theil-Sen slope of y over x with the interval that Kendall's test does not reject.

    The distribution of the number of falling pairs is the exact one: approximations by a normal distribution, as
    SciPy's, are too narrow for the few windows that a run has.

    Args:
      x: [N] ascending, no two equal.
      y: [N] two values or more.
      confidence: within 0 and 1.

    Source: Sen, Estimates of the Regression Coefficient Based on Kendall's Tau, JASA 63 (1968), sections 4 and 5.
    """
    first, second = np.triu_indices(len(x), 1)
    slopes = np.sort((y[second] - y[first]) / (x[second] - x[first]))
    rank = int(np.searchsorted(np.cumsum(_falling_pairs(len(x))), (1 - confidence) / 2, side="right"))
    slope = float(np.median(slopes))
    if rank == 0:
        return Trend(slope, None, None)
    return Trend(slope, float(slopes[rank - 1]), float(slopes[-rank]))


def _falling_pairs(n: int) -> NDArray:
    """Returns the probability of each number of falling pairs among n values in random order."""
    probabilities = np.ones(1)
    for inserted in range(2, n + 1):  # falls with respect to 0 ... inserted - 1 of the others, equally likely
        probabilities = np.convolve(probabilities, np.full(inserted, 1 / inserted))
    return probabilities
