import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recjax.beyond_accuracy import (
    NOTHING,
    SMALLEST_GROUP,
    average_popularity,
    catalogue_coverage,
    exposure_gap,
    gini,
    group_gap,
    head_items,
    intra_list_diversity,
    user_groups,
)

V = 8
LISTS = hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(0, V - 1))
COUNTS = hnp.arrays(np.float64, V, elements=st.integers(0, 20)).filter(lambda counts: counts.sum() > 0)


def test_coverage_by_hand():
    assert catalogue_coverage(np.array([[0, 1], [1, 0]]), 8) == 2 / 8
    assert catalogue_coverage(np.array([[3, 1, 0], [2, 4, 3]]), 5) == 1


def test_gini_by_hand():
    # Items 0 to 3 are listed 3, 2, 1 and 0 times: ascending 0 1 2 3 with the factors -3 -1 1 3.
    lists = np.array([[0, 1], [0, 1], [0, 2]])
    assert gini(lists, 4) == (-3 * 0 - 1 * 1 + 1 * 2 + 3 * 3) / (4 * 6)


@pytest.mark.parametrize("n_items", [1, 2, 5, 100])
def test_gini_of_equal_exposure_is_0_and_of_one_item_nearly_1(n_items: int):
    everyone_sees_all = np.tile(np.arange(n_items), (3, 1))
    assert gini(everyone_sees_all, n_items) == 0
    one_takes_all = np.zeros((7, 1), int)
    assert gini(one_takes_all, n_items) == pytest.approx(1 - 1 / n_items)


@given(LISTS)
def test_gini_agrees_with_the_mean_absolute_difference(lists: np.ndarray):
    exposure = [int((lists == item).sum()) for item in range(V)]
    differences = sum(abs(a - b) for a in exposure for b in exposure)
    assert gini(lists, V) == pytest.approx(differences / (2 * V * sum(exposure)), abs=1e-12)


@given(LISTS, st.permutations(range(V)))
def test_names_of_items_and_the_order_of_lists_change_nothing(lists: np.ndarray, names: list[int]):
    renamed = np.array(names)[lists[::-1, ::-1]]
    assert gini(renamed, V) == gini(lists, V)
    assert catalogue_coverage(renamed, V) == catalogue_coverage(lists, V)


def test_average_popularity_by_hand():
    assert average_popularity(np.array([[0, 1], [2, 1]]), np.array([9.0, 2.0, 0.0, 50.0])) == (9 + 2 + 0 + 2) / 4


@pytest.mark.parametrize(
    ("counts", "head"),
    [
        ([1, 5, 2, 2], [1]),  # 5 of 10 is half
        ([1, 4, 2, 2], [1, 2]),  # 4 of 9 is not; of the two with 2, the first
        ([3, 3, 3, 3], [0, 1]),
        ([0, 0, 7, 0], [2]),
        ([0, 0, 0, 0], []),
    ],
)
def test_head_items_by_hand(counts: list[int], head: list[int]):
    assert np.flatnonzero(head_items(np.array(counts, float))).tolist() == head


@given(COUNTS)
def test_head_items_are_the_fewest_with_half(counts: np.ndarray):
    head = head_items(counts)
    n = int(head.sum())
    assert counts[head].sum() >= counts.sum() / 2
    assert sum(sorted(counts, reverse=True)[: n - 1]) < counts.sum() / 2
    assert counts[head].min() >= max(counts[~head], default=0)


def test_exposure_gap_by_hand():
    counts = np.array([1.0, 5.0, 2.0, 2.0])  # the head is item 1, with 5 of 10
    assert exposure_gap(np.array([[1, 0], [1, 2]]), counts) == pytest.approx(2 / 4 - 5 / 10)
    assert exposure_gap(np.array([[1], [1]]), counts) == 1 - 5 / 10
    assert exposure_gap(np.array([[0, 3], [2, 3]]), counts) == -5 / 10


@given(COUNTS)
def test_exposure_gap_of_lists_that_are_the_training_interactions_is_0(counts: np.ndarray):
    lists = np.repeat(np.arange(V), counts.astype(int))[:, None]
    assert exposure_gap(lists, counts) == pytest.approx(0, abs=1e-12)


def plain_diversity(lists: np.ndarray, pairs: list[tuple[int, int]]) -> float:
    """Returns the mean over lists of 1 - the mean cosine of two items' sets of users, one pair at a time."""
    users_of = {item: {user for user, its in pairs if its == item} for item in range(V)}

    def similarity(a: int, b: int) -> float:
        both = len(users_of[a] & users_of[b])
        return both / np.sqrt(len(users_of[a]) * len(users_of[b])) if both else 0.0

    values = [[1 - similarity(a, b) for a, b in itertools.combinations(row, 2)] for row in lists.tolist()]
    return float(np.mean([np.mean(row) for row in values]))


