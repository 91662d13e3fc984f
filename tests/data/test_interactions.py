import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.data.interactions import Interactions, KnowledgeGraph, encode_ids
from recjax.errors import UserError


def interactions(pairs: list[tuple[int, int]], with_time: bool = True) -> Interactions:
    """Returns one row per (user, item); ids are 100 + code and "i" + code, the time is the row's number."""
    n_users = max(user for user, _ in pairs) + 1
    n_items = max(item for _, item in pairs) + 1
    return Interactions(
        name="toy",
        user=np.array([user for user, _ in pairs], np.int32),
        item=np.array([item for _, item in pairs], np.int32),
        rating=np.arange(len(pairs), dtype=np.float32) / 2,
        timestamp=np.arange(len(pairs)) if with_time else None,
        user_ids=np.arange(n_users) + 100,
        item_ids=np.array([f"i{item}" for item in range(n_items)], object),
        item_features={"year": np.arange(n_items, dtype=np.float32) + 1990},
    )


@pytest.mark.parametrize("chosen", [np.array([3, 1]), np.array([False, True, False, True])])
def test_select_takes_rows_and_keeps_codes(chosen: np.ndarray):
    whole = interactions([(0, 0), (0, 1), (1, 0), (2, 1)])
    part = whole.select(chosen)
    expected = [3, 1] if chosen.dtype != bool else [1, 3]
    assert len(part) == 2
    assert part.timestamp is not None
    assert part.timestamp.tolist() == expected
    assert part.rating.tolist() == [row / 2 for row in expected]
    assert part.user.tolist() == [whole.user[row] for row in expected]
    assert part.item.tolist() == [1, 1]
    assert (part.n_users, part.n_items) == (3, 2)


def test_select_without_timestamps():
    assert interactions([(0, 0), (1, 1)], with_time=False).select(np.array([0])).timestamp is None


def test_k_core_renumbers_in_the_old_order():
    # User 1 has one row; without it item 0 has one; without that, users 0 and 2 hold items 1 and 2.
    core = interactions([(2, 2), (1, 0), (0, 1), (2, 1), (0, 0), (0, 2)]).k_core(2)
    assert core.user.tolist() == [1, 0, 1, 0]
    assert core.item.tolist() == [1, 0, 0, 1]
    assert core.user_ids.tolist() == [100, 102]
    assert core.item_ids.tolist() == ["i1", "i2"]
    assert core.item_features["year"].tolist() == [1991, 1992]
    assert core.timestamp is not None
    assert core.timestamp.tolist() == [0, 2, 3, 5]
    assert (core.user.dtype, core.item.dtype) == (np.int32, np.int32)


def test_k_core_keeps_users_features_their_trust_and_the_facts_about_the_items_left():
    # Users 0 and 2 and items 1 and 2 remain, as codes 0 and 1; entities 3 and 4 are no items and become 2 and 3.
    whole = dataclasses.replace(
        interactions([(2, 2), (1, 0), (0, 1), (2, 1), (0, 0), (0, 2)]),
        user_features={"age": np.array([20, 30, 40], np.float32)},
        trust=np.array([[0, 0, 1, 2], [2, 1, 2, 0]], np.int32),
        knowledge=KnowledgeGraph(
            head=np.array([0, 1, 2, 3], np.int32),
            relation=np.array([0, 1, 0, 1], np.int32),
            tail=np.array([3, 4, 3, 1], np.int32),
            n_entities=5,
            n_relations=2,
        ),
    )
    core = whole.k_core(2)
    assert core.user_features["age"].tolist() == [20, 40]
    assert core.trust is not None
    assert core.trust.tolist() == [[0, 1], [1, 0]]
    assert core.knowledge is not None
    triples = np.stack([core.knowledge.head, core.knowledge.relation, core.knowledge.tail], 1)
    assert triples.tolist() == [[0, 1, 3], [1, 0, 2], [2, 1, 0]]
    assert core.knowledge.n_entities == 4


def reference_core(pairs: list[tuple[int, int]], k: int) -> list[int]:
    """Returns the rows of the k-core, removing one poor row at a time."""
    kept = list(range(len(pairs)))
    while True:
        users = Counter(pairs[row][0] for row in kept)
        items = Counter(pairs[row][1] for row in kept)
        poor = [row for row in kept if users[pairs[row][0]] < k or items[pairs[row][1]] < k]
        if not poor:
            return kept
        kept.remove(poor[0])


@given(
    pairs=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=40, unique=True),
    k=st.integers(1, 4),
)
def test_k_core_agrees_with_plain_python(pairs: list[tuple[int, int]], k: int):
    kept = reference_core(pairs, k)
    whole = interactions(pairs)
    if not kept:
        with pytest.raises(UserError, match=rf"^the {k}-core of toy is empty; lower Dataset.min_interactions$"):
            whole.k_core(k)
        return
    core = whole.k_core(k)
    assert core.timestamp is not None
    assert core.timestamp.tolist() == kept
    assert core.user_ids[core.user].tolist() == [pairs[row][0] + 100 for row in kept]
    assert core.item_ids[core.item].tolist() == [f"i{pairs[row][1]}" for row in kept]
    assert set(core.user.tolist()) == set(range(core.n_users))
    assert set(core.item.tolist()) == set(range(core.n_items))


def test_encode_ids_indexes_a_sorted_table():
    codes, table = encode_ids(np.array([30, 10, 30, 20]))
    assert codes.dtype == np.int32
    assert codes.tolist() == [2, 0, 2, 1]
    assert table.tolist() == [10, 20, 30]


@pytest.mark.parametrize("late", [3, 2**60])  # the latter does not fit one number with the user
def test_in_order_sorts_by_user_then_time_then_item(late: int):
    rng = np.random.default_rng(0)
    user, item, rating = (rng.integers(0, 20, 500).astype(np.int32) for _ in range(3))
    timestamp = rng.choice(np.array([0, 1, 2, late]), 500)
    shuffled = Interactions(
        name="shuffled",
        user=user,
        item=item,
        rating=rating.astype(np.float32),
        timestamp=timestamp,
        user_ids=np.arange(20),
        item_ids=np.arange(20),
    )
    columns = (user, timestamp, item, rating)
    expected = sorted(zip(*(column.tolist() for column in columns), strict=True), key=lambda row: row[:3])
    ordered = shuffled.in_order()
    read = (ordered.user, ordered.timestamp, ordered.item, ordered.rating)
    assert list(zip(*(column.tolist() for column in read), strict=True)) == expected
    assert len(shuffled.select(np.zeros(0, int)).in_order()) == 0


def test_in_order_without_times_keeps_the_order_of_each_user():
    rows = Interactions(
        name="bare",
        user=np.array([1, 0, 1, 0], np.int32),
        item=np.array([3, 2, 1, 0], np.int32),
        rating=np.ones(4, np.float32),
        timestamp=None,
        user_ids=np.arange(2),
        item_ids=np.arange(4),
    )
    assert rows.in_order().item.tolist() == [2, 0, 3, 1]
