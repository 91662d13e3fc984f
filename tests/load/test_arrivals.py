from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from recjax.errors import UserError
from recjax.load.arrivals import Arrivals, arrival_times, read_trace

N = 20_000


def test_poisson_gaps_are_exponential_and_independent() -> None:
    gaps = np.diff(arrival_times(Arrivals(), 200.0, N, seed=1))
    assert gaps.mean() == pytest.approx(1 / 200, rel=4 / N**0.5)  # four standard errors
    assert scipy.stats.kstest(gaps, "expon", args=(0, 1 / 200)).pvalue > 1e-3
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 4 / N**0.5


def test_times_are_not_rescaled_to_the_rate() -> None:
    # A rescaled stream would end at exactly n / rate, whatever the seed.
    ends = [arrival_times(Arrivals(), 100.0, 100, seed)[-1] for seed in range(20)]
    assert np.std(ends) == pytest.approx(0.1, rel=0.5)  # sqrt(100) / 100


@pytest.mark.parametrize("kind", ["poisson", "bursts"])
def test_the_same_seed_gives_the_same_times(kind: str) -> None:
    arrivals = Arrivals(kind=kind)  # type: ignore[arg-type]
    first, again, other = (arrival_times(arrivals, 50.0, 1000, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert np.all(np.diff(first) >= 0)


def test_bursts_keep_the_mean_rate_and_are_more_uneven_than_poisson() -> None:
    arrivals = Arrivals(kind="bursts", burst_ratio=5.0, burst_share=0.1, burst_s=0.05)
    times = arrival_times(arrivals, 1000.0, 400_000, seed=0)
    assert len(times) / times[-1] == pytest.approx(1000, rel=0.05)
    counts = np.bincount((times / 0.02).astype(int))[:-1]  # windows of 20 ms
    # Index of dispersion: 1 for Poisson. Most windows have about 11 arrivals, those in a burst 100.
    assert counts.var() / counts.mean() > 10
    assert np.mean(counts > 60) == pytest.approx(0.1, abs=0.03)


def test_bursts_that_exceed_the_mean_rate_alone_are_refused() -> None:
    with pytest.raises(UserError, match="burst_ratio x burst_share < 1"):
        Arrivals(kind="bursts", burst_ratio=10.0, burst_share=0.2)
    with pytest.raises(UserError, match="burst_s is 0"):
        Arrivals(kind="bursts", burst_s=0.0)


def test_a_trace_is_stretched_to_the_rate_and_starts_again(tmp_path: Path) -> None:
    file = tmp_path / "trace.txt"
    file.write_text("10\n11\n11\n13\n")  # three gaps in 3 s: a rate of 1
    times = arrival_times(Arrivals(kind="trace", trace=str(file)), 2.0, 7, seed=0)
    np.testing.assert_allclose(times, [0.5, 0.5, 1.5, 2.0, 2.0, 3.0, 3.5])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1\nx\n", "trace.txt:2: 'x' is no time"),
        ("1\nnan\n", "trace.txt:2: 'nan' is not a time at or after"),
        ("2\n1\n", "trace.txt:2: '1' is not a time at or after"),
        ("1\n", "1 arrivals at one moment"),
        ("1\n1\n", "2 arrivals at one moment"),
        ("", "0 arrivals at one moment"),
    ],
)
def test_an_unusable_trace_is_one_line(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "trace.txt"
    file.write_text(text)
    with pytest.raises(UserError, match=reason):
        read_trace(file)


def test_a_trace_that_is_not_there_or_not_asked_for() -> None:
    with pytest.raises(UserError, match="no trace at nowhere"):
        read_trace(Path("nowhere"))
    with pytest.raises(UserError, match="a trace needs a file"):
        Arrivals(kind="trace")
    with pytest.raises(UserError, match="others none"):
        Arrivals(trace="a.txt")
