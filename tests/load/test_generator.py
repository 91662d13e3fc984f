"""What the generator sends, when, and what it notes, in simulated time; `test_client` has the same in real time."""

import numpy as np
import pytest
from simulated_systems import MEAN_S, SERVICES, SimulatedSystem, batched_ms, lindley_ms, misses, waiting_sender
from simulated_time import LATE_S, LOOK_S, SimulatedGenerator, simulate_time

from recjax.load.arrivals import Arrivals, arrival_times
from recjax.load.checks import window_fault
from recjax.load.closed_loop import closed_loop
from recjax.load.window import PARTS

NEVER_MS = 1e6  # a latency limit that no run here reaches
N, RATE_QPS = 1000, 0.5 / MEAN_S
ROUND_MS = 5 * LOOK_S * 1e3  # a query is sent within a look, and its answer seen within another


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> SimulatedGenerator:
    return simulate_time(monkeypatch)


@pytest.mark.parametrize("name", SERVICES)
def test_latencies_are_those_of_direct_computation_and_a_closed_loops_are_not(
    generator: SimulatedGenerator, name: str
) -> None:
    service_s, due_s = SERVICES[name](np.random.default_rng(7), N), arrival_times(Arrivals(), RATE_QPS, N, 3)
    expected = lindley_ms(due_s, service_s)
    window = generator.measure(SimulatedSystem(service_s), RATE_QPS, N, slo_ms=NEVER_MS, seed=3)
    np.testing.assert_allclose(window.latency_ms, expected, rtol=0, atol=ROUND_MS)
    assert not misses(window, expected, rtol=0.02)
    assert window_fault(window, NEVER_MS) is None

    closed = closed_loop(SimulatedSystem(np.insert(service_s, 0, 0.0)), 1, 0.0, N, seed=3)  # its first is not timed
    np.testing.assert_allclose(closed.latency_ms, service_s * 1e3)
    measured, computed = misses(closed, expected, rtol=0.02)["p99"]
    assert measured < 0.9 * computed


@pytest.mark.parametrize("name", SERVICES)
def test_a_sender_that_waits_for_answers_has_the_same_percentiles_and_is_told_by_its_lag(
    generator: SimulatedGenerator, name: str
) -> None:
    service_s, due_s = SERVICES[name](np.random.default_rng(7), N), arrival_times(Arrivals(), RATE_QPS, N, 3)
    window = waiting_sender(SimulatedSystem(service_s), due_s)
    assert list(misses(window, lindley_ms(due_s, service_s), rtol=0.02)) == ["send_lag"]


def test_where_what_waits_is_answered_together_a_sender_that_waits_has_other_latencies_too(
    generator: SimulatedGenerator,
) -> None:
    class Batching(SimulatedSystem):
        buckets = tuple(range(1, 9))

    service_s, rate_qps = np.array([MEAN_S]), 2 / MEAN_S
    due_s = arrival_times(Arrivals(), rate_qps, N, 3)
    expected = batched_ms(due_s, MEAN_S, 8)
    window = generator.measure(Batching(service_s), rate_qps, N, slo_ms=NEVER_MS, seed=3)
    assert not misses(window, expected, rtol=0.02)
    assert window.batch_samples.max() > 4
    waiting = misses(waiting_sender(Batching(service_s), due_s), expected, rtol=0.02)
    assert list(waiting) == ["p50", "p90", "p95", "p99", "send_lag"]
    assert "p50" in misses(closed_loop(Batching(service_s), 1, 0.0, N, seed=3), expected, rtol=0.02)


@pytest.mark.parametrize("rate_qps", [10.0, 100.0, 1_000.0, 10_000.0])
def test_however_it_waits_for_arrivals_and_answers_the_parts_are_as_computed(
    generator: SimulatedGenerator, rate_qps: float
) -> None:
    """It sleeps and spins at the lower rates, however late timers wake it; at the highest they make it late."""
    late_ms = LATE_S * 1e3 if rate_qps > 3_000 else 0.0
    service_s, due_s = np.full(N, 0.7 / rate_qps), arrival_times(Arrivals(), rate_qps, N, 5)
    window = generator.measure(SimulatedSystem(service_s), rate_qps, N, slo_ms=NEVER_MS, seed=5)
    expected, atol = lindley_ms(due_s, service_s), ROUND_MS + late_ms
    np.testing.assert_allclose(window.latency_ms, expected, rtol=0, atol=atol)
    np.testing.assert_allclose(window.parts_ms["queue"], expected - 700 / rate_qps, rtol=0, atol=atol)
    np.testing.assert_allclose(window.parts_ms["compute"], 700 / rate_qps)
    np.testing.assert_allclose(sum(window.parts_ms[name] for name in PARTS), window.latency_ms, atol=1e-9)
    assert 0 <= window.parts_ms["send_lag"].min() <= window.parts_ms["send_lag"].max() <= atol


