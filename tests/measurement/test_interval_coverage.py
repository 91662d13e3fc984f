"""The simulation by which the method of recjax.measurement.intervals was chosen: does a 95% interval cover the truth?

Latencies are lognormal and correlated within a window (an AR(1) process of their logarithms); windows and processes
multiply them by lognormal effects. The product is lognormal again, so its quantiles are known. Each run draws its own
sizes and effects. `pytest -m slow tests/measurement/test_interval_coverage.py -s` prints coverage and median width.
"""

import math

import numpy as np
import pytest
import scipy.signal
import scipy.stats

from recjax.measurement.intervals import Interval, interval, paired_ratio, quantile_of, ratio

RUNS = 600
EFFECTS = (0.0, 0.01, 0.02, 0.05)  # standard deviation of the logarithm

pytestmark = pytest.mark.slow


def latencies(rng: np.random.Generator, effects: np.ndarray, n: int, spread: float, correlation: float) -> list:
    """Returns n latencies of each window, whose logarithms have the given means."""
    noise = rng.normal(size=(len(effects), n))
    noise[:, 1:] *= math.sqrt(1 - correlation**2)
    correlated = scipy.signal.lfilter([1], [1, -correlation], noise, axis=1)
    return list(np.exp(effects[:, None] + spread * correlated))


def windows_and_processes(rng: np.random.Generator, n_processes: int, n_windows: int) -> tuple[list[int], dict]:
    """Returns the process of each window and how the run's samples are to be drawn."""
    processes = [process for process in range(n_processes) for _ in range(n_windows)]
    return processes, {
        "n": int(rng.choice([200, 2_000, 20_000], p=[0.45, 0.45, 0.1])),
        "correlation": float(rng.choice([0, 0.5, 0.9])),
    }


def covers(found: Interval, truth: float) -> bool:
    return found.low is not None and found.high is not None and found.low <= truth <= found.high


def width(found: Interval) -> float:
    return math.log(found.high / found.low) if found.low and found.high else math.inf


def report(title: str, covered: list[bool], widths: list[float]) -> float:
    """Returns and prints the share of runs whose interval covers the truth."""
    print(f"{title}: covered {np.mean(covered):.3f} of {len(covered)} runs, median width {np.median(widths):.1%}")
    return float(np.mean(covered))


@pytest.mark.parametrize("quantile", [0.5, 0.99])
@pytest.mark.parametrize("n_processes", [3, 5])
def test_an_interval_over_processes_covers_the_truth(n_processes: int, quantile: float) -> None:
    rng, covered, widths = np.random.default_rng([n_processes, round(100 * quantile)]), [], []
    for run in range(RUNS):
        processes, drawn = windows_and_processes(rng, n_processes, int(rng.choice([3, 5, 9])))
        of_process, of_window = rng.choice(EFFECTS, 2)
        spread = float(rng.choice([0.3, 0.8]))
        effects = rng.normal(0, of_process, n_processes)[processes] + rng.normal(0, of_window, len(processes))
        windows = latencies(rng, effects, spread=spread, **drawn)
        found = interval(quantile_of(windows, quantile), processes, seed=run)
        deviation = math.sqrt(spread**2 + of_process**2 + of_window**2)
        covered.append(covers(found, math.exp(scipy.stats.norm.ppf(quantile) * deviation)))
        widths.append(width(found))
    assert report(f"{n_processes} processes, p{100 * quantile:g}", covered, widths) >= 0.93
    assert np.median(widths) < 0.25


