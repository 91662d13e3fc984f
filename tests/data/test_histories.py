import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.data.batches import PADDING_ID
from recjax.data.histories import ItemsByUser, RatingsByOwner
from recjax.data.interactions import Interactions

N_USERS, N_ITEMS = 5, 6
ROWS = st.lists(st.tuples(st.integers(0, N_USERS - 1), st.integers(0, N_ITEMS - 1), st.integers(0, 4)), max_size=25)


def interactions(rows: list[tuple[int, int, int]], with_times: bool = True) -> Interactions:
    """Returns one interaction for each (user, item, time); the rating is the row's number."""
    user, item, time = (np.array([row[i] for row in rows], np.int64) for i in range(3))
    return Interactions(
        name="toy",
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        rating=np.arange(len(rows), dtype=np.float32),
        timestamp=time if with_times else None,
        user_ids=np.arange(N_USERS),
        item_ids=np.arange(N_ITEMS),
    )


# User 0: items 3 1 4, in the order of the rows. User 2: items 5 0. The others have nothing.
BY_HAND = [(0, 3, 9), (2, 5, 1), (0, 1, 2), (0, 4, 2), (2, 0, 7)]


def test_padded_items_by_hand():
    items = ItemsByUser(interactions(BY_HAND))
    padded = items.padded(np.array([2, 0, 1, 0], np.int32), 4)
    assert padded.dtype == np.int32
    assert padded.tolist() == [[5, 0, -1, -1], [3, 1, 4, -1], [-1, -1, -1, -1], [3, 1, 4, -1]]
    assert items.padded(np.array([0], np.int32), 2).tolist() == [[1, 4]]  # the last are kept


def test_members_by_hand():
    members = ItemsByUser(interactions(BY_HAND)).members(np.array([2, 4, 0], np.int32))
    assert [np.flatnonzero(row).tolist() for row in members] == [[0, 5], [], [1, 3, 4]]
    assert members.shape == (3, N_ITEMS)


@given(ROWS, st.lists(st.integers(0, N_USERS - 1), max_size=7), st.integers(1, 6))
def test_items_by_user_agree_with_a_plain_loop(rows: list[tuple[int, int, int]], users: list[int], width: int):
    items, asked = ItemsByUser(interactions(rows)), np.array(users, np.int32)
    padded, members = items.padded(asked, width), items.members(asked)
    assert padded.shape == (len(users), width)
    for user, row, member in zip(users, padded.tolist(), members, strict=True):
        has = [item for owner, item, _ in rows if owner == user]
        kept = has[-width:]
        assert row == kept + [PADDING_ID] * (width - len(kept))
        assert np.flatnonzero(member).tolist() == sorted(set(has))


def test_ratings_before_a_moment_by_hand():
    by_user = RatingsByOwner(interactions(BY_HAND), "user")
    owners = np.array([0, 0, 0, 0, 2, 1], np.int32)
    times = np.array([2, 3, 9, 99, 0, 99], np.int64)
    ids, ratings = by_user.before(owners, times, 3)
    # In time order user 0 has items 1 (row 2), 4 (row 3), both at 2, and 3 (row 0) at 9.
    assert ids.tolist() == [[-1, -1, -1], [1, 4, -1], [1, 4, -1], [1, 4, 3], [-1, -1, -1], [-1, -1, -1]]
    assert ratings.tolist() == [[0, 0, 0], [2, 3, 0], [2, 3, 0], [2, 3, 0], [0, 0, 0], [0, 0, 0]]
    assert ids.dtype == np.int32
    assert ratings.dtype == np.float32
    assert by_user.before(owners[3:4], times[3:4], 2)[0].tolist() == [[4, 3]]  # the newest, oldest first


def test_ratings_without_times_are_all_of_the_owners():
    by_item = RatingsByOwner(interactions(BY_HAND, with_times=False), "item")
    ids, ratings = by_item.before(np.array([4, 2], np.int32), None, 2)
    assert ids.tolist() == [[0, -1], [-1, -1]]
    assert ratings.tolist() == [[3, 0], [0, 0]]


@pytest.mark.parametrize("side", ["user", "item"])
@given(
    rows=ROWS,
    asked=st.lists(st.tuples(st.integers(0, 4), st.integers(-3, 8)), max_size=7),
    width=st.integers(1, 6),
    start=st.sampled_from([0, 1_000_000_000]),  # times of real sources are far above the span that they cover
)
def test_ratings_by_owner_agree_with_a_plain_loop(
    side: str, rows: list[tuple[int, int, int]], asked: list[tuple[int, int]], width: int, start: int
):
    rows = [(user, item, start + time) for user, item, time in rows]
    asked = [(code, start + moment) for code, moment in asked]
    store = RatingsByOwner(interactions(rows), side)
    owner, other = (0, 1) if side == "user" else (1, 0)
    codes = np.array([code for code, _ in asked], np.int32)
    moments = np.array([moment for _, moment in asked], np.int64)
    for times in (moments, None):
        ids, ratings = store.before(codes, times, width)
        assert ids.shape == ratings.shape == (len(asked), width)
        for (code, moment), id_row, rating_row in zip(asked, ids.tolist(), ratings.tolist(), strict=True):
            older = [
                (row[2], number, row[other])  # by time, then by row
                for number, row in enumerate(rows)
                if row[owner] == code and (times is None or row[2] < moment)
            ]
            kept = sorted(older)[-width:]
            assert id_row == [item for _, _, item in kept] + [PADDING_ID] * (width - len(kept))
            assert rating_row == [number for _, number, _ in kept] + [0] * (width - len(kept))
