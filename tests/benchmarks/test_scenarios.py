"""Scenarios on a model whose service time is known, under a clock that only the model, sleep and reading move."""

import bisect
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats

from benchmarks import scenarios
from benchmarks.scenarios import (
    MAX_LOWERED,
    MIN_SERVER_QUERIES,
    OVERLOAD_FACTOR,
    Window,
    batch_size_of,
    closed_loop,
    highest_rate_within_limit,
    server,
    warm_up,
)

COLUMNS = {"x": np.arange(50)}
NEVER_MS = 1e9  # a latency limit that no run here reaches
TICK_S = 1e-9  # of reading the simulated clock: spinning must come to an end


class Clock:
    """Simulated seconds; `perf_counter` and `sleep` take the place of `time`'s."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def perf_counter(self) -> float:
        self.now_s += TICK_S
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now_s += seconds


class FakeModel:
    """Answers in a known time and keeps what it was called with, and when."""

    def __init__(self, advance: Callable[[float], None], service_s: Callable[[int], float], *buckets: int) -> None:
        self.advance = advance
        self.service_s = service_s  # of the number of the call, from 0
        self.buckets = buckets
        self.calls: list[np.ndarray] = []
        self.called_at_s: list[float] = []
        self.read_s: Callable[[], float] = lambda: 0.0

    def bucket_of(self, n: int) -> int:
        return next(size for size in self.buckets if size >= n)

    def __call__(self, columns: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
        assert len(rows) <= self.buckets[-1]
        self.called_at_s.append(self.read_s())
        self.advance(self.service_s(len(self.calls)))
        self.calls.append(columns["x"][rows])
        return {}

    @property
    def batch_sizes(self) -> list[int]:
        return [len(rows) for rows in self.calls]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    simulated = Clock()
    monkeypatch.setattr(scenarios, "time", SimpleNamespace(perf_counter=simulated.perf_counter, sleep=simulated.sleep))
    monkeypatch.setattr(scenarios, "SPIN_S", 0.0)  # it would take a million readings to spin for a millisecond
    return simulated


@pytest.fixture
def fake(clock: Clock) -> Callable[..., FakeModel]:
    """Returns a function that makes a model with that service time in seconds (or a function of the call's number)."""

    def make(service_s: float | Callable[[int], float], *buckets: int) -> FakeModel:
        model = FakeModel(clock.sleep, service_s if callable(service_s) else lambda call: service_s, *buckets)
        model.read_s = lambda: clock.now_s
        return model

    return make


def arrivals_of(rate_qps: float, n: int, seed: int) -> np.ndarray:
    """Returns the Poisson arrivals that a server window documents: exponential gaps, summed, from its seed."""
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate_qps, n))


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
    assert model.batch_sizes == [3] * 10


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
    np.testing.assert_array_equal(model.calls[4096:], model.calls[: 5000 - 4096])


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


# --- the server's rate search


