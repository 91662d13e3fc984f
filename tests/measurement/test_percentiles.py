import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.measurement.percentiles import (
    MIN_SAMPLES,
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
    assert {name for name, value in summary.values.items() if value is None} == {"p99", "p99_9"}
    assert summary.reasons == {
        "latency_ms.p99": "99 samples; at least 100 are needed",
        "latency_ms.p99_9": "99 samples; at least 10,000 are needed",
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


@given(st.integers(1, 200_000), st.integers(1, 9_999))
def test_ranks_are_those_of_exact_fractions(n: int, ten_thousandths: int) -> None:
    assert quantile_rank(n, ten_thousandths / 10_000) == math.ceil(Fraction(ten_thousandths, 10_000) * n)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.integers(1, 99))
def test_a_quantile_is_the_smallest_sample_that_its_share_does_not_exceed(samples: list[float], percent: int) -> None:
    reaching = [v for v in samples if 100 * sum(other <= v for other in samples) >= percent * len(samples)]
    assert quantile_of_samples(np.array(samples), percent / 100) == min(reaching)