def test_diversity_by_hand():
    # Item 0: users 0 1. Item 1: users 0 1. Item 2: user 1. Item 3: nobody.
    user, item = np.array([0, 1, 0, 1, 1]), np.array([0, 0, 1, 1, 2])
    assert intra_list_diversity(np.array([[0, 1]]), user, item, 4) == pytest.approx(0)
    assert intra_list_diversity(np.array([[0, 2]]), user, item, 4) == pytest.approx(1 - 1 / np.sqrt(2))
    assert intra_list_diversity(np.array([[0, 3]]), user, item, 4) == pytest.approx(1)
    both = 1 - (1 + 2 / np.sqrt(2)) / 3  # of three items: one pair alike, two of cosine 1 / sqrt 2
    assert intra_list_diversity(np.array([[0, 1, 2], [3, 0, 1]]), user, item, 4) == pytest.approx((both + 2 / 3) / 2)


@given(
    st.lists(st.permutations(range(V)).map(lambda items: items[:4]), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, V - 2)), min_size=1, max_size=25),
)
def test_diversity_agrees_with_a_plain_double_loop(rows: list[list[int]], pairs: list[tuple[int, int]]):
    lists = np.array(rows)  # item V - 1 is nobody's; others may be too, and a pair may stand more than once
    user, item = np.array(pairs).T
    assert intra_list_diversity(lists, user, item, V) == pytest.approx(plain_diversity(lists, pairs), abs=1e-9)


def test_shorter_lists_count_for_what_they_hold():
    lists = np.array([[0, 1, 2], [0, 2, NOTHING], [1, NOTHING, NOTHING], [NOTHING] * 3])
    counts = np.array([1.0, 5.0, 2.0, 2.0])  # the head is item 1, with 5 of 10
    user, item = np.array([0, 1, 0, 1, 1]), np.array([0, 0, 1, 1, 2])
    assert catalogue_coverage(lists, 4) == 3 / 4
    assert gini(lists, 4) == (-3 * 0 - 1 * 2 + 1 * 2 + 3 * 2) / (4 * 6)  # listed 2, 2, 2 and 0 times
    assert average_popularity(lists, counts) == pytest.approx((1 + 5 + 2 + 1 + 2 + 5) / 6)
    assert exposure_gap(lists, counts) == pytest.approx(2 / 6 - 5 / 10)
    of_three, of_two = 1 - (1 + 2 / np.sqrt(2)) / 3, 1 - 1 / np.sqrt(2)  # a list of one has no diversity
    assert intra_list_diversity(lists, user, item, 4) == pytest.approx((of_three + of_two) / 2)
    assert np.isnan(intra_list_diversity(lists[2:], user, item, 4))


def test_user_groups_by_hand():
    ages = np.array([1, 24, 24.9, 25, 34, 35, 49, 50, 90, np.nan], np.float32)
    genders = np.array(["F", "M", "", None, "F", "M", "F", "F", "F", "F"], object)
    groups = user_groups({"age": ages, "gender": genders, "occupation": genders})
    assert set(groups) == {"gender", "age"}
    assert groups["gender"].tolist() == ["F", "M", "", "", "F", "M", "F", "F", "F", "F"]
    assert groups["age"].tolist() == [*["under 25"] * 3, *["25-34"] * 2, *["35-49"] * 2, *["50+"] * 2, ""]


def test_users_without_features_have_no_groups():
    assert user_groups({}) == {}
    assert user_groups({"country": np.array(["NL"], object)}) == {}


def test_group_gap_by_hand():
    group = np.repeat(np.array(["a", "b", "c"], object), SMALLEST_GROUP)
    values = np.repeat([0.5, 0.25, 1.0], SMALLEST_GROUP)
    assert group_gap(values, group) == 1.0 - 0.25
    assert group_gap(values[::-1].copy(), group[::-1]) == 1.0 - 0.25
    assert group_gap(np.full(len(group), 0.5), group) == 0


def test_small_groups_and_unknown_users_say_nothing():
    names = ["a"] * SMALLEST_GROUP + ["b"] * SMALLEST_GROUP + ["c"] * (SMALLEST_GROUP - 1) + [""] * 50
    values = np.array([0.5] * SMALLEST_GROUP + [0.75] * SMALLEST_GROUP + [9.0] * (SMALLEST_GROUP - 1) + [-9.0] * 50)
    group = np.array(names, object)
    assert group_gap(values, group) == 0.25
    assert group_gap(values[group != "b"], group[group != "b"]) is None  # a alone is large enough
    assert group_gap(values[group == ""], group[group == ""]) is None
