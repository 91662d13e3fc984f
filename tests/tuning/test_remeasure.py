"""The last measurement on probes whose threshold is known."""

import functools

import numpy as np
import pytest

from recjax.load.rate_search import CONFIRMATIONS, MAX_LATE, MAX_LOWERED, MIN_CONFIRMING_QUERIES
from recjax.load.window import Window
from recjax.tuning.remeasure import (
    ROUNDS,
    closed_loops_in_turn,
    confirm_in_turn,
    p99_interval,
    rate_interval,
    rate_ratio,
)

P99_MS = 20.0


def window(latency_ms: np.ndarray, duration_s: float = 1.0, **more: object) -> Window:
    n = len(latency_ms)
    return Window(
        latency_ms=latency_ms,
        parts_ms={},
        samples=n,
        padded_samples=n,
        batch_samples=np.ones(n, int),
        duration_s=duration_s,
        **more,  # type: ignore[arg-type]
    )


class Contestant:
    """A probe whose p99 exceeds the limit above a threshold; all contestants write who asked into one list."""

    def __init__(self, name: str, threshold_qps: float, log: list[str]) -> None:
        self.name, self.threshold_qps, self.log = name, threshold_qps, log
        self.asked: list[tuple[float, int]] = []

    def __call__(self, rate_qps: float, n_queries: int) -> Window:
        self.log.append(self.name)
        self.asked.append((rate_qps, n_queries))
        latency_ms = np.full(n_queries, 5.0)
        latency_ms[: n_queries // 50] = 30.0 if rate_qps > self.threshold_qps else 6.0
        return window(latency_ms)


def test_each_rate_holds_three_times_in_a_row_and_is_lowered_by_tenths() -> None:
    log: list[str] = []
    fits, too_fast = Contestant("fits", 500.0, log), Contestant("too fast", 850.0, log)
    left: list[int] = []
    first, second = confirm_in_turn([fits, too_fast], [400.0, 1000.0], P99_MS, seed=0, done=left.append)
    assert (first.rate_qps, first.confirmed, first.failed_at_qps, first.lowered) == (400.0, True, None, 0)
    assert second.rate_qps == pytest.approx(810.0)
    assert (second.confirmed, second.lowered, len(second.windows)) == (True, 2, CONFIRMATIONS)
    assert second.failed_at_qps == pytest.approx(900.0)
    assert [rate for rate, _ in fits.asked] == [400.0] * CONFIRMATIONS
    assert min(n for _, n in fits.asked) >= MIN_CONFIRMING_QUERIES
    # In turn: each of the first three rounds has a window of both, and what is settled has none any more.
    assert [set(log[start : start + 2]) for start in (0, 2, 4)] == [{"fits", "too fast"}] * 3
    assert set(log[6:]) == {"too fast"}
    assert left[-1] == 0


def test_when_time_is_over_the_first_confirmed_rate_ends_it() -> None:
    log: list[str] = []
    fits, too_fast = Contestant("fits", 500.0, log), Contestant("too fast", 200.0, log)
    first, second = confirm_in_turn([fits, too_fast], [400.0, 1000.0], P99_MS, seed=0, is_late=lambda: True)
    assert (first.confirmed, second.confirmed) == (True, False)  # late from the beginning: it goes on until one is
    assert len(fits.asked) == CONFIRMATIONS
    assert len(too_fast.asked) <= CONFIRMATIONS


def test_what_never_holds_is_not_confirmed() -> None:
    probe = Contestant("hopeless", 1.0, [])
    (found,) = confirm_in_turn([probe], [1000.0], P99_MS, seed=0)
    assert (found.confirmed, found.windows) == (False, ())
    assert len(probe.asked) == MAX_LOWERED + 1
    assert found.failed_at_qps == pytest.approx(1000.0 * 0.9**MAX_LOWERED)


def test_a_late_generator_is_asked_again_and_named_where_the_rate_is_its_own() -> None:
    asked: list[float] = []

    def late(rate_qps: float, n_queries: int, above_qps: float = 0.0) -> Window:
        asked.append(rate_qps)
        parts = {"send_lag": np.full(n_queries, 15.0 if rate_qps > above_qps else 0.0)}
        latency_ms = np.full(n_queries, 16.0)
        return Window(
            latency_ms=latency_ms,
            parts_ms=parts,
            samples=n_queries,
            padded_samples=n_queries,
            batch_samples=np.ones(n_queries, int),
            duration_s=1.0,
        )

    (found,) = confirm_in_turn([late], [1000.0], P99_MS, seed=0)
    assert not found.confirmed
    assert found.fault is not None
    assert "fell behind" in found.fault
    assert len(asked) == MAX_LATE * (MAX_LOWERED + 1)

    (found,) = confirm_in_turn([functools.partial(late, above_qps=950.0)], [1000.0], P99_MS, seed=0)
    assert (found.confirmed, found.rate_qps, found.fault) == (True, 900.0, None)
    assert found.late_generator is not None
    assert found.late_generator.startswith("the rate is that of the load generator: at 1,000 queries/s the load")


def test_closed_loops_take_turns_and_ratios_are_paired() -> None:
    log: list[tuple[str, int]] = []

    def contestant(name: str, slowness: float):
        def measure(seed: int) -> Window:
            log.append((name, seed))
            return window(
                np.full(100, 1.0), duration_s=slowness * (1 + seed % 3)
            )  # the machine is slower in some rounds

        return measure

    slow, fast = closed_loops_in_turn([contestant("slow", 2.0), contestant("fast", 1.0)], seed=10)
    assert len(slow) == len(fast) == ROUNDS
    assert all({log[i], log[i + 1]} == {("slow", 10 + i // 2), ("fast", 10 + i // 2)} for i in range(0, 2 * ROUNDS, 2))
    assert [name for name, _ in log[::2]] != ["slow"] * ROUNDS  # not always in one order
    ratio = rate_ratio(fast, slow)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2.0, 2.0, 2.0))
    rate = rate_interval(fast)
    assert rate.low is not None
    assert rate.high is not None
    assert rate.value == pytest.approx(100 * ROUNDS / sum(1 + (10 + i) % 3 for i in range(ROUNDS)))
    assert rate.low < rate.value < rate.high


def test_the_p99_is_that_of_all_windows() -> None:
    windows = [window(np.arange(1.0, 101.0)), window(np.arange(1.0, 101.0)), window(np.arange(1.0, 101.0))]
    assert p99_interval(windows).value == 99.0