@pytest.mark.parametrize("end_s", [24.0, 27.0])
def test_a_generator_that_was_stopped_counts_the_wait_of_every_query_and_says_so(
    generator: SimulatedGenerator, end_s: float
) -> None:
    """Nor does a stop that is longer than a query may wait look like an overloaded system."""
    service_s, stop_s = np.full(N, MEAN_S), 20.0
    due_s = arrival_times(Arrivals(), RATE_QPS, N, 3)
    sent_s = np.where((due_s > stop_s) & (due_s < end_s), end_s, due_s)
    assert (sent_s > due_s).mean() > 0.01  # more than p99 leaves out
    answered_s = sent_s + lindley_ms(sent_s, service_s) / 1e3
    answered_s = np.where((answered_s > stop_s) & (answered_s < end_s), end_s, answered_s)
    generator.stop_once(stop_s, end_s - stop_s)
    window = generator.measure(SimulatedSystem(service_s), RATE_QPS, N, slo_ms=1000.0, seed=3)
    assert not window.overloaded
    np.testing.assert_allclose(window.latency_ms, (answered_s - due_s) * 1e3, rtol=0, atol=ROUND_MS)
    np.testing.assert_allclose(window.parts_ms["send_lag"], (sent_s - due_s) * 1e3, rtol=0, atol=ROUND_MS)
    fault = window_fault(window, 1000.0)
    assert fault is not None
    assert fault.startswith("the load generator fell behind: it sent queries late by ")
    assert "send_lag" in misses(window, lindley_ms(due_s, service_s), rtol=0.02)


def test_a_stall_of_the_system_delays_no_query(generator: SimulatedGenerator) -> None:
    service_s = np.full(N, 1e-3)
    service_s[N // 3] = 2.0
    window = generator.measure(SimulatedSystem(service_s), 100.0, N, slo_ms=NEVER_MS, seed=3)
    assert (window.latency_ms > 1000).sum() > 50
    assert window.parts_ms["send_lag"].max() <= ROUND_MS


def test_a_query_that_has_waited_five_limits_ends_the_window(generator: SimulatedGenerator) -> None:
    due_s = arrival_times(Arrivals(), 100.0, N, 3)
    latency_ms = lindley_ms(due_s, np.full(N, 0.02))
    window = generator.measure(SimulatedSystem(np.array([0.02])), 100.0, N, slo_ms=100.0, seed=3)
    first = int(np.argmax(latency_ms > 500.0))
    assert (window.overloaded, window.silent) == (True, False)
    assert first <= window.queries <= first + 2  # an answer may come with the look that sees it
    np.testing.assert_allclose(window.latency_ms, latency_ms[: window.queries], rtol=0, atol=ROUND_MS)
    ended_s = due_s[first] + 0.5
    assert np.sum(due_s <= ended_s) <= window.queries + window.unanswered <= np.sum(due_s <= ended_s + 0.05)
    assert window_fault(window, 100.0) is None  # it is the system's


def test_a_system_that_is_silent_for_ten_seconds_ends_the_window(generator: SimulatedGenerator) -> None:
    service_s = np.full(N, 1e-3)
    service_s[10] = 60.0
    window = generator.measure(SimulatedSystem(service_s), 10.0, N, slo_ms=NEVER_MS, seed=3)
    assert (window.overloaded, window.silent, window.queries) == (False, True, 10)
    fault = window_fault(window, NEVER_MS)
    assert fault == f"{window.unanswered:,} arrivals had no answer when the system had been silent for seconds"
    assert 60 < window.unanswered < 150


@pytest.mark.parametrize("most_over", [0, 5])
def test_one_latency_over_the_limit_more_than_may_ends_the_window(
    generator: SimulatedGenerator, most_over: int
) -> None:
    service_s = np.where(np.arange(N) % 10 == 9, 0.03, 0.001)
    window = generator.measure(SimulatedSystem(service_s), 1.0, N, slo_ms=25.0, seed=0, most_over=most_over)
    assert window.failed_early
    assert (window.latency_ms > 25.0).sum() == most_over + 1
    assert window.queries == 10 * (most_over + 1)
