import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.measurement.early_stopping import (
    estimate_percentile,
    limit_verdict,
    most_over_limit,
    queries_needed,
)

# Over the limit: 0, 1, 5, 10, 100. The counts that LoadGen gives at a confidence of 0.99.
PUBLISHED = {
    0.9: (44, 64, 127, 197, 1_246),
    0.99: (459, 662, 1_307, 2_010, 12_571),
    0.999: (4_603, 6_636, 13_105, 20_140, 125_826),
}
TABLE = [
    (percentile, over_limit, queries)
    for percentile, counts in PUBLISHED.items()
    for over_limit, queries in zip((0, 1, 5, 10, 100), counts, strict=True)
]


def few_seen(percentile: Fraction, over_limit: int, queries: int) -> Fraction:
    """Returns the exact P(Binomial(queries, 1 - percentile) <= over_limit)."""
    return sum(
        (
            math.comb(queries, k) * (1 - percentile) ** k * percentile ** (queries - k)
            for k in range(min(over_limit, queries) + 1)
        ),
        Fraction(0),
    )


def latencies(slow: int, n: int) -> np.ndarray:
    """Returns n latencies in a shuffled order: so many of 20 ms, the others of 5 ms."""
    return np.random.default_rng(n).permutation(np.repeat([20.0, 5.0], [slow, n - slow]))


@pytest.mark.parametrize(("percentile", "over_limit", "queries"), TABLE)
def test_queries_needed_are_the_published_counts(percentile: float, over_limit: int, queries: int) -> None:
    assert queries_needed(percentile, over_limit) == queries


@pytest.mark.parametrize(("percentile", "over_limit", "queries"), TABLE)
def test_so_many_may_exceed_the_limit_from_the_published_count_on(
    percentile: float, over_limit: int, queries: int
) -> None:
    assert most_over_limit(percentile, queries) == over_limit
    assert most_over_limit(percentile, queries - 1) == (over_limit - 1 if over_limit else None)


@given(st.integers(50, 99), st.integers(0, 12), st.sampled_from([90, 95, 99]))
def test_the_count_is_the_first_for_which_so_few_are_unlikely(percent: int, over_limit: int, confidence: int) -> None:
    n = queries_needed(percent / 100, over_limit, confidence / 100)
    unlikely = 1 - Fraction(confidence, 100)
    assert few_seen(Fraction(percent, 100), over_limit, n) <= unlikely
    assert few_seen(Fraction(percent, 100), over_limit, n - 1) > unlikely


@given(st.floats(0.5, 0.9999), st.integers(1, 100_000))
def test_both_directions_of_the_rule_agree(percentile: float, queries: int) -> None:
    over_limit = most_over_limit(percentile, queries)
    assert queries_needed(percentile, 0 if over_limit is None else over_limit + 1) > queries
    assert over_limit is None or queries_needed(percentile, over_limit) <= queries


@pytest.mark.parametrize(("n", "estimate"), [(64, 64), (126, 123), (127, 123), (197, 188)])
def test_the_estimate_of_p90_is_the_t_th_largest(n: int, estimate: int) -> None:
    # t is 1, 4, 5 and 10. LoadGen: sorted[n - t], counted from 0.
    found = estimate_percentile(np.random.default_rng(0).permutation(np.arange(1.0, n + 1)), 0.9)
    assert (found.latency_ms, found.discarded) == (estimate, n - estimate)


def test_an_estimate_needs_the_queries_for_one_over_the_limit() -> None:
    found = estimate_percentile(np.arange(63.0), 0.9)
    assert (found.latency_ms, found.reason) == (None, "63 queries; early stopping needs at least 64")
    assert estimate_percentile(np.arange(0.0), 0.9).latency_ms is None


def test_the_estimate_is_seldom_below_the_percentile() -> None:
    rng, truth = np.random.default_rng(1), -math.log(0.1)
    estimates = [estimate_percentile(rng.exponential(size=500), 0.9).latency_ms for _ in range(4_000)]
    below = np.mean([estimate is not None and estimate < truth for estimate in estimates])
    assert below <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / 4_000)


@pytest.mark.parametrize(
    ("slow", "n", "met", "reason"),
    [
        (1, 662, True, "p99 is within 10 ms with 99% confidence: 1 of 662 queries took longer than 10 ms, 662 suffice"),
        (
            1,
            661,
            False,
            "1 of 661 queries took longer than 10 ms; too few to tell p99 with 99% confidence, 1 more needed",
        ),
        (30, 1000, False, "30 of 1,000 queries took longer than 10 ms, 3.00% of them; p99 allows 0.01"),
        (
            0,
            0,
            False,
            "0 of 0 queries took longer than 10 ms; too few to tell p99 with 99% confidence, 459 more needed",
        ),
    ],
)
def test_the_verdict_of_a_limit(slow: int, n: int, met: bool, reason: str) -> None:
    assert limit_verdict(latencies(slow, n), 10.0, 0.99) == (met, reason)


def test_a_latency_equal_to_the_limit_holds_it() -> None:
    assert limit_verdict(np.full(459, 10.0), 10.0, 0.99)[0]
    assert not limit_verdict(np.full(459, np.nextafter(10.0, 11.0)), 10.0, 0.99)[0]


def test_a_system_whose_percentile_exceeds_the_limit_seldom_passes() -> None:
    # A share of 1.05% exceeds the limit, so p99 does: at most 1% of the runs may pass.
    slow = np.random.default_rng(2).binomial(2_000, 0.0105, size=5_000)
    allowed = most_over_limit(0.99, 2_000)
    assert allowed is not None
    passed = np.mean(slow <= allowed)
    assert 0 < passed <= 0.01
