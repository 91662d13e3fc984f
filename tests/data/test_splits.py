from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.config import Dataset
from recjax.data.interactions import Interactions
from recjax.data.splits import Split, leave_last_one_out, random_ratio, split, temporal
from recjax.errors import UserError


def interactions(users: list[int], timestamps: list[int] | None) -> Interactions:
    """Returns one row per user given; the rating is the row's number, the item too."""
    n_rows = len(users)
    return Interactions(
        name="toy",
        user=np.array(users, np.int32),
        item=np.arange(n_rows, dtype=np.int32),
        rating=np.arange(n_rows, dtype=np.float32),
        timestamp=None if timestamps is None else np.array(timestamps, np.int64),
        user_ids=np.arange(max(users, default=-1) + 1),
        item_ids=np.arange(n_rows),
    )


def rows(parts: Split) -> tuple[list[int], list[int], list[int]]:
    """Returns the row numbers of train, validation and test."""
    train, valid, test = (part.rating.astype(int).tolist() for part in (parts.train, parts.valid, parts.test))
    return train, valid, test


def test_leave_last_one_out_takes_the_newest_two_of_each_user():
    #       row: 0  1  2  3  4  5  6  7  8
    users = [0, 1, 0, 1, 0, 2, 1, 0, 2]
    times = [9, 5, 7, 5, 8, 1, 5, 6, 2]
    # User 0 by time: 7 2 4 0. User 1 has ties, so row order: 1 3 6. User 2 has two rows only.
    assert rows(leave_last_one_out(interactions(users, times))) == ([1, 2, 5, 7, 8], [3, 4], [0, 6])


def test_leave_last_one_out_shares_codes():
    whole = interactions([0, 0, 0], [1, 2, 3])
    parts = leave_last_one_out(whole)
    assert parts.train.item_ids is parts.valid.item_ids is parts.test.item_ids is whole.item_ids


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=40))
def test_leave_last_one_out_agrees_with_plain_python(pairs: list[tuple[int, int]]):
    history: dict[int, list[tuple[int, int]]] = {}
    for row, (user, time) in enumerate(pairs):
        history.setdefault(user, []).append((time, row))
    long = [[row for _, row in sorted(events)] for events in history.values() if len(events) >= 3]
    whole = interactions([user for user, _ in pairs], [time for _, time in pairs])
    if not long:
        with pytest.raises(UserError, match=r"leaves validation empty; at least one user needs 3 interactions$"):
            leave_last_one_out(whole)
        return
    train, valid, test = rows(leave_last_one_out(whole))
    assert valid == sorted(events[-2] for events in long)
    assert test == sorted(events[-1] for events in long)
    assert sorted(train + valid + test) == list(range(len(pairs)))


def test_random_ratio_has_the_sizes_and_loses_nothing():
    whole = interactions([0] * 100, None)
    train, valid, test = rows(random_ratio(whole, (0.7, 0.2, 0.1), seed=3))
    assert (len(train), len(valid), len(test)) == (70, 20, 10)
    assert sorted(train + valid + test) == list(range(100))
    assert train == sorted(train)


def test_random_ratio_follows_its_seed():
    whole = interactions([0] * 100, None)
    first, again, other = (rows(random_ratio(whole, (0.8, 0.1, 0.1), seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_temporal_cuts_at_quantiles():
    times = [50, 10, 40, 20, 30, 60, 70, 100, 90, 80]
    assert rows(temporal(interactions([0] * 10, times), (0.6, 0.2, 0.2))) == ([0, 1, 2, 3, 4, 5], [6, 9], [7, 8])


def test_temporal_keeps_equal_timestamps_together():
    times = [1, 2, 2, 2, 3, 3, 4, 5]
    # The cuts fall after 4 and 6 rows, at times 2 and 3.
    assert rows(temporal(interactions([0] * 8, times), (0.5, 0.25, 0.25))) == ([0, 1, 2, 3], [4, 5], [6, 7])
    # The cuts fall after 2 and 5 rows: rows 2 and 3 join train, row 5 joins validation.
    assert rows(temporal(interactions([0] * 8, times), (0.25, 0.375, 0.375))) == ([0, 1, 2, 3], [4, 5], [6, 7])


@pytest.mark.parametrize("method", [leave_last_one_out, lambda whole: temporal(whole, (0.8, 0.1, 0.1))])
def test_timestamps_are_needed(method: Callable[[Interactions], Split]):
    with pytest.raises(UserError, match="split needs timestamps and toy has none; add a timestamp column, or set"):
        method(interactions([0, 0, 0], None))


@pytest.mark.parametrize(
    ("method", "n_rows", "empty"),
    [("leave_last_one_out", 2, "validation"), ("random", 2, "validation"), ("random", 0, "train"),
     ("temporal", 3, "validation"), ("temporal", 0, "train")],
)  # fmt: skip
def test_empty_part_is_refused(method: str, n_rows: int, empty: str):
    whole = interactions([0] * n_rows, [7] * n_rows)
    with pytest.raises(
        UserError, match=rf"^the {method} split of toy \({n_rows} interactions\) leaves {empty} empty; "
    ):
        split(whole, Dataset(split=method))


def test_split_dispatches_with_the_ratios_and_the_seed():
    whole = interactions([0] * 20, list(range(20)))
    ratios = (0.5, 0.25, 0.25)
    assert rows(split(whole, Dataset())) == rows(leave_last_one_out(whole))
    assert rows(split(whole, Dataset(split="temporal", ratios=ratios))) == rows(temporal(whole, ratios))
    seeded = Dataset(split="random", ratios=ratios, seed=5)
    assert rows(split(whole, seeded)) == rows(random_ratio(whole, ratios, 5))


def test_unknown_split_is_refused():
    with pytest.raises(UserError, match=r"unknown Dataset.split 'tempral'; .* did you mean 'temporal'"):
        split(interactions([0], [0]), Dataset(split="tempral"))
