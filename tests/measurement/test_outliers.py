import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.measurement.outliers import count_outliers


def test_fences_and_counts_by_hand() -> None:
    # Quartiles 1 and e: one interquartile range on the log scale. Fences at e^-3, e^-1.5, e^2.5 and e^4.
    inner = [1.0, 1.0, math.sqrt(math.e), math.e, math.e]
    found = count_outliers(np.array(inner))
    assert (found.n, found.share) == (5, 0)
    many = np.repeat(inner, 100)
    beside_fences = np.exp([-3.01, -2.99, -1.51, -1.49, 2.49, 2.51, 3.99, 4.01])
    found = count_outliers(np.concatenate([many, beside_fences]))
    assert (found.low_severe, found.low_mild, found.high_mild, found.high_severe) == (1, 2, 2, 1)
    assert found.share == pytest.approx(6 / 508)


def test_a_normal_distribution_has_few_and_the_long_tail_of_latencies_no_more() -> None:
    latency_ms = np.exp(np.random.default_rng(0).normal(0, 0.8, 200_000))
    found = count_outliers(latency_ms)
    assert found.share == pytest.approx(0.00698, rel=0.1)
    assert found.high_severe + found.low_severe <= 3


def test_stalls_are_flagged() -> None:
    latency_ms = np.random.default_rng(1).normal(5, 0.1, 1_000)
    latency_ms[[10, 500]] = 200
    assert count_outliers(latency_ms).high_severe == 2


def test_equal_samples_have_no_outliers() -> None:
    assert count_outliers(np.full(7, 3.0)).share == 0


@given(st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=50), st.floats(0.01, 100))
def test_counts_do_not_depend_on_the_unit_and_no_sample_is_lost(values: list[float], scale: float) -> None:
    latency_ms = np.array(values)
    before = latency_ms.copy()
    found = count_outliers(latency_ms)
    np.testing.assert_array_equal(latency_ms, before)
    assert found.n == len(values)
    assert 0 <= found.share <= 0.5
    assert abs(count_outliers(scale * latency_ms).share - found.share) * found.n <= 2  # one may lie on a fence
