"""How many queries a run needs until its percentile can be trusted: MLCommons' early-stopping rule.

A run may stop when so few of its queries exceeded the limit that, were the percentile above it, so few would be
seen with a probability below one per cent. With n queries of which t exceeded the limit this is
P(Binomial(n, 1 - p) <= t) < 1 - confidence.

Source: mlcommons/inference, loadgen/early_stopping.cc (the rule) and loadgen/results.cc (what is reported).
"""

import dataclasses

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from recjax.measurement.percentiles import PARTS

CONFIDENCE = 0.99


@dataclasses.dataclass(frozen=True)
class PercentileEstimate:
    """A latency that the percentile does not exceed, with the confidence asked for.

    Attributes:
      latency_ms: None if there were too few queries.
      discarded: queries that took longer than `latency_ms`.
      reason: why `latency_ms` is None.
    """

    latency_ms: float | None
    discarded: int
    reason: str | None = None


def queries_needed(percentile: float, over_limit: int, confidence: float = CONFIDENCE) -> int:
    """Returns how many queries a run needs in all when `over_limit` of them exceeded the limit.

    Queries within the limit that come before number t + 1 above it are negative binomial.

    Args:
      percentile: within 0 and 1, as 0.99.
      over_limit: t, queries that took longer than the limit.
      confidence: within 0 and 1.
    """
    within_limit = int(scipy.stats.nbinom.ppf(confidence, over_limit + 1, 1 - percentile)) + 1
    return within_limit + over_limit


def most_over_limit(percentile: float, queries: int, confidence: float = CONFIDENCE) -> int | None:
    """Returns the largest number of queries over the limit with which a run of so many may stop.

    Args:
      percentile: within 0 and 1, as 0.99.
      queries: n, of the run.
      confidence: within 0 and 1.

    Returns:
      t, or None if the run is too short even for none.
    """
    over_limit = int(scipy.stats.binom.ppf(1 - confidence, queries, 1 - percentile)) - 1
    return over_limit if over_limit >= 0 else None


def estimate_percentile(latency_ms: NDArray, percentile: float, confidence: float = CONFIDENCE) -> PercentileEstimate:
    """Returns what LoadGen reports as the percentile of single_stream and multi_stream: never too low.

    With t the most queries that may exceed a limit it is the t-th largest latency, so that t - 1 are discarded. As in
    LoadGen a run needs enough queries for t = 1, although the largest latency would do for t = 0.

    Args:
      latency_ms: [n] of each query, in any order.
      percentile: within 0 and 1, as 0.9.
      confidence: within 0 and 1.
    """
    n = len(latency_ms)
    over_limit = most_over_limit(percentile, n, confidence)
    if not over_limit:
        needed = queries_needed(percentile, 1, confidence)
        return PercentileEstimate(None, 0, f"{n:,} queries; early stopping needs at least {needed:,}")
    index = n - over_limit
    return PercentileEstimate(float(np.partition(latency_ms, index)[index]), over_limit - 1)


def limit_verdict(
    latency_ms: NDArray, limit_ms: float, percentile: float, confidence: float = CONFIDENCE
) -> tuple[bool, str]:
    """Returns whether the percentile is within the limit, as LoadGen judges `server`, and in words why.

    Args:
      latency_ms: [n] of each query, from its scheduled arrival, in any order.
      limit_ms: a query exceeds it if it took longer.
      percentile: within 0 and 1, as 0.99.
      confidence: within 0 and 1; too few queries for it are a limit that is not met.
    """
    n, over_limit = len(latency_ms), int((latency_ms > limit_ms).sum())
    needed = queries_needed(percentile, over_limit, confidence)
    name = f"p{round(percentile * PARTS) * 100 / PARTS:g}"
    seen = f"{over_limit:,} of {n:,} queries took longer than {limit_ms:g} ms"
    if n >= needed:
        return True, f"{name} is within {limit_ms:g} ms with {confidence:.0%} confidence: {seen}, {needed:,} suffice"
    if over_limit > n * (1 - percentile):
        return False, f"{seen}, {over_limit / n:.2%} of them; {name} allows {1 - percentile:.2g}"
    return False, f"{seen}; too few to tell {name} with {confidence:.0%} confidence, {needed - n:,} more needed"
