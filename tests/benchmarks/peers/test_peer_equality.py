"""Which answers count as equal, by hand."""

import numpy as np
import pytest

from benchmarks.peers.equality import difference_in_words, largest_difference


def answers(**values: list) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in values.items()}


def test_differences_are_relative_above_one_and_absolute_below() -> None:
    reference = answers(scores=[[0.5, 10.0]])
    assert largest_difference(answers(scores=[[0.6, 10.0]]), reference) == pytest.approx(0.1)
    assert largest_difference(answers(scores=[[0.5, 12.0]]), reference) == pytest.approx(0.2)
    assert largest_difference(reference, reference) == 0.0


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        (answers(scores=[[1.0]]), "its answers are not recjax's: its scores are (1, 1) and recjax's (1, 2)"),
        (answers(bags=[[1.0, 2.0]]), "its answers are not recjax's: it answers bags and recjax scores"),
        (answers(scores=[[1.0, 2.001]]), "its answers differ from recjax's by 0.0005; allowed: 0.0001"),
        (answers(scores=[[np.nan, 2.0]]), "its answers differ from recjax's by nan; allowed: 0.0001"),
        (answers(scores=[[np.inf, 2.0]]), "its answers differ from recjax's by inf; allowed: 0.0001"),
    ],
)
def test_other_answers_are_told(own: dict[str, np.ndarray], reason: str) -> None:
    largest, why = difference_in_words(own, answers(scores=[[1.0, 2.0]]))
    assert why == reason
    assert largest is None or np.isfinite(largest)


def test_answers_within_the_tolerance_are_equal() -> None:
    largest, why = difference_in_words(answers(scores=[[1.00005, 2.0]]), answers(scores=[[1.0, 2.0]]))
    assert largest == pytest.approx(5e-5)
    assert why is None


@pytest.mark.parametrize(
    ("items", "is_equal"),
    [
        ([[7, 8, 9, 5]], True),
        ([[7, 9, 8, 5]], True),  # scores 3.0 and 2.99999 may change places
        ([[8, 7, 9, 5]], False),  # 4.0 and 3.0 may not
        ([[7, 8, 9, 6]], True),  # behind the last one another may have the same score
        ([[6, 8, 9, 5]], False),
    ],
)
def test_items_may_only_change_places_with_equals(items: list[list[int]], is_equal: bool) -> None:
    scores = [[4.0, 3.0, 2.99999, 1.0]]
    reference = answers(items=[[7, 8, 9, 5]], scores=scores)
    largest, why = difference_in_words(answers(items=items, scores=scores), reference)
    assert largest == 0.0
    assert (why is None) == is_equal
    assert is_equal or why == "it returns other items than recjax, and not for equal scores"
