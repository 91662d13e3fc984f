"""Scenarios on a model whose service time is known, under a simulated clock."""

import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
from simulated_time import COLUMNS, NEVER_MS, Clock, FakeModel, arrivals_of

from benchmarks import scenarios
from benchmarks.scenarios import (
    OVERLOAD_FACTOR,
    batch_size_of,
    closed_loop,
    server,
    warm_up,
)

# --- closed loop


def test_closed_loop_latency_is_the_service_time(fake: Callable[..., FakeModel]) -> None:
    window = closed_loop(fake(0.001, 1), COLUMNS, 1, duration_s=0.0995, min_queries=1, seed=0)
    np.testing.assert_allclose(window.latency_ms, 1.0, rtol=1e-4)
    assert (window.queries, window.samples, window.padded_samples) == (100, 100, 100)
    assert window.duration_s == pytest.approx(0.1, rel=1e-4)
    assert (window.padding_waste, window.offered_qps, window.overloaded) == (0, None, False)


def test_closed_loop_goes_on_until_both_the_time_and_the_queries_are_there(fake: Callable[..., FakeModel]) -> None:
    assert closed_loop(fake(0.001, 1), COLUMNS, 1, duration_s=0.0, min_queries=37, seed=0).queries == 37
    assert closed_loop(fake(0.5, 1), COLUMNS, 1, duration_s=0.6, min_queries=1, seed=0).queries == 2


def test_latencies_of_a_closed_loop_fill_its_window(fake: Callable[..., FakeModel]) -> None:
    rng = np.random.default_rng(3)
    window = closed_loop(fake(lambda call: rng.exponential(0.002), 8), COLUMNS, 8, 0.2, 1, seed=0)
    assert window.latency_ms.sum() == pytest.approx(window.duration_s * 1e3)


def test_padding_waste_of_a_closed_loop_by_hand(fake: Callable[..., FakeModel]) -> None:
    model = fake(0.001, 2, 4, 16)
    window = closed_loop(model, COLUMNS, 3, duration_s=0.0095, min_queries=1, seed=0)
    assert (window.queries, window.samples, window.padded_samples) == (10, 30, 40)
    assert window.padding_waste == 1 - 30 / 40
    assert model.batch_sizes == [3] * (1 + 10)


def test_the_first_query_of_a_closed_loop_is_not_timed(fake: Callable[..., FakeModel]) -> None:
    model = fake(lambda call: 0.5 if call == 0 else 0.001, 1)
    window = closed_loop(model, COLUMNS, 1, duration_s=0.0, min_queries=20, seed=0)
    np.testing.assert_allclose(window.latency_ms, 1.0, rtol=1e-4)
    assert (window.queries, len(model.calls)) == (20, 21)
    assert window.duration_s == pytest.approx(0.02, rel=1e-4)


def test_requests_are_drawn_uniformly_with_the_seed(fake: Callable[..., FakeModel]) -> None:
    first, again, other = fake(0.001, 8), fake(0.001, 8), fake(0.001, 8)
    for model, seed in ((first, 5), (again, 5), (other, 6)):
        closed_loop(model, COLUMNS, 8, duration_s=0.0, min_queries=2000, seed=seed)
    np.testing.assert_array_equal(first.calls, again.calls)
    assert not np.array_equal(first.calls, other.calls)
    counts = np.bincount(np.concatenate(first.calls), minlength=50)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_a_window_of_more_queries_than_were_drawn_starts_them_again(fake: Callable[..., FakeModel]) -> None:
    model = fake(1e-6, 1)
    assert closed_loop(model, COLUMNS, 1, duration_s=0.0, min_queries=5000, seed=0).queries == 5000
    timed = model.calls[1:]
    np.testing.assert_array_equal(timed[4096:], timed[: 5000 - 4096])


# --- server: arrivals


def test_an_idle_server_answers_each_request_when_it_arrives(fake: Callable[..., FakeModel], clock: Clock) -> None:
    model, start_s = fake(0.0, 1, 8), clock.now_s
    window = server(model, COLUMNS, rate_qps=50.0, n_queries=400, slo_ms=NEVER_MS, seed=9)
    np.testing.assert_allclose(np.array(model.called_at_s) - start_s, arrivals_of(50.0, 400, 9), atol=1e-5)
    np.testing.assert_allclose(window.latency_ms, 0, atol=1e-2)
    assert (window.queries, window.samples, window.offered_qps) == (400, 400, 50.0)


def test_arrivals_are_poisson_at_the_rate_asked_for(fake: Callable[..., FakeModel]) -> None:
    model = fake(0.0, 1)
    server(model, COLUMNS, rate_qps=200.0, n_queries=10_000, slo_ms=NEVER_MS, seed=1)
    gaps = np.diff(model.called_at_s)
    assert gaps.mean() == pytest.approx(1 / 200, rel=4 / 10_000**0.5)  # four standard errors
    assert scipy.stats.kstest(gaps, "expon", args=(0, 1 / 200)).pvalue > 1e-3
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 4 / 10_000**0.5


