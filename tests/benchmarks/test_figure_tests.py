import math

import numpy as np
import pytest
import scipy.stats
from compared_runs import draw_samples, log_interval, make_row

from benchmarks.figure_tests import Figure, figures_of, judge, ratios_of
from benchmarks.results import RowSamples
from recjax.measurement.intervals import quantile_of, rate_of, ratio


def samples_of(medians_ms: list[float]) -> RowSamples:
    """Returns one window of three equal latencies for each process."""
    return RowSamples([np.full(3, ms) for ms in medians_ms], list(range(len(medians_ms))))


def by_name(a: RowSamples, b: RowSamples, *, paired: bool = False, **changes: object) -> dict[str, Figure]:
    rows = make_row(a.latency_ms, **changes), make_row(b.latency_ms, **changes)
    return {figure.name: figure for figure in figures_of(rows, (a, b), paired=paired)}


def test_the_ratio_and_interval_of_pairs_are_those_of_the_logarithms() -> None:
    before, after = [2.0, 2.2, 1.8, 2.1], [2.2, 2.4, 2.1, 2.3]
    found = by_name(samples_of(before), samples_of(after), paired=True)
    pairs = [b / a for a, b in zip(before, after, strict=True)]
    student = float(scipy.stats.t.ppf(0.975, 3))
    _, low, high = log_interval(pairs, student)
    # The bootstrap's standard error may be the larger one; here it is not, but for p50, which jumps between values.
    rate = found["samples/s"]
    assert rate.ratio == pytest.approx(sum(before) / sum(after))
    assert math.log(rate.high / rate.low) >= math.log(high / low) * 0.999  # type: ignore[operator]
    assert found["p50"].ratio == pytest.approx(2.2 / 2.0)  # the inverted empirical distribution: second of four
    assert list(found) == ["p50", "samples/s"]  # 12 samples have no p99


