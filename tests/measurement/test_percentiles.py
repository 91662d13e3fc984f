import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.measurement.percentiles import (
    MIN_SAMPLES,
    percentile_interval,
    quantile_of_samples,
    quantile_rank,
    summarize_latency,
)

SHARES = {
    "p50": Fraction(1, 2),
    "p90": Fraction(9, 10),
    "p95": Fraction(95, 100),
    "p99": Fraction(99, 100),
    "p99_9": Fraction(999, 1000),
}


def one_to(n: int) -> np.ndarray:
    """Returns 1 ... n ms in a shuffled order, so that each value is its own rank."""
    return np.random.default_rng(n).permutation(np.arange(1.0, n + 1))


def test_percentiles_of_five_samples_by_hand() -> None:
    summary = summarize_latency(np.array([7.0, 1.0, 9.0, 3.0, 5.0]))
    assert summary.values["p50"] == 5.0  # three of five samples do not exceed it
    assert (summary.values["max"], summary.values["mean"], summary.values["n"]) == (9.0, (7 + 1 + 9 + 3 + 5) / 5, 5)


def test_a_median_of_four_is_a_sample_and_not_a_mean() -> None:
    assert summarize_latency(np.array([1.0, 2.0, 30.0, 40.0])).values["p50"] == 2.0


@pytest.mark.parametrize("n", [100, 101, 199, 200, 1000, 10_000, 10_001, 12_345, 20_000])
def test_percentiles_are_the_smallest_sample_that_the_share_does_not_exceed(n: int) -> None:
    values = summarize_latency(one_to(n)).values
    for name, share in SHARES.items():
        if n >= MIN_SAMPLES[name]:
            assert values[name] == math.ceil(share * n), name


def test_a_percentile_that_the_samples_cannot_carry_is_none_with_a_reason() -> None:
    summary = summarize_latency(one_to(99))
    assert {name for name, value in summary.values.items() if value is None} == {"p99", "p99_9", "ci95_p99"}
    assert summary.reasons == {
        "latency_ms.p99": "99 samples; at least 100 are needed",
        "latency_ms.p99_9": "99 samples; at least 10,000 are needed",
        "latency_ms.ci95_p99": "99 samples do not bracket p99 with 95% confidence",
    }


@pytest.mark.parametrize("name", SHARES)
def test_each_percentile_appears_at_its_minimum(name: str) -> None:
    minimum = MIN_SAMPLES[name]
    assert summarize_latency(one_to(minimum)).values[name] is not None
    if minimum > 1:
        below = summarize_latency(one_to(minimum - 1))
        assert below.values[name] is None
        assert f"latency_ms.{name}" in below.reasons


def test_enough_samples_leave_no_reason() -> None:
    summary = summarize_latency(one_to(10_000))
    assert summary.reasons == {}
    assert None not in summary.values.values()


def test_no_sample_is_dropped_as_an_outlier() -> None:
    latency_ms = np.concatenate([np.ones(98), [500.0, 1000.0]])
    values = summarize_latency(latency_ms).values
    assert (values["p99"], values["max"], values["mean"]) == (500.0, 1000.0, (98 + 500 + 1000) / 100)


def test_the_samples_are_left_as_they_were() -> None:
    latency_ms = np.array([3.0, 1.0, 2.0])
    summarize_latency(latency_ms)
    np.testing.assert_array_equal(latency_ms, [3.0, 1.0, 2.0])


def test_interval_of_the_median_of_ten_by_hand() -> None:
    # P(Binomial(10, 1/2) < 2) = 11/1024 = 1.1% and P(< 3) = 56/1024 = 5.5%: ranks 2 and 9, which cover 97.9%.
    assert percentile_interval(np.arange(1.0, 11), 0.5) == [2.0, 9.0]


def test_interval_of_the_median_needs_six_samples() -> None:
    # All n samples lie on one side with probability 2 / 2^n: 6.2% for five, 3.1% for six.
    assert percentile_interval(np.arange(1.0, 6), 0.5) is None
    assert percentile_interval(np.arange(1.0, 7), 0.5) == [1.0, 6.0]


def test_interval_of_p99_needs_368_samples() -> None:
    # The largest of n is below p99 with probability 0.99^n: 2.502% for 367, 2.477% for 368.
    assert 0.99**367 > 0.025 > 0.99**368
    assert percentile_interval(np.arange(1.0, 368), 0.99) is None
    upper = percentile_interval(np.arange(1.0, 369), 0.99)
    assert upper is not None
    assert upper[1] == 368.0


@pytest.mark.parametrize(("quantile", "n"), [(0.5, 6), (0.5, 25), (0.5, 400), (0.99, 368), (0.99, 1500)])
def test_interval_ranks_are_the_tightest_of_the_binomial(quantile: float, n: int) -> None:
    log_odds = math.log(quantile / (1 - quantile))
    log_mass = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * log_odds + n * math.log(1 - quantile)
        for k in range(n + 1)
    ]
    mass = np.exp(log_mass)
    below = np.cumsum([0.0, *mass])  # below[k] = P(Binomial < k)
    interval = percentile_interval(np.arange(1.0, n + 1), quantile)
    assert interval is not None
    lower, upper = int(interval[0]), int(interval[1])
    assert below[lower] <= 0.025 < below[lower + 1]
    assert 1 - below[upper] <= 0.025 < 1 - below[upper - 1]


@pytest.mark.parametrize(("quantile", "n"), [(0.5, 30), (0.5, 300), (0.99, 400), (0.99, 2000)])
def test_interval_covers_the_true_percentile(quantile: float, n: int) -> None:
    samples = np.sort(np.random.default_rng(n).exponential(size=(4000, n)), axis=1)
    truth = -math.log(1 - quantile)
    intervals = [percentile_interval(ordered, quantile) for ordered in samples]
    covered = np.mean([interval is not None and interval[0] <= truth <= interval[1] for interval in intervals])
    assert covered >= 0.94  # at least 95% in truth; 4000 trials have a standard error of 0.3%


@given(st.integers(1, 200_000), st.integers(1, 9_999))
def test_ranks_are_those_of_exact_fractions(n: int, ten_thousandths: int) -> None:
    assert quantile_rank(n, ten_thousandths / 10_000) == math.ceil(Fraction(ten_thousandths, 10_000) * n)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.integers(1, 99))
def test_a_quantile_is_the_smallest_sample_that_its_share_does_not_exceed(samples: list[float], percent: int) -> None:
    reaching = [v for v in samples if 100 * sum(other <= v for other in samples) >= percent * len(samples)]
    assert quantile_of_samples(np.array(samples), percent / 100) == min(reaching)
