"""Does a system answer from a cache? It is asked fresh queries and one query again and again, in turns."""

from collections.abc import Sequence

from numpy.typing import NDArray

from recjax.measurement.intervals import Interval, paired_ratio, quantile_of

# A repeated query finds its embedding rows in the processor's caches, which fresh ones do not; what is computed is
# still computed. A cache of answers leaves out the computation, and is many times as fast.
LARGEST_RATIO = 1.5


def answers_are_cached(
    fresh_ms: Sequence[NDArray],
    repeated_ms: Sequence[NDArray],
    processes: Sequence[int],
    largest_ratio: float = LARGEST_RATIO,
) -> tuple[bool, Interval, str]:
    """Returns whether a repeated query is answered too fast to be computed, the ratio of medians, and in words why.

    Answers are held to be cached if the lower bound of the 95% interval of median fresh by median repeated latency
    exceeds the largest ratio. Fewer than three rounds have no interval, and prove nothing.

    Args:
      fresh_ms: one array of latencies a round, of queries that were not asked before.
      repeated_ms: one array a round, of one query that is repeated; measured next to the fresh ones of the round.
      processes: of each round.
      largest_ratio: that hot processor caches may explain.

    Source: MLCommons' inference rules, which forbid caching of queries; mlcommons/inference, compliance/TEST04 compares
    the same two kinds of queries.
    """
    ratio = paired_ratio(quantile_of(fresh_ms, 0.5), quantile_of(repeated_ms, 0.5), processes)
    seen = f"fresh queries take {ratio.value:.2f} times as long as a repeated one"
    if ratio.low is None:
        return False, ratio, f"{seen}; {ratio.reason}"
    seen += f" (95%: {ratio.low:.2f} to {ratio.high:.2f})"
    if ratio.low > largest_ratio:
        return True, ratio, f"{seen}: more than the {largest_ratio:g} that hot caches explain, answers are cached"
    return False, ratio, f"{seen}; up to {largest_ratio:g} hot caches explain it"
