"""What makes a window, or its system, one that cannot be believed, and in which words."""

import os
import signal
import threading
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from simulated_systems import SimulatedSystem
from simulated_time import simulate_time

from recjax.load import checks
from recjax.load.checks import cached_answers, late_generator, window_fault, wrong_answers
from recjax.load.client import LoadGenerator
from recjax.load.closed_loop import warm_up
from recjax.load.window import Window, nothing_measured
from recjax.serving.compiled import Stamps


def window_of(lag_ms: np.ndarray | None = None, **more: Any) -> Window:
    """Returns a window of 101 answers, or of as many as there are lags."""
    n = 101 if lag_ms is None else len(lag_ms)
    values: dict[str, Any] = {
        "latency_ms": np.full(n, 5.0),
        "parts_ms": {} if lag_ms is None else {"send_lag": lag_ms},
        "samples": n,
        "padded_samples": n,
        "batch_samples": np.ones(n, np.int64),
        "duration_s": 1.0,
        "offered_qps": 100.0,
    }
    return Window(**values | more)


# --- a late generator

LAGS_MS = np.arange(101.0)  # p99 is 99


def test_a_generator_is_late_if_p99_of_its_lags_exceeds_a_tenth_of_the_limit() -> None:
    assert late_generator(window_of(LAGS_MS), 990.0) is None  # it is a tenth
    assert late_generator(window_of(LAGS_MS), 980.0) == (
        "the load generator fell behind: it sent queries late by 99.00 ms (p99), more than 10% of the limit of 980 ms"
    )


def test_one_query_of_a_hundred_may_be_late() -> None:
    lag_ms = np.zeros(201)
    lag_ms[:2] = 1e6
    assert late_generator(window_of(lag_ms), 10.0) is None
    lag_ms[2] = 1e6
    assert late_generator(window_of(lag_ms), 10.0) is not None


def test_a_closed_loop_and_a_window_without_an_answer_have_no_lag() -> None:
    assert late_generator(window_of(), 1e-3) is None
    assert late_generator(window_of(np.zeros(0)), 1e-3) is None


def test_a_generator_whose_process_was_stopped_has_fallen_behind() -> None:
    """A real one, for 0.6 s from the first query of the window on; its system answers all the same."""
    with LoadGenerator() as generator:

        class Stopping(SimulatedSystem):
            def answer(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], Stamps]:
                if self.calls == 0:
                    pid = generator._process.pid
                    os.kill(pid, signal.SIGSTOP)
                    threading.Timer(0.6, os.kill, (pid, signal.SIGCONT)).start()
                return super().answer(rows)

        window = generator.measure(Stopping(np.array([1e-4])), 500.0, 200, slo_ms=1000.0, seed=0)
    lag_ms = window.parts_ms["send_lag"]
    assert (lag_ms > 100.0).sum() > 20
    assert np.all(window.latency_ms >= lag_ms)  # none of the wait is hidden
    fault = window_fault(window, 1000.0)
    assert fault == (
        f"the load generator fell behind: it sent queries late by {np.percentile(lag_ms, 99):.2f} ms (p99), more than "
        "10% of the limit of 1000 ms"
    )


# --- unanswered queries


def test_a_window_with_all_answers_in_time_has_no_fault() -> None:
    assert window_fault(window_of(np.zeros(101)), 10.0) is None


def test_arrivals_without_an_answer_are_a_fault() -> None:
    assert window_fault(window_of(unanswered=1234), 10.0) == "1,234 arrivals were not answered"


def test_what_a_window_that_was_ended_early_leaves_unanswered_is_the_systems() -> None:
    """Such a window is a measurement: it does not hold the limit."""
    assert window_fault(window_of(unanswered=1234, overloaded=True), 10.0) is None
    assert window_fault(window_of(unanswered=1234, failed_early=True), 10.0) is None
    late = window_fault(window_of(LAGS_MS, unanswered=1234, overloaded=True), 10.0)
    assert late is not None
    assert "fell behind" in late


def test_silence_is_a_fault_before_all_others() -> None:
    silent = window_of(LAGS_MS, unanswered=1234, silent=True, overloaded=True)
    assert window_fault(silent, 10.0) == "1,234 arrivals had no answer when the system had been silent for seconds"


# --- wrong answers


