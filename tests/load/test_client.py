"""The generator's own process against systems of known service time, in real time; `test_generator` simulates it."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest
import scipy.stats
from quiet_machine import echo_adds_s, skip_if_disturbed
from simulated_systems import MEAN_S, SERVICES, SimulatedSystem, lindley_ms, misses, only_later, waiting_sender

from recjax.load import client
from recjax.load.arrivals import Arrivals, arrival_times
from recjax.load.checks import window_fault
from recjax.load.client import LoadGenerator
from recjax.load.closed_loop import closed_loop
from recjax.load.queries import QueryMix, draw_queries
from recjax.load.rate_search import holds_limit
from recjax.load.window import PARTS
from recjax.serving.compiled import Stamps

NEVER_MS = 1e6  # a latency limit that no run here reaches


@pytest.fixture(scope="module")
def generator() -> Iterator[LoadGenerator]:
    with LoadGenerator() as started:
        yield started


def test_every_query_is_answered_once_and_in_order(generator: LoadGenerator) -> None:
    system = SimulatedSystem(np.array([1e-4]))
    window = generator.measure(system, 500.0, 200, slo_ms=NEVER_MS, seed=4, mix=QueryMix(popularity="zipf"))
    np.testing.assert_array_equal(
        np.concatenate(system.asked), draw_queries(QueryMix(popularity="zipf"), 200, 100, 4).rows
    )
    assert (window.queries, window.samples, window.padded_samples, window.unanswered) == (200, 200, 200, 0)
    assert (window.overloaded, window.silent, window.offered_qps) == (False, False, 500.0)


def test_the_parts_of_a_latency_are_its_whole_and_none_is_negative(generator: LoadGenerator) -> None:
    window = generator.measure(SimulatedSystem(np.array([2e-3, 5e-4])), 300.0, 200, slo_ms=NEVER_MS, seed=0)
    assert tuple(window.parts_ms) == PARTS
    np.testing.assert_allclose(sum(window.parts_ms.values()), window.latency_ms, atol=1e-9)
    for name, part in window.parts_ms.items():
        assert part.min() >= 0, name
    assert np.median(window.parts_ms["compute"]) >= 0.4


def test_queries_go_out_when_they_are_due_and_never_before(generator: LoadGenerator) -> None:
    window = generator.measure(SimulatedSystem(np.array([0.05])), 40.0, 20, slo_ms=NEVER_MS, seed=1)
    # Answers take longer than the gaps: a sender that waited for them would be half a second late at the end.
    assert window.parts_ms["send_lag"].min() >= 0
    assert np.median(window.parts_ms["send_lag"]) < 100  # to the microsecond in test_generator
    assert window.latency_ms[-1] > 300


def test_queries_of_many_samples_are_spread_over_batches_and_answered_with_their_last(generator: LoadGenerator) -> None:
    class Wide(SimulatedSystem):
        buckets = (64, 256)

    system = Wide(np.array([1e-3]))
    mix = QueryMix(sizes="dlrm_v2")
    window = generator.measure(system, 100.0, 40, slo_ms=NEVER_MS, seed=2, mix=mix)
    drawn = draw_queries(mix, 40, 100, 2)
    np.testing.assert_array_equal(np.concatenate(system.asked), drawn.rows)
    assert (window.queries, window.samples) == (40, drawn.sizes.sum())
    assert max(len(rows) for rows in system.asked) == 256
    assert window.padded_samples == sum(system.padded(len(rows)) for rows in system.asked)
    for rows, content in window.kept_answers:
        np.testing.assert_array_equal(np.frombuffer(content, rows.dtype), rows * 2)
    assert sum(len(rows) for rows, _ in window.kept_answers) == drawn.sizes.sum()


def test_a_system_that_cannot_keep_up_ends_the_window_and_the_next_one_is_undisturbed(generator: LoadGenerator) -> None:
    window = generator.measure(SimulatedSystem(np.array([0.02])), 500.0, 2000, slo_ms=10.0, seed=0)
    assert window.overloaded
    assert 10 <= window.unanswered < 2000 - window.queries  # those that were not due when it ended are none of them
    after = generator.measure(SimulatedSystem(np.array([1e-4])), 200.0, 50, slo_ms=NEVER_MS, seed=0)
    assert (after.queries, after.unanswered) == (50, 0)


def test_a_window_ends_when_more_queries_exceed_the_limit_than_may(
    generator: LoadGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "OVERLOAD_FACTOR", 400)  # which ends a window too, on a machine that stalls
    slow = SimulatedSystem(np.array([0.03]))
    window = generator.measure(slow, 5.0, 1000, slo_ms=25.0, seed=0, most_over=5)
    assert window.failed_early
    assert not window.overloaded
    assert 6 <= np.count_nonzero(window.latency_ms > 25.0) < 20
    assert window.unanswered <= 5  # of 1,000, most of which were not due when it ended
    assert "not answered" not in (window_fault(window, 25.0) or "")
    assert not holds_limit(window, 25.0)[0]
    whole = generator.measure(slow, 5.0, 10, slo_ms=25.0, seed=0)
    assert (whole.queries, whole.failed_early) == (10, False)


def test_arrivals_of_another_kind_reach_the_system(generator: LoadGenerator) -> None:
    arrivals = Arrivals(kind="bursts", burst_ratio=8.0, burst_share=0.1)
    window = generator.measure(
        SimulatedSystem(np.array([1e-5])), 400.0, 200, slo_ms=NEVER_MS, seed=5, arrivals=arrivals
    )
    due = arrival_times(arrivals, 400.0, 200, 5)
    assert 0 <= window.duration_s - (due[-1] - due[0]) < 0.5  # Poisson arrivals would take 0.75 s less


def test_a_system_that_fails_is_not_hidden() -> None:
    class Broken(SimulatedSystem):
        def answer(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], Stamps]:
            raise ZeroDivisionError("broken")

    with pytest.raises(ZeroDivisionError, match="broken"), LoadGenerator() as own:
        own.measure(Broken(np.zeros(1)), 100.0, 10, slo_ms=NEVER_MS, seed=0)


def test_a_system_that_hangs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(SimulatedSystem):
        def answer(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], Stamps]:
            threading.Event().wait()
            raise AssertionError

    monkeypatch.setattr(client, "SILENCE_S", 0.2)
    monkeypatch.setattr(client, "END_S", 0.2)
    with LoadGenerator() as own, pytest.raises(RuntimeError, match=r"the system hangs: one batch has taken more than"):
        own.measure(Hanging(np.zeros(1)), 100.0, 10, slo_ms=NEVER_MS, seed=0)


def test_a_connection_that_the_system_itself_lost_is_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Remote(SimulatedSystem):
        def answer(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], Stamps]:
            raise ConnectionResetError("the feature store is gone")

    monkeypatch.setattr(client, "CLOSING_S", 0.1)
    with pytest.raises(ConnectionResetError, match="the feature store is gone"), LoadGenerator() as own:
        own.measure(Remote(np.zeros(1)), 100.0, 10, slo_ms=NEVER_MS, seed=0)


def test_a_generator_that_has_died_is_an_error() -> None:
    with LoadGenerator() as own:
        own._process.kill()
        own._process.wait()
        with pytest.raises(RuntimeError, match="load generator's process has ended with code -9"):
            own.measure(SimulatedSystem(np.zeros(1)), 100.0, 10, slo_ms=NEVER_MS, seed=0)


# --- percentiles of known queues

N, RATE_QPS, TOLERANCE = 120, 0.5 / MEAN_S, 0.02


def test_direct_computation_gives_what_queueing_theory_says() -> None:
    """A million arrivals at half of the capacity, against the closed forms."""
    rng, n, mean_s = np.random.default_rng(1), 1_000_000, MEAN_S
    due = arrival_times(Arrivals(), RATE_QPS, n, seed=0)
    exponential = lindley_ms(due, rng.exponential(mean_s, n))
    rate_of_leaving = 1 / mean_s - RATE_QPS  # of M/M/1: its time in the system is exponential
    for percent in (50, 90, 99):
        expected_ms = -np.log(1 - percent / 100) / rate_of_leaving * 1e3
        assert np.percentile(exponential, percent) == pytest.approx(expected_ms, rel=0.02)
    deterministic = lindley_ms(due, np.full(n, mean_s))
    rho = RATE_QPS * mean_s
    wait_ms = 1e3 * rho * mean_s / (2 * (1 - rho))  # Pollaczek and Khinchine, of M/D/1
    assert deterministic.mean() - 1e3 * mean_s == pytest.approx(wait_ms, rel=0.02)
    bimodal = SERVICES["bimodal"](rng, n)
    second_moment = (0.9 * 0.6**2 + 0.1 * 4.6**2) * mean_s**2
    wait_ms = 1e3 * RATE_QPS * second_moment / (2 * (1 - rho))  # of M/G/1
    assert lindley_ms(due, bimodal).mean() - 1e3 * mean_s == pytest.approx(wait_ms, rel=0.02)


@pytest.mark.timed
@pytest.mark.parametrize("name", SERVICES)
def test_measured_percentiles_are_those_of_direct_computation(generator: LoadGenerator, name: str) -> None:
    """Within 2%, and queries go out on time; a window that another process has disturbed is repeated, at most twice."""
    service_s, due_s = SERVICES[name](np.random.default_rng(7), N), arrival_times(Arrivals(), RATE_QPS, N, 3)
    expected_ms = lindley_ms(due_s, service_s)
    # The system keeps to the schedule, so what is added to one latency is not added to the next.
    hold_to(generator, lambda added_s: expected_ms + 1e3 * added_s, lambda: SimulatedSystem(service_s, due_s), RATE_QPS)


@pytest.mark.timed
@pytest.mark.parametrize("service_s", [MEAN_S, 0.020])
def test_so_they_are_of_a_system_that_does_not_know_when_queries_are_due(
    generator: LoadGenerator, service_s: float
) -> None:
    """A service begins when its query is there: how late it was sent and the way to the system are in the latency.

    At 0.5 of its capacity 72 of the 120 queries find it idle, and p50 is one whose way took longer than that of five in
    six of those. At 0.4, as here, 83 find it idle, and p50 is nearer to their middle.
    """
    rate_qps = 0.4 / service_s
    due_s = arrival_times(Arrivals(), rate_qps, N, 3)
    hold_to(
        generator,
        lambda added_s: lindley_ms(due_s, np.full(N, service_s + added_s)),
        lambda: SimulatedSystem(np.array([service_s])),
        rate_qps,
    )


@pytest.mark.timed
@pytest.mark.parametrize("name", SERVICES)
def test_a_closed_loop_does_not_see_what_queueing_does(name: str) -> None:
    """The very system of the test above, held to the same 2%, asked one query after another: it misses by far."""
    service_s, due_s = SERVICES[name](np.random.default_rng(7), N), arrival_times(Arrivals(), RATE_QPS, N, 3)
    expected = lindley_ms(due_s, service_s)
    # The first query of a closed loop is not timed.
    closed = closed_loop(SimulatedSystem(np.insert(service_s, 0, 0.0), np.insert(due_s, 0, 0.0)), 1, 0.0, N, seed=3)
    assert closed.queries == N
    measured, computed = misses(closed, expected, TOLERANCE)["p90"]
    assert measured < 0.9 * computed


@pytest.mark.timed
def test_a_sender_that_waits_is_told_by_its_lag() -> None:
    service_s, due_s = np.full(N, 0.020), arrival_times(Arrivals(), 25.0, N, 3)
    assert "send_lag" in misses(
        waiting_sender(SimulatedSystem(service_s, due_s), due_s), lindley_ms(due_s, service_s), TOLERANCE
    )


def hold_to(
    generator: LoadGenerator,
    latencies_ms: Callable[[float], np.ndarray],
    system: Callable[[], SimulatedSystem],
    rate_qps: float,
) -> None:
    """Fails if none of three windows is as computed; skips if it is shown to be the machine's fault.

    Args:
      generator: whose windows they are.
      latencies_ms: all of them by direct computation, if the machine adds so many seconds to each service.
      system: a new one for each window.
      rate_qps: mean rate of the arrivals.
    """
    expected_ms = latencies_ms(0.0)
    for _ in range(3):
        window = generator.measure(system(), rate_qps, N, slo_ms=NEVER_MS, seed=3)
        missed = misses(window, expected_ms, TOLERANCE)
        if not missed:
            return
    skip_if_disturbed()
    added_s = echo_adds_s(float(np.median(expected_ms)) / 1e3)
    if only_later(window, missed, latencies_ms(added_s), TOLERANCE):
        pytest.skip(f"{missed}: no later than if services took {1e3 * added_s:.2f} ms longer, as a bare echo here does")
    assert not missed, f"mean parts: {means(window.parts_ms)}"


def means(parts_ms: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: round(float(part.mean()), 3) for name, part in parts_ms.items()}


def test_a_stall_shows_in_every_query_that_was_due_during_it(generator: LoadGenerator) -> None:
    stall_s, stalled_call, rate_qps = 0.2, 10, 400.0

    class Stalling(SimulatedSystem):
        buckets = (1, 512)

    times = np.full(200, 1e-4)
    times[stalled_call] = stall_s
    system = Stalling(times)
    window = generator.measure(system, rate_qps, 200, slo_ms=NEVER_MS, seed=1)
    due = arrival_times(Arrivals(), rate_qps, 200, 1)
    first = sum(len(rows) for rows in system.asked[:stalled_call])  # the query that met the stall
    during = (due > due[first]) & (due < due[first] + stall_s)
    assert during.sum() > 40
    assert np.all(window.latency_ms[during] >= (due[first] + stall_s - due[during]) * 1e3)
    closed = closed_loop(Stalling(times), 1, 0.0, 200, seed=1)
    assert closed.latency_ms[stalled_call - 1] >= stall_s * 1e3  # the first call is not timed
    assert (closed.latency_ms >= stall_s * 1e3).sum() < 10  # one met it; others may meet one of the machine's


def test_the_processes_share_one_clock(generator: LoadGenerator) -> None:
    before = time.perf_counter()
    window = generator.measure(SimulatedSystem(np.array([1e-3])), 100.0, 5, slo_ms=NEVER_MS, seed=0)
    assert window.latency_ms.max() < (time.perf_counter() - before) * 1e3


@pytest.mark.timed
def test_arrivals_of_a_window_are_poisson(generator: LoadGenerator) -> None:
    window = generator.measure(SimulatedSystem(np.array([0.0])), 2000.0, 2000, slo_ms=NEVER_MS, seed=6)
    due = arrival_times(Arrivals(), 2000.0, 2000, 6)
    sent = due + window.parts_ms["send_lag"] / 1e3
    assert scipy.stats.kstest(np.diff(sent), "expon", args=(0, 1 / 2000)).statistic < 0.1
