"""The rate search on simulated servers."""

from typing import Any

import numpy as np
import pytest
from simulated_systems import lindley_ms

from recjax.load.arrivals import Arrivals, arrival_times
from recjax.load.rate_search import (
    CONFIRMATIONS,
    MAX_DESCENTS,
    MAX_LOWERED,
    MIN_CONFIRMING_QUERIES,
    MIN_PROBE_QUERIES,
    RateSearch,
    alone,
    confirm_rate,
    holds_limit,
    search_rate,
)
from recjax.load.window import Window


def window_of(latency_ms: np.ndarray, rate_qps: float = 1.0, **more: Any) -> Window:
    n = len(latency_ms)
    values: dict[str, Any] = {
        "latency_ms": latency_ms,
        "parts_ms": {},
        "samples": n,
        "padded_samples": n,
        "batch_samples": np.ones(n, int),
        "duration_s": 1.0,
        "offered_qps": rate_qps,
    }
    return Window(**values | more)


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
        return window_of(latency_ms, rate_qps, overloaded=fails and self.overloads)

    def search(self, capacity_qps: float = 1000.0, steps: int = 6) -> RateSearch:
        return alone(self, search_rate(capacity_qps, slo_ms=20.0, probe_s=1.0, steps=steps))


@pytest.mark.parametrize("threshold_qps", [0.61, 0.75, 0.9, 1.0, 1.1999])
@pytest.mark.parametrize("steps", [4, 6, 9])
def test_the_search_finds_the_threshold_within_the_brackets_resolution(threshold_qps: float, steps: int) -> None:
    # The first probe, at 0.6 of the capacity, holds; [0.6, 1.2] is then halved geometrically steps - 1 times.
    simulated = SimulatedServer(threshold_qps * 1000)
    search = simulated.search(steps=steps)
    resolution = 2 ** (0.5 ** (steps - 1))
    assert search.rate_qps <= threshold_qps * 1000 <= search.rate_qps * resolution * 1.0001
    assert (search.lowered, search.confirmed) == (0, True)
    tried = [rate for rate, _ in simulated.probes[:-CONFIRMATIONS]]  # each that failed is there twice
    assert (search.probes, len(set(tried))) == (len(tried), steps)


@pytest.mark.parametrize("threshold_qps", [590.0, 301.0, 200.0, 80.0])
def test_the_search_finds_a_threshold_far_below_the_capacity(threshold_qps: float) -> None:
    search = SimulatedServer(threshold_qps).search(steps=6)
    resolution = 2 ** (0.5**5)  # however many probes failed before the first that held
    assert search.rate_qps <= threshold_qps <= search.rate_qps * resolution * 1.0001
    assert search.failed_at_qps == pytest.approx(search.rate_qps * resolution, rel=1e-3)


def test_the_bracket_is_reported_and_its_lower_end_was_confirmed() -> None:
    simulated = SimulatedServer(750.0)
    search = simulated.search()
    assert search.failed_at_qps == min(rate for rate, _ in simulated.probes if rate > 750)
    assert [rate for rate, _ in simulated.probes[-CONFIRMATIONS:]] == [search.rate_qps] * CONFIRMATIONS
    assert [window.offered_qps for window in search.windows] == [search.rate_qps] * CONFIRMATIONS
    assert search.in_row() == {
        "confirmed": True,
        "confirmations": CONFIRMATIONS,
        "held_at_qps": search.rate_qps,
        "failed_at_qps": search.failed_at_qps,
        "late_generator": None,
        "cannot_hold": None,
        "probes": len(simulated.probes) - CONFIRMATIONS,
        "lowered": 0,
    }


def test_a_search_that_never_failed_says_so_and_stays_within_its_bound() -> None:
    simulated = SimulatedServer(1e9)
    search = simulated.search()
    assert search.failed_at_qps is None
    assert search.rate_qps == max(rate for rate, _ in simulated.probes) == pytest.approx(1200 / 2 ** (1 / 32))


def test_one_false_failure_does_not_cut_the_bracket() -> None:
    undisturbed = SimulatedServer(900.0).search().rate_qps
    for number in range(6):
        simulated = SimulatedServer(900.0)
        simulated.failing = {number}
        assert simulated.search().rate_qps == undisturbed


def test_one_failure_among_the_confirmations_lowers_the_rate_and_all_begins_anew() -> None:
    for number in (6, 7, 8):
        simulated = SimulatedServer(1e9)
        simulated.failing = {number}
        search = simulated.search()
        found = simulated.probes[5][0]
        tried = [found] * (number - 5) + [0.9 * found] * 3
        assert [rate for rate, _ in simulated.probes[6:]] == pytest.approx(tried)
        assert (search.lowered, search.confirmed) == (1, True)
        assert search.rate_qps == pytest.approx(0.9 * found)
        assert search.failed_at_qps == found