def test_arrivals_are_not_rescaled_to_the_rate(fake: Callable[..., FakeModel], clock: Clock) -> None:
    # A rescaled stream would end at exactly n / rate, whatever the seed; a Poisson one does so by chance only.
    ends = []
    for seed in range(5):
        start_s, model = clock.now_s, fake(0.0, 1)
        server(model, COLUMNS, rate_qps=100.0, n_queries=100, slo_ms=NEVER_MS, seed=seed)
        ends.append(model.called_at_s[-1] - start_s)
    assert np.std(ends) > 0.01
    np.testing.assert_allclose(ends, [arrivals_of(100.0, 100, seed)[-1] for seed in range(5)], atol=1e-5)


def test_the_same_seed_gives_the_same_run(fake: Callable[..., FakeModel]) -> None:
    windows = [server(fake(0.004, 1, 4), COLUMNS, 300.0, 500, NEVER_MS, seed) for seed in (4, 4, 5)]
    np.testing.assert_allclose(windows[0].latency_ms, windows[1].latency_ms, atol=1e-4)
    assert abs(windows[0].latency_ms - windows[2].latency_ms).max() > 1


def test_arrivals_do_not_depend_on_how_fast_they_are_answered(fake: Callable[..., FakeModel], clock: Clock) -> None:
    # The first sample of every batch that found the server idle was called at its own arrival.
    start_s, slow = clock.now_s, fake(0.004, 1)
    window = server(slow, COLUMNS, 100.0, 500, NEVER_MS, seed=2)
    answered_s = np.array(slow.called_at_s) + 0.004 - start_s
    np.testing.assert_allclose(answered_s - window.latency_ms / 1e3, arrivals_of(100.0, 500, 2), atol=1e-5)


# --- server: waiting


def test_latencies_without_batching_follow_lindleys_recursion(fake: Callable[..., FakeModel]) -> None:
    rng = np.random.default_rng(8)
    service_s = rng.uniform(0.001, 0.005, 800)
    window = server(fake(lambda call: service_s[call], 1), COLUMNS, 280.0, 800, NEVER_MS, seed=3)
    arrivals, free_s, expected = arrivals_of(280.0, 800, 3), 0.0, []
    for arrival, service in zip(arrivals, service_s, strict=True):
        free_s = max(free_s, arrival) + service
        expected.append((free_s - arrival) * 1e3)
    np.testing.assert_allclose(window.latency_ms, expected, atol=0.02)


@pytest.mark.parametrize("rho", [0.3, 0.6])
def test_mean_wait_is_that_of_an_m_d_1_queue(fake: Callable[..., FakeModel], rho: float) -> None:
    mu = 1000.0
    window = server(fake(1 / mu, 1), COLUMNS, rho * mu, 60_000, NEVER_MS, seed=0)
    wait_ms = window.latency_ms.mean() - 1e3 / mu
    assert wait_ms == pytest.approx(1e3 * rho / (2 * mu * (1 - rho)), rel=0.05)  # Pollaczek and Khinchine


def test_a_stall_shows_in_every_query_scheduled_during_it(fake: Callable[..., FakeModel], clock: Clock) -> None:
    rate_qps, stall_s, stalled_call = 500.0, 0.2, 100
    start_s, model = clock.now_s, fake(lambda call: stall_s if call == stalled_call else 1e-4, 1, 1024)
    window = server(model, COLUMNS, rate_qps, 1000, NEVER_MS, seed=6)
    arrivals = arrivals_of(rate_qps, 1000, 6)
    stalls_at_s = model.called_at_s[stalled_call] - start_s
    end_s = stalls_at_s + stall_s
    during = (arrivals > stalls_at_s) & (arrivals < end_s - 1e-3)
    assert abs(during.sum() - rate_qps * stall_s) < 4 * (rate_qps * stall_s) ** 0.5  # about 100, Poisson
    assert np.all(window.latency_ms[during] >= (end_s - arrivals[during]) * 1e3)
    long_waits = (window.latency_ms > 1.0).sum()
    assert during.sum() <= long_waits <= during.sum() + 2  # these, and the batch that stalled
    assert model.batch_sizes[stalled_call + 1] >= during.sum()  # they are all waiting when it ends


def test_a_closed_loop_sees_the_same_stall_once(fake: Callable[..., FakeModel]) -> None:
    window = closed_loop(fake(lambda call: 0.2 if call == 100 else 1e-4, 1), COLUMNS, 1, 0.0, 1000, seed=6)
    assert (window.latency_ms > 1.0).sum() == 1


