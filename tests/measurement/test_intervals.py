import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.measurement.intervals import GRID, Statistic, interval, paired_ratio, quantile_of, rate_of, ratio
from recjax.measurement.percentiles import quantile_of_samples

T_2, T_8 = 4.302653, 2.306004  # Student's factors of 95% for 2 and 8 degrees of freedom


def mean_of(windows: list[np.ndarray]) -> Statistic:
    return rate_of([float(window.sum()) for window in windows], [len(window) for window in windows])


def windows_of(n_windows: int, n_samples: int, seed: int = 0, spread: float = 0.02) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.exp(rng.normal(0, spread) + rng.normal(0, 0.3, n_samples)) for _ in range(n_windows)]


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 0.9, 0.99, 0.999]))
def test_a_weighted_quantile_is_that_of_the_repeated_windows(seed: int, quantile: float) -> None:
    rng = np.random.default_rng(seed)
    windows = [rng.exponential(size=rng.integers(1, 300)) + 0.01 for _ in range(6)]
    weights = rng.integers(0, 4, size=6)
    weights[rng.integers(6)] += 1
    pooled = np.concatenate([np.tile(window, weight) for window, weight in zip(windows, weights, strict=True)])
    own = [quantile_of_samples(window, quantile) for window in windows]
    found = quantile_of(windows, quantile)(weights[None].astype(float))[0]
    exact = quantile_of_samples(pooled, quantile)
    step = math.log(max(own) / min(own)) / (GRID - 1)
    assert -1e-9 <= math.log(found / exact) <= step + 1e-9


@pytest.mark.parametrize("quantile", [0.5, 0.99, 0.999])
def test_the_value_is_exactly_that_of_all_samples(quantile: float) -> None:
    windows = windows_of(9, 1_000)
    found = interval(quantile_of(windows, quantile), [0] * 9)
    assert found.value == quantile_of_samples(np.concatenate(windows), quantile)


def test_means_and_rates_weigh_windows_by_their_size() -> None:
    windows = [np.array([1.0, 2.0, 3.0]), np.array([10.0])]
    np.testing.assert_allclose(mean_of(windows)(np.array([[1.0, 1.0], [2.0, 1.0], [0.0, 3.0]])), [16 / 4, 22 / 7, 10])
    rate = rate_of([100, 300], [1.0, 2.0])
    np.testing.assert_allclose(rate(np.array([[1.0, 1.0], [1.0, 0.0]])), [400 / 3, 100])


def test_the_interval_of_three_processes_by_hand() -> None:
    # Medians 1, 2 and 4. Of the 27 resamples the median is the first in 7, the second in 13, the third in 7, so the
    # variance of its logarithm is 14/27 ln(2)^2, times 3/2 for so few; more than the spread of the three, ln(2)^2 / 3.
    windows = [np.full(50, value) for value in (1.0, 2.0, 4.0)]
    found = interval(quantile_of(windows, 0.5), [0, 1, 2])
    assert (found.value, found.over, found.members) == (2.0, "processes", 3)
    assert found.low is not None
    assert found.high is not None
    expected = T_2 * math.log(2) * math.sqrt(14 / 27 * 3 / 2)
    assert math.log(found.high / 2) == pytest.approx(expected, rel=0.05)
    assert found.low * found.high == pytest.approx(4)


def test_the_interval_of_a_mean_over_windows_is_students() -> None:
    # Nine windows of nearly equal means: the logarithm is as good as linear, and the bootstrap's error the textbook's.
    values = 1 + np.random.default_rng(3).normal(0, 0.01, 9)
    found = interval(mean_of([np.full(10, value) for value in values]), [0] * 9)
    half = T_8 * values.std(ddof=1) / 3
    assert (found.over, found.members) == ("windows", 9)
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


@pytest.mark.parametrize(
    ("processes", "over", "members"),
    [([0, 0, 0, 1, 1, 1], "windows", 6), ([7, 7, 7, 7, 7, 7], "windows", 6), ([5, 5, 9, 9, 2, 2], "processes", 3)],
)
def test_the_highest_level_with_three_members_is_resampled(processes: list[int], over: str, members: int) -> None:
    found = interval(quantile_of(windows_of(6, 200), 0.5), processes)
    assert (found.over, found.members, found.reason) == (over, members, None)


def test_two_windows_have_no_interval() -> None:
    found = interval(mean_of(windows_of(2, 50)), [0, 1])
    assert (found.low, found.high) == (None, None)
    assert found.reason == "2 windows; an interval needs at least 3 windows, or 3 processes"


