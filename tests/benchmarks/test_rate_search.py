"""The rate search on simulated servers."""

import bisect
from collections.abc import Callable

import numpy as np
import pytest
from simulated_time import COLUMNS, FakeModel, arrivals_of

from benchmarks import rate_search
from benchmarks.rate_search import MAX_LOWERED, MIN_SERVER_QUERIES, highest_rate_within_limit
from benchmarks.scenarios import Window, server


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

    def search(self, capacity_qps: float = 1000.0, steps: int = 6) -> tuple[Window, dict[str, float | None]]:
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
    assert search == {"steps": 6, "lowered": 0, "retried": False, "failed_at_qps": failed}
    assert window.offered_qps == held


def test_a_search_that_never_failed_says_so_and_stays_within_its_bound() -> None:
    simulated = SimulatedServer(1e9)
    window, search = simulated.search()
    assert search == {"steps": 6, "lowered": 0, "retried": False, "failed_at_qps": None}
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


def test_one_false_failure_does_not_lower_a_rate() -> None:
    simulated = SimulatedServer(1e9)
    simulated.failing = {6}
    window, search = simulated.search()
    assert (search["lowered"], search["retried"], search["failed_at_qps"]) == (0, True, None)
    assert window.offered_qps == simulated.probes[5][0]


def test_an_unconfirmed_rate_is_lowered_by_a_tenth() -> None:
    simulated = SimulatedServer(1e9)
    simulated.failing = {6, 7, 8, 9}  # six probes hold; the next two do not confirm, nor do two at a lower rate
    window, search = simulated.search()
    found = simulated.probes[5][0]
    assert [rate for rate, _ in simulated.probes[6:]] == pytest.approx(
        [found, found, 0.9 * found, 0.9 * found, 0.81 * found]
    )
    assert window.offered_qps == pytest.approx(0.81 * found)
    assert (search["lowered"], search["retried"]) == (2, False)
    assert search["failed_at_qps"] == pytest.approx(0.9 * found)


def test_a_search_gives_up_and_returns_a_window_that_did_not_hold() -> None:
    simulated = SimulatedServer(-1.0)
    window, search = simulated.search(steps=3)
    assert search["lowered"] == MAX_LOWERED
    assert search["failed_at_qps"] == window.offered_qps == min(rate for rate, _ in simulated.probes)
    assert np.percentile(window.latency_ms, 99) == 30.0
    assert len(simulated.probes) == 2 * (3 + 1 + MAX_LOWERED)


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

    monkeypatch.setattr(rate_search, "MIN_SERVER_QUERIES", 20_000)
    rates = np.arange(500.0, 1000.0, 20.0)
    expected = rates[bisect.bisect_left([p99_ms(rate) for rate in rates], 6.0)]

    def probe(rate_qps: float, n_queries: int) -> Window:
        return server(fake(1e-3, 1), COLUMNS, rate_qps, n_queries, 6.0, seed=0)

    window, _ = highest_rate_within_limit(probe, 1000.0, 6.0, 0.1, 6)
    assert window.offered_qps == pytest.approx(expected, rel=0.06)