def test_a_stall_of_real_time_shows_in_every_query_scheduled_during_it() -> None:
    stall_s, stalled_call, rate_qps = 0.2, 10, 400.0
    model = FakeModel(time.sleep, lambda call: stall_s if call == stalled_call else 0.0, 1, 512)
    model.read_s = time.perf_counter
    window = server(model, COLUMNS, rate_qps, 200, NEVER_MS, seed=1)
    arrivals = arrivals_of(rate_qps, 200, 1)
    first = sum(model.batch_sizes[:stalled_call])  # the query that met the stall
    during = (arrivals > arrivals[first]) & (arrivals < arrivals[first] + stall_s)
    assert during.sum() > 40
    remaining_ms = (arrivals[first] + stall_s - arrivals[during]) * 1e3
    assert np.all(window.latency_ms[during] >= remaining_ms)


def test_waiting_requests_form_one_batch_of_at_most_the_largest_bucket(fake: Callable[..., FakeModel]) -> None:
    model = fake(0.02, 1, 4, 16)
    window = server(model, COLUMNS, 700.0, 2000, NEVER_MS, seed=0)
    assert max(model.batch_sizes) == 16
    assert sum(model.batch_sizes) == window.queries == window.samples == 2000
    assert window.padded_samples == sum(model.bucket_of(size) for size in model.batch_sizes)
    assert window.padding_waste == 1 - 2000 / window.padded_samples


def test_padding_waste_of_a_server_window_by_hand(fake: Callable[..., FakeModel]) -> None:
    # One slow first answer; the four requests that came meanwhile are padded to a batch of eight.
    model = fake(lambda call: 1000.0 if call == 0 else 0.0, 1, 8)
    window = server(model, COLUMNS, 1.0, 5, NEVER_MS, seed=0)
    assert model.batch_sizes == [1, 4]
    assert (window.samples, window.padded_samples) == (5, 9)
    assert window.padding_waste == 1 - 5 / 9


def test_latencies_are_in_the_order_of_arrival_whatever_the_batching(fake: Callable[..., FakeModel]) -> None:
    model, n = fake(0.01, 1, 4, 64), 600
    window = server(model, COLUMNS, 900.0, n, NEVER_MS, seed=7)
    ends_s = np.repeat(np.array(model.called_at_s) + 0.01, model.batch_sizes)
    scheduled_s = ends_s - window.latency_ms / 1e3
    np.testing.assert_allclose(np.diff(scheduled_s), np.diff(arrivals_of(900.0, n, 7)), atol=1e-5)


def test_an_overloaded_server_ends_early_and_says_so(fake: Callable[..., FakeModel]) -> None:
    model = fake(0.01, 1)  # 100 queries/s at most
    window = server(model, COLUMNS, 200.0, 5000, slo_ms=20.0, seed=0)
    assert window.overloaded
    assert window.queries == window.samples == len(window.latency_ms) == len(model.calls) < 500
    assert window.latency_ms[-1] > OVERLOAD_FACTOR * 20
    assert window.latency_ms[:-1].max() <= OVERLOAD_FACTOR * 20


def test_a_server_that_keeps_up_is_not_overloaded(fake: Callable[..., FakeModel]) -> None:
    window = server(fake(0.01, 1), COLUMNS, 50.0, 1000, slo_ms=60.0, seed=0)
    assert not window.overloaded
    assert window.queries == 1000
    assert window.duration_s == pytest.approx(arrivals_of(50.0, 1000, 0)[-1], rel=0.01)


def test_the_last_stretch_before_an_arrival_is_spun(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    clock = Clock()

    def oversleep(seconds: float) -> None:
        slept.append(seconds)
        clock.sleep(seconds + 1e-4)  # as a real timer does; less than SPIN_S

    def read() -> float:
        clock.now_s += 1e-6
        return clock.perf_counter()

    monkeypatch.setattr(scenarios, "time", SimpleNamespace(perf_counter=read, sleep=oversleep))
    model = FakeModel(clock.sleep, lambda call: 0.0, 1)
    window = server(model, COLUMNS, 100.0, 50, NEVER_MS, seed=0)
    assert len(slept) > 30
    assert window.latency_ms.max() < 0.02  # no request waited for the oversleeping


def test_warm_up_calls_every_bucket_full(fake: Callable[..., FakeModel]) -> None:
    model = fake(0.0, 1, 8, 64)  # more than the 50 samples there are
    warm_up(model, COLUMNS, calls=2)
    assert model.batch_sizes == [1, 1, 8, 8, 64, 64]


@pytest.mark.parametrize(
    ("waiting", "size"),
    [(1, 1), (2, 1), (3, 3), (8, 8), (9, 8), (15, 8), (16, 16), (20, 20), (40, 32), (64, 64), (100, 100), (500, 128)],
)
def test_a_batch_is_what_waits_unless_two_full_ones_are_better(waiting: int, size: int) -> None:
    assert batch_size_of(waiting, (1, 8, 32, 128)) == size