def test_a_value_of_zero_has_no_interval() -> None:
    found = interval(rate_of([0.0, 10.0, 10.0], [1.0, 1.0, 1.0]), [0, 0, 0])
    assert (found.low, found.reason) == (None, "a value is 0 in some windows: it has no logarithm")
    zero = interval(quantile_of([np.zeros(5), np.ones(5), np.ones(5)], 0.5), [0, 0, 0])
    assert zero.low is None


def test_the_luck_of_a_process_is_not_averaged_away_by_its_windows() -> None:
    # Three processes that differ by 10%, nine windows each, all alike within a process.
    windows = [np.full(20, value) for value in (1.0, 1.1, 1.2) for _ in range(9)]
    over_processes = interval(mean_of(windows), [0] * 9 + [1] * 9 + [2] * 9)
    over_windows = interval(mean_of(windows), [0] * 27)
    assert over_processes.high is not None
    assert over_windows.high is not None
    assert math.log(over_processes.high / 1.1) > 4 * math.log(over_windows.high / 1.1)


@given(st.floats(0.01, 100), st.integers(0, 5))
def test_the_interval_scales_with_the_unit(scale: float, seed: int) -> None:
    windows = windows_of(5, 60, seed)
    one = interval(mean_of(windows), [0] * 5)
    other = interval(mean_of([scale * window for window in windows]), [0] * 5)
    assert one.low is not None
    assert one.high is not None
    assert (other.low, other.high) == (pytest.approx(scale * one.low), pytest.approx(scale * one.high))


def test_the_resampling_is_that_of_its_seed() -> None:
    statistic = quantile_of(windows_of(9, 100), 0.9)
    first, again, other = (interval(statistic, [0] * 9, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first.high != other.high


def test_more_confidence_is_a_wider_interval() -> None:
    statistic = mean_of(windows_of(9, 100))
    half, most = (interval(statistic, [0] * 9, confidence) for confidence in (0.5, 0.99))
    assert half.low is not None
    assert most.low is not None
    assert most.low < half.low < half.value


def test_a_set_has_a_ratio_of_one_to_itself() -> None:
    statistic = quantile_of(windows_of(6, 100), 0.5)
    found = paired_ratio(statistic, statistic, [0] * 6)
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_pairing_takes_out_what_rounds_share() -> None:
    # The rounds differ by 20%, the contestants by 5% in each.
    rounds = np.exp(np.random.default_rng(4).normal(0, 0.2, 9))
    noise = np.random.default_rng(5)
    b = [speed * np.exp(noise.normal(0, 0.1, 500)) for speed in rounds]
    a = [1.05 * speed * np.exp(noise.normal(0, 0.1, 500)) for speed in rounds]
    statistics = quantile_of(a, 0.5), quantile_of(b, 0.5)
    paired = paired_ratio(*statistics, [0] * 9)
    apart = ratio(statistics[0], [0] * 9, statistics[1], [0] * 9)
    assert paired.low is not None
    assert paired.high is not None
    assert apart.low is not None
    assert 1 < paired.low < 1.05 < paired.high < 1.08
    assert apart.low < 0.95


def test_the_ratio_of_sets_measured_apart_is_welchs() -> None:
    rng = np.random.default_rng(6)
    a, b = 2 + rng.normal(0, 0.02, 9), 1 + rng.normal(0, 0.005, 5)
    found = ratio(mean_of([np.full(4, v) for v in a]), [0] * 9, mean_of([np.full(4, v) for v in b]), [0] * 5)
    errors = [np.log(a).var(ddof=1) / 9, np.log(b).var(ddof=1) / 5]
    freedom = sum(errors) ** 2 / (errors[0] ** 2 / 8 + errors[1] ** 2 / 4)
    assert 8 < freedom < 12
    assert found.value == pytest.approx(a.mean() / b.mean())
    assert found.high is not None
    assert math.log(found.high / found.value) == pytest.approx(2.23 * math.sqrt(sum(errors)), rel=0.1)
    assert (found.over, found.members) == ("windows", 5)


def test_a_ratio_names_both_levels_if_they_differ() -> None:
    windows = quantile_of(windows_of(6, 50), 0.5)
    assert ratio(windows, [0, 0, 1, 1, 2, 2], windows, [0] * 6).over == "processes and windows"
    short = ratio(windows, [0] * 6, quantile_of(windows_of(2, 50), 0.5), [0, 0])
    assert short.low is None
    assert short.reason is not None


def test_constant_samples_have_an_interval_of_one_point() -> None:
    windows = [np.full(10, 2.0)] * 3
    found = interval(quantile_of(windows, 0.99), [0, 1, 2])
    assert (found.low, found.high) == (pytest.approx(2), pytest.approx(2))
    apart = ratio(mean_of(windows), [0, 0, 0], mean_of(windows), [0, 0, 0])
    assert (apart.low, apart.high) == (pytest.approx(1), pytest.approx(1))
