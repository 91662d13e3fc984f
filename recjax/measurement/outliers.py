"""How many samples lie far from the others. They are flagged and counted, and stay in every figure."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

MILD, SEVERE = 1.5, 3.0  # interquartile ranges beyond the quartiles


@dataclasses.dataclass(frozen=True)
class Outliers:
    """Counts of samples beyond Tukey's fences; a severe one is not mild too.

    Attributes:
      n: samples in all.
      low_severe: below the lower quartile by more than 3 interquartile ranges.
      low_mild: by more than 1.5.
      high_mild: above the upper quartile by more than 1.5 interquartile ranges.
      high_severe: by more than 3.
    """

    n: int
    low_severe: int
    low_mild: int
    high_mild: int
    high_severe: int

    @property
    def share(self) -> float:
        """Returns outliers of all four kinds as a share of the samples."""
        return (self.low_severe + self.low_mild + self.high_mild + self.high_severe) / self.n


def count_outliers(latency_ms: NDArray) -> Outliers:
    """Returns how many latencies lie beyond Tukey's fences on a log scale.

    On a log scale a latency is far off if it is many times the others; on a linear one the long tail that every
    latency has would be flagged throughout. A normal distribution has 0.7% outliers, 0.0002% severe ones. Where half
    of the samples are equal, each other one is severe.

    Args:
      latency_ms: [N] positive, in any order.

    Source: Tukey, Exploratory Data Analysis (1977), section 2D; the four kinds are those of criterion.rs,
    src/stats/univariate/outliers/tukey.rs.
    """
    lower, upper = np.quantile(latency_ms, [0.25, 0.75])
    width = upper / lower  # a factor, as differences of logarithms are
    fences = [lower / width**SEVERE, lower / width**MILD, upper * width**MILD, upper * width**SEVERE]
    below = [int(np.count_nonzero(latency_ms < fence)) for fence in fences[:2]]
    above = [int(np.count_nonzero(latency_ms > fence)) for fence in fences[2:]]
    return Outliers(
        n=len(latency_ms),
        low_severe=below[0],
        low_mild=below[1] - below[0],
        high_mild=above[0] - above[1],
        high_severe=above[1],
    )