class Answering(SimulatedSystem):
    """Gives the same answers to every batch."""

    def __init__(self, **answers: np.ndarray) -> None:
        super().__init__(np.zeros(1))
        self.answers = answers

    def answer(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], Stamps]:
        return self.answers, Stamps(0.0, 0.0, 0.0, 0.0)


def fault_of(answers: Mapping[str, np.ndarray], **under_load: np.ndarray) -> str | None:
    """Returns what is said if some of the answers were others under load; the first batch that was kept had them."""
    kept = answers | under_load
    for name, array in answers.items():
        assert kept[name].dtype == array.dtype
    contents = [b"".join(of[name].tobytes() for name in sorted(of)) for of in (answers, kept)]
    window = window_of(kept_answers=[(np.zeros(2, np.int32), content) for content in contents])
    return wrong_answers(Answering(**answers), window)


def differs(name: str) -> str:
    return f"{name!r} of a batch of 2 samples was answered differently under load"


PROBABILITIES = np.array([0.25, 0.5], np.float32)


def test_the_same_answers_are_right_and_so_is_a_window_of_which_none_was_kept() -> None:
    assert fault_of({"probability": PROBABILITIES}) is None
    assert wrong_answers(Answering(probability=PROBABILITIES), nothing_measured()) is None


def test_numbers_may_differ_by_the_order_of_sums() -> None:
    answers = {"probability": PROBABILITIES}
    assert fault_of(answers, probability=PROBABILITIES * np.float32(1 + 9e-4)) is None
    assert fault_of(answers, probability=PROBABILITIES + np.float32(0.002)) == differs("probability")
    assert fault_of(answers, probability=PROBABILITIES[::-1].copy()) == differs("probability")
    unknown = np.array([np.nan, 0.5], np.float32)
    assert fault_of({"probability": unknown}) is None
    assert fault_of({"probability": unknown}, probability=PROBABILITIES) == differs("probability")


def test_two_answers_in_short_floats_are_compared_as_numbers() -> None:
    short = PROBABILITIES.astype(ml_dtypes.bfloat16)
    assert fault_of({"probability": short}) is None
    assert fault_of({"probability": short}, probability=short[::-1].copy()) == differs("probability")


def test_whole_numbers_and_truths_must_be_the_same() -> None:
    answers = {"count": np.array([3, 4], np.int32), "seen": np.array([True, False])}
    assert fault_of(answers) is None
    assert fault_of(answers, count=np.array([3, 5], np.int32)) == differs("count")
    assert fault_of(answers, seen=np.array([True, True])) == differs("seen")


def test_an_answer_of_another_size_is_wrong() -> None:
    window = window_of(kept_answers=[(np.zeros(2, np.int32), PROBABILITIES.tobytes()[:-1])])
    assert wrong_answers(Answering(probability=PROBABILITIES), window) == (
        "a batch of 2 samples was answered with 7 bytes under load"
    )


RANKING = {
    "items": np.array([[7, 3, 4, 9, 2]], np.int32),
    "scores": np.array([[0.9, 0.5, 0.5, 0.1, 0.05]], np.float32),
}


@pytest.mark.parametrize(
    ("items", "wrong"),
    [
        ([7, 3, 4, 9, 2], False),
        ([7, 4, 3, 9, 2], False),  # their scores tie
        ([7, 3, 4, 9, 8], False),  # the last one may tie with an item that is not among them
        ([3, 7, 4, 9, 2], True),
        ([7, 3, 4, 8, 2], True),
        ([7, 3, 9, 4, 2], True),
    ],
)
def test_items_may_change_places_only_where_scores_tie(items: list[int], wrong: bool) -> None:
    said = differs("items") if wrong else None
    assert fault_of(RANKING, items=np.array([items], np.int32)) == said


@pytest.mark.parametrize(("apart", "wrong"), [(0.5 * 0.9e-3, False), (0.5 * 1.2e-3, True)])
def test_scores_tie_that_differ_by_no_more_than_the_order_of_sums_changes(apart: float, wrong: bool) -> None:
    answers = {
        "items": np.array([[7, 3, 4]], np.int32),
        "scores": np.array([[0.5, 0.5 - apart, 0.1]], np.float32),
    }
    said = differs("items") if wrong else None
    assert fault_of(answers, items=np.array([[3, 7, 4]], np.int32)) == said


def test_scores_that_tie_excuse_no_answer_of_another_shape() -> None:
    answers = RANKING | {"count": np.array([3, 4], np.int32)}
    assert fault_of(answers, count=np.array([3, 5], np.int32)) == differs("count")