@pytest.mark.parametrize("n_processes", [3, 5])
def test_the_median_is_covered_where_processes_differ_more_than_latencies(n_processes: int) -> None:
    # As in single_stream: the latencies of one process spread by 2%, processes by as much or more.
    rng, covered, widths = np.random.default_rng(n_processes), [], []
    for run in range(RUNS):
        processes, drawn = windows_and_processes(rng, n_processes, 5)
        effects = rng.normal(0, rng.choice([0.02, 0.05]), n_processes)[processes]
        windows = latencies(rng, effects + rng.normal(0, 0.01, len(processes)), spread=0.02, **drawn)
        found = interval(quantile_of(windows, 0.5), processes, seed=run)
        covered.append(covers(found, 1.0))
        widths.append(width(found))
    assert report(f"{n_processes} unlike processes, p50", covered, widths) >= 0.93


@pytest.mark.parametrize("n_processes", [3, 5])
def test_what_repeats_give_is_covered_where_one_process_makes_the_tail(n_processes: int) -> None:
    # p99 of such runs is that of the slowest process. The interval holds for what another such run would say.
    rng, intervals = np.random.default_rng([7, n_processes]), []
    processes = [process for process in range(n_processes) for _ in range(5)]
    for run in range(RUNS):
        effects = rng.normal(0, 0.05, n_processes)[processes] + rng.normal(0, 0.02, len(processes))
        windows = latencies(rng, effects, 1_000, 0.02, 0.5)
        intervals.append(interval(quantile_of(windows, 0.99), processes, seed=run))
    middle = float(np.median([found.value for found in intervals]))
    covered = [covers(found, middle) for found in intervals]
    # About 95% of three processes and 90% of five: five see the tail of processes that three do not.
    assert report(f"{n_processes} unlike processes, p99", covered, [width(found) for found in intervals]) >= 0.88


@pytest.mark.parametrize("quantile", [0.5, 0.99])
def test_an_interval_over_windows_covers_the_value_of_its_process(quantile: float) -> None:
    rng, covered, widths = np.random.default_rng(round(100 * quantile)), [], []
    for run in range(RUNS):
        processes, drawn = windows_and_processes(rng, 1, int(rng.choice([3, 5, 9])))
        of_window, spread = rng.choice(EFFECTS), float(rng.choice([0.3, 0.8]))
        windows = latencies(rng, rng.normal(0, of_window, len(processes)), spread=spread, **drawn)
        found = interval(quantile_of(windows, quantile), processes, seed=run)
        covered.append(covers(found, math.exp(scipy.stats.norm.ppf(quantile) * math.hypot(spread, of_window))))
        widths.append(width(found))
    assert report(f"one process, p{100 * quantile:g}", covered, widths) >= 0.90


@pytest.mark.parametrize("n_processes", [1, 3, 5])
def test_ratios_cover_the_true_ratio(n_processes: int) -> None:
    # Rounds are shared in the first case, nothing in the second. The true ratio is 1.1.
    rng = np.random.default_rng([9, n_processes])
    covered: dict[str, list[bool]] = {"paired": [], "apart": []}
    widths: dict[str, list[float]] = {"paired": [], "apart": []}
    for run in range(RUNS):
        processes, _ = windows_and_processes(rng, n_processes, 5)

        def effects() -> np.ndarray:
            of_process = rng.normal(0, 0.02 if n_processes > 1 else 0, n_processes)
            return of_process[processes] + rng.normal(0, 0.02, len(processes))  # noqa: B023

        shared = rng.normal(0, 0.05, len(processes))
        a, b = (latencies(rng, effects() + level, 400, 0.3, 0.5) for level in (shared + math.log(1.1), shared))
        c, d = (latencies(rng, effects() + level, 400, 0.3, 0.5) for level in (math.log(1.1), 0.0))
        for name, found in (
            ("paired", paired_ratio(quantile_of(a, 0.5), quantile_of(b, 0.5), processes, seed=run)),
            ("apart", ratio(quantile_of(c, 0.5), processes, quantile_of(d, 0.5), processes, seed=run)),
        ):
            covered[name].append(covers(found, 1.1))
            widths[name].append(width(found))
    for name in covered:
        assert report(f"{n_processes} processes, ratio {name}", covered[name], widths[name]) >= 0.93
