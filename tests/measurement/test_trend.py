import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.measurement.trend import theil_sen


def test_the_slope_is_the_median_of_all_pairs() -> None:
    # Slopes: 1, 3, 10/3; 5, 4.5; 4: sorted 1, 3, 10/3, 4, 4.5, 5.
    assert theil_sen(np.arange(4.0), np.array([0.0, 1, 6, 10])).slope == pytest.approx((10 / 3 + 4) / 2)


def test_a_line_has_its_slope_and_an_interval_of_one_point() -> None:
    x = np.array([0.0, 1, 5, 6, 20])
    trend = theil_sen(x, 3 - 2 * x)
    assert (trend.slope, trend.low, trend.high) == (-2, -2, -2)


def test_four_points_show_no_trend_with_95_percent_confidence() -> None:
    # All six pairs of four values rise with probability 1/24 = 4.2%; the ten of five values with 1/120.
    assert theil_sen(np.arange(4.0), np.arange(4.0)).low is None
    assert theil_sen(np.arange(4.0), np.arange(4.0), 0.9).low == 1
    assert theil_sen(np.arange(5.0), np.array([0.0, 1, 2, 4, 3])).low == -1


@pytest.mark.parametrize("n", [5, 6, 7])
def test_values_in_random_order_rise_in_at_most_one_of_forty(n: int) -> None:
    orders = np.array(list(itertools.permutations(range(n))), float)
    rising = sum((theil_sen(np.arange(n, dtype=float), order).low or 0) > 0 for order in orders)
    falling = sum((theil_sen(np.arange(n, dtype=float), order).high or 0) < 0 for order in orders)
    assert rising == falling
    assert 0 < rising <= 0.025 * math.factorial(n)
    # At most 0, 1 and 3 pairs may fall: 1 of 120, 1 + 5 of 720, 1 + 6 + 20 + 49 of 5,040. One more is too many.
    assert rising == {5: 1, 6: 6, 7: 76}[n]


@given(st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=20), st.floats(-100, 100))
def test_adding_a_line_adds_its_slope(values: list[float], slope: float) -> None:
    x = np.arange(len(values), dtype=float)
    before, after = theil_sen(x, np.array(values)), theil_sen(x, np.array(values) + slope * x)
    assert before.low is not None
    assert before.high is not None
    expected = np.array([before.slope, before.low, before.high]) + slope
    np.testing.assert_allclose([after.slope, after.low, after.high], expected, rtol=1e-6, atol=1e-6)


def test_the_interval_covers_the_true_slope() -> None:
    rng, x = np.random.default_rng(0), np.arange(9.0)
    trends = [theil_sen(x, 0.5 * x + rng.standard_t(2, 9)) for _ in range(2_000)]
    covered = np.mean([t.low is not None and t.high is not None and t.low <= 0.5 <= t.high for t in trends])
    assert 0.94 <= covered <= 0.98
