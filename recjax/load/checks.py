"""Whether a window, or the system it measured, can be believed.

A row whose system leaks, compiles while it serves, answers from a cache, answers late or wrongly, or whose generator
fell behind, is invalid: each check says why in one sentence.

Shapes: N queries.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recjax.load.system import System
from recjax.load.window import Window
from recjax.measurement.answer_caching import LARGEST_RATIO, answers_are_cached

LAG_SHARE = 0.1  # of the latency limit: a generator whose p99 of lags is above it has fallen behind
GENERATOR_FELL_BEHIND = "the load generator fell behind"  # how that reason begins, and no other
CACHING_ROUNDS = (5, 15)  # the latter where five leave open whether it is a cache, as on a busy machine
CACHING_S = 0.05  # of each kind of query in each round
CACHING_QUERIES = (3, 60)  # fewest and most of each; of fresh ones, no more than a small pool of requests has
ANSWER_RTOL, ANSWER_ATOL = 1e-3, 1e-5  # one program gives one batch the same answers but for the order of sums


def window_fault(window: Window, slo_ms: float) -> str | None:
    """Returns why an open-loop window is no measurement of its system, or that the system let queries go unanswered.

    Args:
      window: of a `LoadGenerator`.
      slo_ms: latency limit that the window is judged by.
    """
    if window.silent:
        return f"{window.unanswered:,} arrivals had no answer when the system had been silent for seconds"
    if window.unanswered and not (window.overloaded or window.failed_early):
        return f"{window.unanswered:,} arrivals were not answered"
    return late_generator(window, slo_ms)


def late_generator(window: Window, slo_ms: float) -> str | None:
    """Returns that the load generator fell behind in an open-loop window, None if it did not."""
    lag_ms = window.parts_ms.get("send_lag")
    if lag_ms is None or not len(lag_ms):
        return None
    p99_ms = float(np.percentile(lag_ms, 99))
    if p99_ms <= LAG_SHARE * slo_ms:
        return None
    return (
        f"{GENERATOR_FELL_BEHIND}: it sent queries late by {p99_ms:.2f} ms (p99), more than "
        f"{LAG_SHARE:.0%} of the limit of {slo_ms:g} ms"
    )


def wrong_answers(system: System, window: Window) -> str | None:
    """Returns how answers that were kept from the window differ from the system's answers to the same batches now.

    Numbers may differ by the order of sums; items, and whatever else is whole, only where two scores next to each other
    differ by no more than that, so that they may have changed places.
    """
    for rows, content in window.kept_answers:
        answers, _ = system.answer(rows)
        expected = [np.asarray(answers[name]) for name in sorted(answers)]
        if len(content) != sum(array.nbytes for array in expected):
            return f"a batch of {len(rows)} samples was answered with {len(content)} bytes under load"
        start, ties = 0, _near_ties(expected)
        for name, array in zip(sorted(answers), expected, strict=True):
            under_load = np.frombuffer(content, array.dtype, array.size, start).reshape(array.shape)
            start += array.nbytes
            if np.issubdtype(array.dtype, np.integer) or array.dtype == bool:
                same = bool(np.all((under_load == array) | ties.get(array.shape, False)))
            else:  # NumPy does not count bfloat16 among the floating-point types
                pair = under_load.astype(np.float64), array.astype(np.float64)
                same = np.allclose(*pair, ANSWER_RTOL, ANSWER_ATOL, equal_nan=True)
            if not same:
                return f"{name!r} of a batch of {len(rows)} samples was answered differently under load"
    return None


def _near_ties(answers: Sequence[NDArray]) -> dict[tuple[int, ...], NDArray]:
    """Returns by shape where a score of a ranking is as good as the one before or after it."""
    ties = {}
    for scores in answers:
        if scores.ndim == 2 and not np.issubdtype(scores.dtype, np.integer) and scores.dtype != bool:
            values = scores.astype(np.float64)
            close = np.isclose(values[:, 1:], values[:, :-1], ANSWER_RTOL, ANSWER_ATOL)
            near = np.zeros(scores.shape, bool)
            near[:, 1:] |= close
            near[:, :-1] |= close
            near[:, -1:] = True  # the item after the last one is not known
            ties[scores.shape] = near
    return ties


def cached_answers(system: System, seed: int) -> tuple[dict[str, Any], str | None]:
    """Returns how much faster a repeated query is than fresh ones, as it stands in a row, and the fault if it is one.

    Args:
      system: answers queries of one sample.
      seed: of the draw of the queries.
    """
    rng = np.random.default_rng([seed, 2])
    fresh_ms, repeated_ms = list[NDArray](), list[NDArray]()
    unseen = 1 + rng.permutation(system.n_rows - 1)  # warm_up has asked for row 0
    most = CACHING_ROUNDS[-1]
    size = max(1, min(CACHING_QUERIES[1], len(unseen) // (most + 1)))
    of_rounds = np.resize(unseen, (most + 1, size))  # a pool that is smaller than that repeats some
    for number in range(most):
        fresh, repeated = of_rounds[number], np.full(CACHING_QUERIES[1], of_rounds[-1, 0])
        _latencies(system, repeated[:1], 1)  # its first answer is not a repeated one
        kinds = [(fresh_ms, fresh), (repeated_ms, repeated)]
        for latencies, rows in kinds if number % 2 else reversed(kinds):
            latencies.append(_latencies(system, rows, CACHING_QUERIES[0]))
        if number + 1 not in CACHING_ROUNDS:
            continue
        cached, ratio, words = answers_are_cached(fresh_ms, repeated_ms, [0] * len(fresh_ms))
        if cached or (ratio.high is not None and ratio.high <= LARGEST_RATIO):
            break
    seen = {"fresh_over_repeated": ratio.value, "ci95": None if ratio.low is None else [ratio.low, ratio.high or 0.0]}
    return seen, words if cached else None


def _latencies(system: System, rows: NDArray, fewest: int) -> NDArray:
    latencies: list[float] = []
    end = time.perf_counter() + CACHING_S
    for row in rows[: CACHING_QUERIES[1]]:
        start = time.perf_counter()
        answers, _ = system.answer(np.array([row], np.int32))
        for value in answers.values():
            np.asarray(value)
        latencies.append((time.perf_counter() - start) * 1e3)
        if len(latencies) >= fewest and time.perf_counter() > end:
            break
    return np.array(latencies)
