import numpy as np
import pytest

from recjax.measurement.answer_caching import answers_are_cached


def rounds(n: int, median_ms: float, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [median_ms * np.exp(rng.normal(0, 0.05) + rng.normal(0, 0.2, 300)) for _ in range(n)]


def test_a_cache_of_answers_is_caught() -> None:
    cached, ratio, reason = answers_are_cached(rounds(5, 4.0, 0), rounds(5, 0.1, 1), [0] * 5)
    assert cached
    assert ratio.value == pytest.approx(40, rel=0.1)
    assert "answers are cached" in reason


@pytest.mark.parametrize("repeated_ms", [4.0, 3.6, 5.0])
def test_the_same_work_is_no_cache(repeated_ms: float) -> None:
    cached, ratio, reason = answers_are_cached(rounds(5, 4.0, 0), rounds(5, repeated_ms, 1), [0] * 5)
    assert not cached
    assert ratio.value == pytest.approx(4.0 / repeated_ms, rel=0.1)
    assert reason.endswith("up to 1.5 hot caches explain it")


def test_what_is_not_certain_is_no_proof() -> None:
    # The ratio of medians is 1.7, but rounds differ so much that it may be less than 1.5.
    rng = np.random.default_rng(2)
    fresh = [np.full(50, 1.7 * np.exp(rng.normal(0, 0.3))) for _ in range(5)]
    cached, ratio, _ = answers_are_cached(fresh, [np.ones(50)] * 5, [0] * 5)
    assert not cached
    assert ratio.low is not None
    assert ratio.low < 1.5


def test_two_rounds_prove_nothing() -> None:
    cached, ratio, reason = answers_are_cached(rounds(2, 4.0, 0), rounds(2, 0.1, 1), [0, 0])
    assert (cached, ratio.low) == (False, None)
    assert reason.endswith("2 windows; an interval needs at least 3 windows, or 3 processes")


def test_a_slow_round_of_both_is_no_doubt() -> None:
    slow = [1, 1, 8, 1, 1]
    fresh = [factor * window for factor, window in zip(slow, rounds(5, 4.0, 0), strict=True)]
    repeated = [factor * window for factor, window in zip(slow, rounds(5, 2.0, 1), strict=True)]
    cached, ratio, _ = answers_are_cached(fresh, repeated, [0] * 5)
    assert cached
    assert ratio.low is not None
    assert ratio.low > 1.7
