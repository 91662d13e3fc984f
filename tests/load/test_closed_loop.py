import numpy as np
import pytest
import scipy.stats
from simulated_systems import SimulatedSystem

from recjax.load.closed_loop import CLOSED_PARTS, DRAWN_QUERIES, closed_loop, warm_up
from recjax.load.queries import QueryMix


class Wide(SimulatedSystem):
    buckets = (2, 4, 16)


def test_latency_is_the_service_time_and_fills_the_window() -> None:
    window = closed_loop(Wide(np.array([2e-3])), 2, duration_s=0.05, min_queries=1, seed=0)
    assert window.latency_ms.min() >= 2.0
    assert window.latency_ms.sum() == pytest.approx(window.duration_s * 1e3)
    assert window.samples == 2 * window.queries
    assert (window.offered_qps, window.unanswered, window.generator_cpu_share) == (None, 0, None)


def test_the_parts_are_the_whole() -> None:
    window = closed_loop(Wide(np.array([1e-3])), 2, 0.02, 1, seed=0)
    assert tuple(window.parts_ms) == CLOSED_PARTS
    np.testing.assert_allclose(sum(window.parts_ms.values()), window.latency_ms, atol=1e-9)


def test_it_goes_on_until_both_the_time_and_the_queries_are_there() -> None:
    assert closed_loop(Wide(np.array([1e-4])), 2, 0.0, 37, seed=0).queries == 37
    longer = closed_loop(Wide(np.array([0.02])), 2, 0.03, 1, seed=0)
    assert longer.duration_s >= 0.03
    assert longer.latency_ms[:-1].sum() < 30


def test_padding_by_hand() -> None:
    window = closed_loop(Wide(np.array([0.0])), 3, 0.0, 10, seed=0)
    assert (window.queries, window.samples, window.padded_samples) == (10, 30, 40)
    assert window.padding_waste == 1 - 30 / 40


def test_the_first_query_is_not_timed() -> None:
    system = Wide(np.array([2.0, *[1e-4] * 20]))
    window = closed_loop(system, 2, 0.0, 20, seed=0)
    assert (window.queries, system.calls) == (20, 21)
    assert window.latency_ms.max() < 2000


def test_rows_are_drawn_with_the_seed_and_by_their_popularity() -> None:
    first, again, other, zipf = (Wide(np.array([0.0])) for _ in range(4))
    for system, seed in ((first, 5), (again, 5), (other, 6)):
        closed_loop(system, 8, 0.0, 1000, seed)
    closed_loop(zipf, 8, 0.0, 1000, 5, QueryMix(popularity="zipf", exponent=1.5))
    np.testing.assert_array_equal(first.asked, again.asked)
    assert not np.array_equal(first.asked, other.asked)
    assert scipy.stats.chisquare(np.bincount(np.concatenate(first.asked), minlength=100)).pvalue > 1e-3
    assert np.bincount(np.concatenate(zipf.asked)).max() > 0.3 * 8000


def test_a_window_of_more_queries_than_were_drawn_starts_them_again() -> None:
    system = Wide(np.array([0.0]))
    assert closed_loop(system, 2, 0.0, DRAWN_QUERIES + 100, seed=0).queries == DRAWN_QUERIES + 100
    np.testing.assert_array_equal(system.asked[1 + DRAWN_QUERIES :], system.asked[1:101])


def test_warming_up_answers_every_bucket() -> None:
    system = Wide(np.array([0.0]))
    warm_up(system, calls=2)
    assert [len(rows) for rows in system.asked] == [2, 2, 4, 4, 16, 16]