def test_a_search_gives_up_and_says_that_nothing_was_confirmed() -> None:
    simulated = SimulatedServer(-1.0)
    search = simulated.search(steps=3)
    assert (search.lowered, search.confirmed) == (0, False)
    assert search.failed_at_qps == search.rate_qps == min(rate for rate, _ in simulated.probes)
    assert search.in_row()["held_at_qps"] is None
    # 600 queries/s and its halves down to 18.75, each twice, and the window of the row: at 9.4, 662 queries would take
    # longer than a minute to come.
    assert [rate for rate, _ in simulated.probes] == [600 / 2**k for k in range(6) for _ in (0, 1)] + [18.75]


def test_a_fast_system_is_given_up_after_as_many_halvings() -> None:
    simulated = SimulatedServer(-1.0)
    search = simulated.search(capacity_qps=1e6)
    assert search.rate_qps == search.failed_at_qps == 6e5 / 2 ** (MAX_DESCENTS - 1)
    assert len(simulated.probes) == 2 * MAX_DESCENTS + 1


def test_a_rate_that_is_not_confirmed_is_lowered_until_windows_would_take_minutes() -> None:
    simulated = SimulatedServer(-1.0)
    found = alone(simulated, confirm_rate(20.0, slo_ms=20.0, window_s=2.0))
    assert [rate for rate, _ in simulated.probes] == pytest.approx([20 * 0.9**k for k in range(14)])  # 65 to 257 s
    assert (found.lowered, found.confirmed) == (13, False)
    fast = alone(SimulatedServer(-1.0), confirm_rate(1e6, slo_ms=20.0, window_s=0.1))
    assert (fast.lowered, fast.confirmed) == (MAX_LOWERED, False)


def test_another_process_confirms_the_rate_or_lowers_it() -> None:
    held = alone(SimulatedServer(800.0), confirm_rate(800.0, slo_ms=20.0, window_s=2.0))
    assert (held.rate_qps, held.confirmed, held.failed_at_qps, held.probes, held.lowered) == (800.0, True, None, 0, 0)
    simulated = SimulatedServer(700.0)
    lowered = alone(simulated, confirm_rate(800.0, slo_ms=20.0, window_s=2.0))
    assert simulated.probes == [(800.0, 1600), (720.0, 1440)] + [(648.0, 1307)] * 3
    assert (lowered.rate_qps, lowered.confirmed, lowered.failed_at_qps, lowered.lowered) == (648.0, True, 720.0, 2)