# --- cached answers


class CachingRows(SimulatedSystem):
    """Keeps the answer of every row, and takes a share of the time for one that it has."""

    n_rows = 400
    buckets = (1, 300)  # more than half of the pool fits the largest

    def __init__(self, known_s: float) -> None:
        super().__init__(np.zeros(1))
        self.known_s = known_s
        self.seen: set[int] = set()

    def answer(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], Stamps]:
        self.service_s = np.array([self.known_s if set(rows.tolist()) <= self.seen else 1e-3])
        self.seen |= set(rows.tolist())
        return super().answer(rows)


@pytest.mark.parametrize(("known_s", "ratio"), [(1e-4, 10.0), (0.6e-3, 1 / 0.6)])
def test_a_repeated_query_that_is_answered_much_faster_is_cached(
    monkeypatch: pytest.MonkeyPatch, known_s: float, ratio: float
) -> None:
    simulate_time(monkeypatch)
    seen, fault = cached_answers(CachingRows(known_s), seed=0)
    assert seen == {
        "fresh_over_repeated": pytest.approx(ratio),
        "ci95": [pytest.approx(ratio), pytest.approx(ratio)],
    }
    assert fault == (
        f"fresh queries take {ratio:.2f} times as long as a repeated one (95%: {ratio:.2f} to {ratio:.2f}): more than "
        "the 1.5 that hot caches explain, answers are cached"
    )


@pytest.mark.parametrize(("known_s", "ratio"), [(1e-3, 1.0), (0.7e-3, 1 / 0.7)])
def test_hot_caches_of_the_processor_are_no_cache_of_answers(
    monkeypatch: pytest.MonkeyPatch, known_s: float, ratio: float
) -> None:
    simulate_time(monkeypatch)
    seen, fault = cached_answers(CachingRows(known_s), seed=0)
    assert seen["fresh_over_repeated"] == pytest.approx(ratio)
    assert fault is None


@pytest.mark.parametrize("n_rows", [20, 1_000])
def test_warming_up_and_a_small_pool_do_not_hide_a_cache_of_rows(monkeypatch: pytest.MonkeyPatch, n_rows: int) -> None:
    simulate_time(monkeypatch)
    system = CachingRows(1e-4)
    system.n_rows = n_rows
    warm_up(system)
    _, fault = cached_answers(system, seed=0)
    assert fault is not None
    assert "answers are cached" in fault


def test_a_slow_system_is_asked_a_few_times_and_a_fast_one_no_more_than_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulate_time(monkeypatch)
    fewest, most = checks.CACHING_QUERIES
    for service_s, asked in ((1.0, fewest), (1e-6, most)):
        system = SimulatedSystem(np.array([service_s]))
        system.n_rows = 1_000
        cached_answers(system, seed=0)
        assert system.calls == checks.CACHING_ROUNDS[0] * (2 * asked + 1)


@pytest.mark.parametrize(
    ("ratios", "rounds", "is_cache"),
    [
        ([10.0] * 5, 5, True),
        ([10.0, 10.0, 0.2, 10.0, 10.0], 15, True),
        ([0.2, 10.0, 1.0, 0.2, 10.0], 15, True),
        ([1.0] * 5, 5, False),
        ([3.0, 1.0, 9.0, 1.0, 3.0], 15, False),
    ],
)
def test_five_rounds_that_leave_it_open_are_followed_by_more(
    monkeypatch: pytest.MonkeyPatch, ratios: list[float], rounds: int, is_cache: bool
) -> None:
    """Some of the first five are disturbed: the ratios of fresh to repeated latencies are not those of the others."""
    undisturbed, seen = 10.0 if is_cache else 1.0, list[float]()

    def latencies(system: object, rows: np.ndarray, fewest: int) -> np.ndarray:
        if len(set(rows.tolist())) == 1:
            return np.full(len(rows), 1.0)
        seen.append(ratios[len(seen)] if len(seen) < len(ratios) else undisturbed)
        return np.full(len(rows), seen[-1])

    monkeypatch.setattr(checks, "_latencies", latencies)
    ratio, fault = cached_answers(CachingRows(1e-3), seed=0)
    assert (len(seen), fault is not None) == (rounds, is_cache)
    assert ratio["fresh_over_repeated"] == undisturbed
