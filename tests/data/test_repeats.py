import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recjax.data.interactions import Interactions
from recjax.data.repeats import keep_first, sum_ratings


def interactions(rows: list[tuple[int, int, int]], *, timed: bool = True) -> Interactions:
    user, item, time = np.array(rows, np.int64).reshape(-1, 3).T
    return Interactions(
        name="x",
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        rating=np.arange(len(rows), dtype=np.float32),
        timestamp=time if timed else None,
        user_ids=np.arange(4),
        item_ids=np.arange(4),
    )


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_keeps_the_earliest_row_of_each_pair_in_order(rows: list[tuple[int, int, int]]):
    first: dict[tuple[int, int], tuple[int, int]] = {}
    for number, (user, item, time) in enumerate(rows):
        if (user, item) not in first or time < first[user, item][0]:
            first[user, item] = (time, number)
    expected = sorted((user, time, item, number) for (user, item), (time, number) in first.items())
    kept = keep_first(interactions(rows))
    assert list(zip(kept.user, kept.timestamp, kept.item, kept.rating, strict=True)) == expected


def test_without_times_the_first_row_of_each_pair_stays_where_it_is():
    kept = keep_first(interactions([(1, 2, 0), (0, 3, 0), (1, 1, 0), (1, 2, 0), (0, 3, 0)], timed=False))
    assert kept.timestamp is None
    assert kept.rating.tolist() == [1, 0, 2]


def test_sums_the_ratings_of_each_pair():
    summed = sum_ratings(interactions([(1, 2, 0), (0, 3, 0), (1, 1, 0), (1, 2, 0), (0, 3, 0)]))
    assert summed.timestamp is None
    np.testing.assert_array_equal(summed.user, np.array([0, 1, 1], np.int32), strict=True)
    np.testing.assert_array_equal(summed.item, np.array([3, 1, 2], np.int32), strict=True)
    np.testing.assert_array_equal(summed.rating, np.array([1 + 4, 2, 0 + 3], np.float32), strict=True)