class LateGenerator(SimulatedServer):
    """Holds every rate, but its generator sends some queries 15 ms late: always above a rate, or in some probes."""

    def __call__(self, rate_qps: float, n_queries: int) -> Window:
        late = rate_qps > self.threshold_qps or len(self.probes) in self.failing
        self.probes.append((rate_qps, n_queries))
        lag_ms = np.zeros(n_queries)
        lag_ms[: n_queries // 50 + 1] = 15.0 if late else 0.0
        return window_of(10.0 + lag_ms, rate_qps, parts_ms={"send_lag": lag_ms})


def test_a_window_whose_generator_fell_behind_is_taken_again() -> None:
    simulated = LateGenerator(1e9)
    simulated.failing = {0, 1}
    found = alone(simulated, confirm_rate(800.0, slo_ms=20.0, window_s=2.0))
    assert (found.rate_qps, found.late_generator, len(simulated.probes)) == (800.0, None, 2 + CONFIRMATIONS)


def test_one_stall_of_a_large_batch_is_no_slow_system() -> None:
    def probe(rate_qps: float, n_queries: int) -> Window:
        compute_ms = np.repeat(np.arange(1 + n_queries // 20) * 1e-6 + 1.0, 20)[:n_queries]  # batches of 20
        compute_ms[40:60] = 25.0
        parts_ms = {"send_lag": np.zeros(n_queries), "queue": np.zeros(n_queries), "compute": compute_ms}
        return window_of(compute_ms, rate_qps, parts_ms=parts_ms)

    found = alone(probe, search_rate(1000.0, slo_ms=20.0, probe_s=1.0, steps=3))
    assert (found.confirmed, found.cannot_hold) == (False, None)


def test_a_rate_that_the_generator_set_says_so() -> None:
    found = LateGenerator(750.0).search()
    assert found.rate_qps <= 750.0
    assert "the load generator fell behind: it sent queries late by 15.00 ms" in str(found.late_generator)


def test_a_system_that_fails_while_its_generator_is_late_is_the_one_that_failed() -> None:
    def probe(rate_qps: float, n_queries: int) -> Window:
        lag_ms = np.full(n_queries, 15.0)
        return window_of(30.0 + lag_ms, rate_qps, parts_ms={"send_lag": lag_ms})

    found = alone(probe, confirm_rate(800.0, slo_ms=20.0, window_s=2.0))
    assert (found.confirmed, found.late_generator) == (False, None)


@pytest.mark.parametrize(("over_ms", "hopeless"), [(30.0, True), (19.0, False)])
def test_a_system_whose_queries_are_too_slow_alone_is_given_up_at_once(over_ms: float, hopeless: bool) -> None:
    asked: list[float] = []

    def probe(rate_qps: float, n_queries: int) -> Window:
        asked.append(rate_qps)
        queue_ms = np.where(np.arange(n_queries) % 20 < 10, 0.0, 40.0)  # half of them wait
        took_ms = np.where(np.arange(n_queries) % 20 == 0, over_ms, 5.0)  # a tenth of those that do not is slow
        parts_ms = {"send_lag": np.zeros(n_queries), "queue": queue_ms}
        parts_ms["compute"] = took_ms + 1e-6 * np.arange(n_queries)  # a batch each
        return window_of(queue_ms + took_ms, rate_qps, parts_ms=parts_ms)

    found = alone(probe, search_rate(1000.0, slo_ms=20.0, probe_s=1.0, steps=3))
    assert not found.confirmed
    if hopeless:
        assert found.cannot_hold is not None
        assert "batches whose queries found the system idle took longer than 20 ms" in found.cannot_hold
        # Two probes and their repeats, of which the first is no light load, and the window of the row.
        assert asked == [600.0, 600.0, 300.0, 300.0, 300.0]
    else:
        assert found.cannot_hold is None
        assert len(asked) == 2 * 6 + 1


def test_an_overloaded_probe_fails_even_if_its_latencies_held() -> None:
    simulated = SimulatedServer(800.0)
    simulated.overloads = True
    assert 800 / 2 ** (1 / 32) <= simulated.search().rate_qps <= 800


def test_windows_are_long_enough_for_early_stopping_and_those_of_confirmation_twice_as_long() -> None:
    simulated = SimulatedServer(1e9)
    rate = simulated.search(capacity_qps=2000.0).rate_qps
    sizes = [n for _, n in simulated.probes]
    assert sizes[:-CONFIRMATIONS] == [
        max(MIN_PROBE_QUERIES, round(qps)) for qps, _ in simulated.probes[:-CONFIRMATIONS]
    ]
    assert sizes[-CONFIRMATIONS:] == [round(2 * rate)] * CONFIRMATIONS
    slow = SimulatedServer(1e9)
    slow.search(capacity_qps=10.0)
    assert [n for _, n in slow.probes] == [MIN_PROBE_QUERIES] * 6 + [MIN_CONFIRMING_QUERIES] * 3


@pytest.mark.parametrize(("over", "held"), [(0, True), (1, True), (2, False)])
def test_of_662_queries_one_may_exceed_the_limit(over: int, held: bool) -> None:
    latency_ms = np.full(662, 5.0)
    latency_ms[:over] = 21.0
    assert holds_limit(window_of(latency_ms), 20.0)[0] is held


def test_an_arrival_without_an_answer_does_not_hold() -> None:
    held, reason = holds_limit(window_of(np.full(5000, 1.0), unanswered=1), 20.0)
    assert (held, reason) == (False, "1 arrivals were not answered")


def test_the_search_on_a_simulated_queue_finds_the_rate_of_the_recursion() -> None:
    """M/D/1 with a service of 1 ms: the highest rate whose p99 is within 6 ms, by direct computation."""

    def latencies(rate_qps: float, n: int) -> np.ndarray:
        return lindley_ms(arrival_times(Arrivals(), rate_qps, n, seed=0), np.full(n, 1e-3))

    def probe(rate_qps: float, n_queries: int) -> Window:
        return window_of(latencies(rate_qps, max(n_queries, 20_000)), rate_qps)

    rates = np.arange(500.0, 1000.0, 10.0)
    p99 = np.array([np.percentile(latencies(rate, 20_000), 99, method="inverted_cdf") for rate in rates])
    highest = rates[np.flatnonzero(p99 <= 6.0)[-1]]
    assert alone(probe, search_rate(1000.0, 6.0, 0.1, 6)).rate_qps == pytest.approx(highest, rel=0.06)