def test_two_runs_made_apart_get_the_interval_of_ratio() -> None:
    rng = np.random.default_rng(3)
    a, b = draw_samples(rng, effect=0.03), draw_samples(rng, 1.1, processes=5, effect=0.01)
    found = by_name(a, b)
    sides = [
        [np.concatenate(side.windows_ms[3 * k : 3 * k + 3]) for k in range(len(side.windows_ms) // 3)]
        for side in (a, b)
    ]
    expected = ratio(quantile_of(sides[1], 0.5), range(5), quantile_of(sides[0], 0.5), range(8))
    assert found["p50"].ratio == pytest.approx(expected.value)
    assert found["p50"].low == pytest.approx(expected.low, rel=2e-3)  # other resamples
    assert found["p50"].high == pytest.approx(expected.high, rel=2e-3)
    assert set(found) == {"p50", "samples/s", "p99"}
    rates = [rate_of([16 * len(ms) for ms in side], [ms.sum() / 1e3 for ms in side]) for side in sides]
    expected = ratio(rates[1], range(5), rates[0], range(8))
    assert found["samples/s"].low == pytest.approx(expected.low, rel=2e-3)


def test_the_p_value_belongs_to_the_interval() -> None:
    rng = np.random.default_rng(1)
    found = by_name(draw_samples(rng), draw_samples(rng, 1.02), paired=True)
    for figure in found.values():
        assert figure.low is not None
        assert figure.high is not None
        assert (figure.p_value < 0.05) == (not figure.low < 1 < figure.high)  # type: ignore[operator]
    figure = found["p50"]
    error = math.log(figure.high / figure.low) / 2 / scipy.stats.t.ppf(0.975, 7)  # type: ignore[operator]
    assert figure.p_value == pytest.approx(2 * scipy.stats.t.sf(abs(math.log(figure.ratio)) / error, 7))


def test_a_slow_moment_that_both_saw_widens_no_interval_of_pairs() -> None:
    rng = np.random.default_rng(2)
    a, b = draw_samples(rng, effect=0.003), draw_samples(rng, 1.1, effect=0.003)
    moments = np.exp(rng.normal(0, 0.2, 8)).repeat(3)
    a, b = (RowSamples([m * ms for m, ms in zip(moments, s.windows_ms, strict=True)], s.processes) for s in (a, b))
    apart, pairs = by_name(a, b)["samples/s"], by_name(a, b, paired=True)["samples/s"]
    assert apart.ratio == pytest.approx(pairs.ratio)
    assert apart.low < 1 < apart.high  # type: ignore[operator]
    assert pairs.high < 0.95  # type: ignore[operator]


def test_a_server_row_has_no_rate_of_its_own() -> None:
    rng = np.random.default_rng(5)
    changes = {"scenario": "server", "target_qps": 1000.0}
    assert list(by_name(draw_samples(rng), draw_samples(rng), **changes)) == ["p50", "p99"]


def test_what_does_not_vary_and_what_is_zero() -> None:
    equal = by_name(samples_of([2.0] * 3), samples_of([2.0] * 3))["p50"]
    assert [equal.ratio, equal.low, equal.high, equal.p_value] == pytest.approx([1.0] * 4)
    other = by_name(samples_of([2.0] * 3), samples_of([3.0] * 3))["p50"]
    assert other.p_value == pytest.approx(0.0)
    none = by_name(samples_of([2.0, 0.0, 2.0]), samples_of([2.0] * 3), scenario="server")["p50"]
    assert (none.low, none.high, none.p_value) == (None, None, None)


def test_slowdown_and_its_bound() -> None:
    latency = Figure(name="p50", ratio=1.25, low=1.0, high=1.5)
    rate = Figure(name="samples/s", ratio=0.8, low=0.5, high=1.0)
    assert (latency.slowdown, latency.worst) == (1.25, 1.5)
    assert (rate.slowdown, rate.worst) == (1.25, 2.0)
    assert Figure(name="p50", ratio=1.25).worst is None


def test_rows_alone_give_ratios() -> None:
    a, b = make_row(np.full(2_000, 2.0)), make_row(np.full(2_000, 3.0))
    assert [(figure.name, round(figure.ratio, 3), figure.low) for figure in ratios_of(a, b)] == [
        ("p50", 1.5, None),
        ("samples/s", 0.667, None),
        ("p99", 1.5, None),
    ]
    few = make_row(np.full(3, 2.0), scenario="server")
    assert [figure.name for figure in ratios_of(few, few)] == ["p50"]


def figure_with(p_value: float | None, ratio: float = 1.2, name: str = "p50") -> Figure:
    return Figure(name=name, ratio=ratio, low=0.9, high=1.5, p_value=p_value)


def test_benjamini_and_hochberg_let_the_kth_smallest_p_value_be_k_times_as_large() -> None:
    # 0.05 * k / 4 is 0.0125, 0.025, 0.0375, 0.05: the third smallest is within, and takes the two before it along.
    p_values = [0.030, 0.012, 0.035, 0.2, None]
    verdicts = [figure.verdict for figure in judge([figure_with(p) for p in p_values], 0.05)]
    assert verdicts == ["slower", "slower", "slower", "same", "same"]
    verdicts = [figure.verdict for figure in judge([figure_with(p) for p in (0.030, 0.026, 0.039, 0.2)], 0.05)]
    assert verdicts == ["same"] * 4


def test_a_change_within_the_threshold_is_none_however_sure() -> None:
    figures = [figure_with(1e-9, ratio) for ratio in (1.049, 1.051, 1 / 1.049, 1 / 1.051)]
    assert [figure.verdict for figure in judge(figures, 0.05)] == ["same", "slower", "same", "faster"]
    rates = [figure_with(1e-9, ratio, "samples/s") for ratio in (1.06, 0.94)]
    assert [figure.verdict for figure in judge(rates, 0.05)] == ["faster", "slower"]


def test_nothing_to_test() -> None:
    assert judge([], 0.05) == []
    assert judge([figure_with(None)], 0.05) == [figure_with(None)]