class SimulatedServer:
    """A probe whose p99 is 10 ms up to a threshold rate and 30 ms above it."""

    def __init__(self, threshold_qps: float) -> None:
        self.threshold_qps = threshold_qps
        self.probes: list[tuple[float, int]] = []
        self.failing: set[int] = set()  # numbers of probes that fail whatever the rate
        self.overloads = False

    def __call__(self, rate_qps: float, n_queries: int) -> Window:
        fails = rate_qps > self.threshold_qps or len(self.probes) in self.failing
        self.probes.append((rate_qps, n_queries))
        latency_ms = np.full(n_queries, 5.0)
        latency_ms[: n_queries // 50 + 1] = 30.0 if fails and not self.overloads else 10.0  # 2% of the queries
        return Window(latency_ms, n_queries, n_queries, n_queries, 1.0, rate_qps, fails and self.overloads)

    def search(self, capacity_qps: float = 1000.0, steps: int = 6) -> tuple[Window, dict[str, float | int | None]]:
        return highest_rate_within_limit(self, capacity_qps, slo_ms=20.0, probe_s=1.0, steps=steps)


@pytest.mark.parametrize("threshold_qps", [0.61, 0.75, 0.9, 1.0, 1.1999])
@pytest.mark.parametrize("steps", [4, 6, 9])
def test_the_search_finds_the_threshold_within_the_brackets_resolution(threshold_qps: float, steps: int) -> None:
    # The first probe, at 0.6 of the capacity, holds; [0.6, 1.2] is then halved geometrically steps - 1 times.
    simulated = SimulatedServer(threshold_qps * 1000)
    window, search = simulated.search(steps=steps)
    resolution = 2 ** (0.5 ** (steps - 1))
    assert window.offered_qps is not None
    assert window.offered_qps <= threshold_qps * 1000 <= window.offered_qps * resolution * 1.0001
    assert (search["steps"], search["lowered"]) == (steps, 0)


@pytest.mark.parametrize("threshold_qps", [590.0, 301.0, 200.0, 80.0])
def test_the_search_finds_a_threshold_far_below_the_capacity(threshold_qps: float) -> None:
    window, search = SimulatedServer(threshold_qps).search(steps=9)
    halvings = int(np.ceil(np.log2(600 / threshold_qps)))  # failed probes before the first that holds
    resolution = 2 ** (0.5 ** (9 - halvings - 1))
    assert window.offered_qps is not None
    assert window.offered_qps <= threshold_qps <= window.offered_qps * resolution * 1.0001
    assert search["failed_at_qps"] == pytest.approx(window.offered_qps * resolution, rel=1e-3)


def test_the_search_reports_the_lowest_rate_that_failed() -> None:
    simulated = SimulatedServer(750.0)
    window, search = simulated.search()
    failed = min(rate for rate, _ in simulated.probes if rate > 750)
    held = max(rate for rate, _ in simulated.probes if rate <= 750)
    assert search == {"steps": 6, "lowered": 0, "failed_at_qps": failed}
    assert window.offered_qps == held


def test_a_search_that_never_failed_says_so_and_stays_within_its_bound() -> None:
    simulated = SimulatedServer(1e9)
    window, search = simulated.search()
    assert search == {"steps": 6, "lowered": 0, "failed_at_qps": None}
    assert window.offered_qps == max(rate for rate, _ in simulated.probes) <= 1200
    assert window.offered_qps == pytest.approx(1200 / 2 ** (1 / 32))


def test_one_false_failure_does_not_cut_the_bracket() -> None:
    undisturbed = SimulatedServer(900.0).search()[0].offered_qps
    for number in range(6):
        simulated = SimulatedServer(900.0)
        simulated.failing = {number}
        assert simulated.search()[0].offered_qps == undisturbed


def test_a_failed_rate_was_probed_twice() -> None:
    simulated = SimulatedServer(700.0)
    simulated.search()
    rates = [rate for rate, _ in simulated.probes]
    for rate in set(rates):
        assert rates.count(rate) >= (2 if rate > 700 else 1)


def test_an_unconfirmed_rate_is_lowered_by_a_tenth() -> None:
    simulated = SimulatedServer(1e9)
    simulated.failing = {6, 7}  # of six probes that hold, the seventh confirms
    window, search = simulated.search()
    found = simulated.probes[5][0]
    assert [rate for rate, _ in simulated.probes[6:]] == pytest.approx([found, 0.9 * found, 0.81 * found])
    assert window.offered_qps == pytest.approx(0.81 * found)
    assert search["lowered"] == 2


def test_a_search_gives_up_and_returns_a_window_that_did_not_hold() -> None:
    simulated = SimulatedServer(-1.0)
    window, search = simulated.search(steps=3)
    assert search["lowered"] == MAX_LOWERED
    assert np.percentile(window.latency_ms, 99) == 30.0
    assert len(simulated.probes) == 2 * 3 + 1 + MAX_LOWERED


def test_an_overloaded_probe_fails_even_if_its_latencies_held() -> None:
    simulated = SimulatedServer(800.0)
    simulated.overloads = True
    window, _ = simulated.search()
    assert window.offered_qps is not None
    assert 800 / 2 ** (1 / 32) <= window.offered_qps <= 800


def test_probes_have_enough_queries_for_a_p99_and_the_confirmation_is_twice_as_long() -> None:
    simulated = SimulatedServer(1e9)
    simulated.search(capacity_qps=2000.0)
    *probes, (rate, confirmation) = simulated.probes
    assert [n for _, n in probes] == [max(MIN_SERVER_QUERIES, round(qps)) for qps, _ in probes]
    assert confirmation == round(2 * rate)
    slow = SimulatedServer(1e9)
    slow.search(capacity_qps=10.0)
    assert {n for _, n in slow.probes} == {MIN_SERVER_QUERIES}


def test_the_limit_is_on_the_99th_percentile() -> None:
    def probe_with(n_slow: int) -> Callable[[float, int], Window]:
        def probe(rate_qps: float, n_queries: int) -> Window:
            latency_ms = np.full(1000, 5.0)
            latency_ms[:n_slow] = 30.0
            return Window(latency_ms, 1000, 1000, 1000, 1.0, rate_qps)

        return probe

    assert highest_rate_within_limit(probe_with(10), 1000.0, 20.0, 1.0, 3)[1]["lowered"] == 0
    assert highest_rate_within_limit(probe_with(11), 1000.0, 20.0, 1.0, 3)[1]["lowered"] == MAX_LOWERED


def test_the_search_on_a_simulated_queue_finds_the_rate_of_the_formula(
    fake: Callable[..., FakeModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    # M/D/1 with a service of 1 ms: p99 of the recursion itself, by bisection over the same arrivals.
    def p99_ms(rate_qps: float, n: int = 40_000) -> float:
        arrivals, free_s, latency = arrivals_of(rate_qps, n, 0), 0.0, []
        for arrival in arrivals:
            free_s = max(free_s, arrival) + 1e-3
            latency.append(free_s - arrival)
        return 1e3 * float(np.percentile(latency, 99, method="inverted_cdf"))

    monkeypatch.setattr(scenarios, "MIN_SERVER_QUERIES", 20_000)
    rates = np.arange(500.0, 1000.0, 20.0)
    expected = rates[bisect.bisect_left([p99_ms(rate) for rate in rates], 6.0)]

    def probe(rate_qps: float, n_queries: int) -> Window:
        return server(fake(1e-3, 1), COLUMNS, rate_qps, n_queries, 6.0, seed=0)

    window, _ = highest_rate_within_limit(probe, 1000.0, 6.0, 0.1, 6)
    assert window.offered_qps == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize(
    ("waiting", "size"),
    [(1, 1), (2, 1), (3, 3), (8, 8), (9, 8), (15, 8), (16, 16), (20, 20), (40, 32), (64, 64), (100, 100), (500, 128)],
)
def test_a_batch_is_what_waits_unless_two_full_ones_are_better(waiting: int, size: int) -> None:
    assert batch_size_of(waiting, (1, 8, 32, 128)) == size
