import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.config import Dataset, Samples
from recjax.data.interactions import Interactions
from recjax.data.next_item import next_item_data
from recjax.errors import UserError


def histories(lengths: list[int]) -> Interactions:
    """Returns users with that many interactions each; every item occurs once, numbered in order of the rows."""
    user = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    return Interactions(
        name="toy",
        user=user,
        item=np.arange(len(user), dtype=np.int32),
        rating=np.ones(len(user), np.float32),
        timestamp=np.concatenate([100 * np.arange(n, dtype=np.int64) + u for u, n in enumerate(lengths)]),
        user_ids=np.arange(len(lengths)),
        item_ids=np.arange(len(user)),
    )


def data_of(lengths: list[int], max_history: int, **options: Any) -> Any:
    return next_item_data(histories(lengths), Dataset(max_history=max_history, **options))


def test_windows_by_hand():
    # User 0: train 0 1 2 3 4 (5 validates, 6 tests); user 1: train 7 8; user 2: too short, train 11 12.
    data = data_of([7, 4, 2], max_history=3)
    assert data.windows["history"].tolist() == [[1, 2, 3], [0, 0, 0], [7, 0, 0], [11, 0, 0]]
    assert data.windows["labels"].tolist() == [[2, 3, 4], [1, 0, 0], [8, 0, 0], [12, 0, 0]]
    assert data.windows["lengths"].tolist() == [3, 1, 1, 1]
    assert data.n_train == 4
    assert all(column.dtype == np.int32 for column in data.windows.values())


@given(st.lists(st.integers(1, 14), min_size=1, max_size=6), st.integers(2, 5))
def test_windows_hold_every_training_transition_once_and_nothing_else(lengths: list[int], max_history: int):
    lengths = [*lengths, 4]  # so that the split has a validation and a test row, and one transition to train on
    data = data_of(lengths, max_history)
    seen = []
    for history, labels, length in zip(*(data.windows[n] for n in ("history", "labels", "lengths")), strict=True):
        assert 1 <= length <= max_history
        assert history[1:length].tolist() == labels[: length - 1].tolist()
        assert not history[length:].any()
        assert not labels[length:].any()
        seen += list(zip(history[:length].tolist(), labels[:length].tolist(), strict=True))
    ends = np.cumsum(lengths)
    expected = []
    for n, end in zip(lengths, ends.tolist(), strict=True):
        train = range(end - n, end - 2 if n >= 3 else end)  # the two newest are held out
        expected += list(itertools.pairwise(train))
    assert sorted(seen) == expected


def test_a_training_part_in_which_nothing_follows_anything_is_refused():
    with pytest.raises(UserError, match="leave_last_one_out split of toy leaves no user two training items in a row"):
        data_of([3, 3, 1], max_history=4)


def test_newest_window_is_the_full_one():
    data = data_of([12], max_history=4)  # train 0..9
    assert data.windows["history"].tolist() == [[5, 6, 7, 8], [1, 2, 3, 4], [0, 0, 0, 0]]
    assert data.windows["labels"].tolist() == [[6, 7, 8, 9], [2, 3, 4, 5], [1, 0, 0, 0]]
    assert data.windows["lengths"].tolist() == [4, 4, 1]


@given(st.lists(st.integers(1, 14), min_size=1, max_size=6), st.integers(2, 5), st.integers(1, 3))
def test_drawn_windows_are_as_many_of_each_user_and_of_training_items_in_order(
    lengths: list[int], max_history: int, epoch: int
):
    lengths = [*lengths, 4]
    data = data_of(lengths, max_history, windows="drawn")
    (batch,) = data.train_batches(data.n_train, 0, epoch)
    user_of = np.repeat(np.arange(len(lengths)), lengths)
    train = set(data.split.train.item.tolist())
    for history, labels, length in zip(*(batch[n] for n in ("history", "labels", "lengths")), strict=True):
        items = [*history[:length].tolist(), int(labels[length - 1])]
        assert items == list(range(items[0], items[-1] + 1))  # the user's items are numbered in order
        assert len({user_of[item] for item in items}) == 1
        assert train.issuperset(items)
        assert labels[:length].tolist() == items[1:]
    newest = {
        labels[length - 1] for labels, length in zip(data.windows["labels"], data.windows["lengths"], strict=True)
    }
    by_user = [user_of[batch["history"][:, 0]], user_of[data.windows["history"][:, 0]]]
    np.testing.assert_array_equal(*(np.sort(users) for users in by_user))
    last_of = {user_of[item]: item for item in sorted(newest)}
    assert set(last_of.values()) <= set(batch["labels"][np.arange(data.n_train), batch["lengths"] - 1].tolist())


def test_drawn_windows_are_the_same_for_a_seed_and_epoch_and_others_for_another():
    data, fixed = data_of([40], 4, windows="drawn"), data_of([40], 4)

    def drawn(source: Any, seed: int, epoch: int) -> list[list[int]]:
        (batch,) = source.train_batches(source.n_train, seed, epoch)
        return sorted(batch["history"].tolist())

    assert drawn(data, 0, 1) == drawn(data, 0, 1)
    assert drawn(data, 0, 1) != drawn(data, 0, 2)
    assert drawn(data, 0, 1) != drawn(data, 1, 1)
    assert drawn(fixed, 0, 1) == drawn(fixed, 1, 2)


def test_drawn_windows_carry_the_times_of_their_items():
    interactions = histories([30])
    data = next_item_data(interactions, Dataset(max_history=4, windows="drawn"), Samples(times=True))
    (batch,) = data.train_batches(data.n_train, 0, 1)
    assert (batch["lengths"] == 4).any()
    used = np.arange(4) < batch["lengths"][:, None]
    np.testing.assert_array_equal(batch["times"][used], interactions.timestamp[batch["history"][used]])
    np.testing.assert_array_equal(batch["label_times"][used], interactions.timestamp[batch["labels"][used]])


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(2, 4))
def test_held_out_items_are_in_no_training_window_and_no_earlier_history(lengths: list[int], max_history: int):
    lengths = [*lengths, 4]
    data = data_of(lengths, max_history)
    used = np.arange(max_history)[None] < data.windows["lengths"][:, None]
    trained_on = set(data.windows["history"][used]) | set(data.windows["labels"][used])
    ends = np.cumsum(lengths)
    assert not trained_on & {
        item for n, end in zip(lengths, ends, strict=True) if n >= 3 for item in (end - 1, end - 2)
    }
    for part, back in (("valid", 2), ("test", 1)):
        batch = next(data.eval_batches(part, 8))
        for user, target, history, length in zip(
            *(batch[n][batch["weight"] > 0] for n in ("user", "target", "history", "lengths")), strict=True
        ):
            assert target == ends[user] - back
            first = max(ends[user] - lengths[user], target - max_history)
            assert history[:length].tolist() == list(range(first, target))


def test_candidates_exclude_exactly_the_known_items():
    data = data_of([5, 2, 4], max_history=3)
    valid, test = next(data.eval_batches("valid", 4)), next(data.eval_batches("test", 4))
    assert valid["user"].tolist() == [0, 2, 0, 0]
    assert valid["weight"].tolist() == [1, 1, 0, 0]
    assert valid["target"].tolist()[:2] == [3, 9]
    assert test["target"].tolist()[:2] == [4, 10]
    everything = set(range(11))
    assert set(np.flatnonzero(valid["candidates"][0])) == everything - {0, 1, 2}  # the oldest lies beyond max_history
    assert set(np.flatnonzero(valid["candidates"][1])) == everything - {7, 8}
    assert set(np.flatnonzero(test["candidates"][0])) == everything - {0, 1, 2, 3}
    assert set(np.flatnonzero(test["candidates"][1])) == everything - {7, 8, 9}


def test_evaluation_batches_have_one_shape():
    data = data_of([4] * 5, max_history=3)
    shapes = [{name: column.shape for name, column in batch.items()} for batch in data.eval_batches("test", 2)]
    assert len(shapes) == 3
    assert shapes[0] == shapes[1] == shapes[2]
    assert shapes[0]["candidates"] == (2, 20)


def test_serving_samples_are_the_test_histories_without_the_answer():
    data = data_of([5, 2, 4], max_history=3)
    samples, test = data.serving_samples(), next(data.eval_batches("test", 2))
    assert sorted(samples) == ["history", "lengths"]
    assert samples["history"].tolist() == test["history"].tolist() == [[1, 2, 3], [7, 8, 9]]
    assert samples["lengths"].tolist() == [3, 3]


def test_temporal_split_predicts_each_users_first_item_of_a_part():
    # Times: user 0 at 0 100 ... 900; user 1 at 1 101 201. Train: the 8 earliest rows, valid 3, test 2.
    data = data_of([10, 3], max_history=4, split="temporal", ratios=(8 / 13, 3 / 13, 2 / 13))
    valid, test = next(data.eval_batches("valid", 1)), next(data.eval_batches("test", 1))
    assert (valid["target"].item(), valid["history"].tolist()) == (5, [[1, 2, 3, 4]])
    assert (test["target"].item(), test["history"].tolist()) == (8, [[4, 5, 6, 7]])
    assert set(np.flatnonzero(~test["candidates"][0])) == set(range(8))


def test_users_without_a_training_item_are_not_evaluated():
    whole = histories([6, 2])
    late = np.where(whole.user == 1, 10_000 + whole.timestamp, whole.timestamp)
    whole = Interactions(**{**vars(whole), "timestamp": late})
    with pytest.raises(UserError, match="temporal split of toy leaves no user of the test part with a history"):
        next_item_data(whole, Dataset(max_history=3, split="temporal", ratios=(0.5, 0.25, 0.25)))
    one_of_two = next_item_data(histories([6, 2]), Dataset(max_history=3, split="temporal", ratios=(0.5, 0.25, 0.25)))
    assert [b["user"].tolist() for b in one_of_two.eval_batches("test", 1)] == [[0]]


@pytest.mark.parametrize("column", ["user", "timestamp"])
def test_interactions_in_another_order_are_refused(column: str):
    whole = histories([4, 4])
    reversed_column = Interactions(**{**vars(whole), column: getattr(whole, column)[::-1].copy()})
    with pytest.raises(ValueError, match="toy must be sorted by user, then timestamp"):
        next_item_data(reversed_column, Dataset(max_history=3))


def test_random_split_is_refused():
    with pytest.raises(UserError, match=r"Dataset.split='random'; allowed: leave_last_one_out, temporal"):
        data_of([5], max_history=3, split="random")


def test_protocol_names_everything_that_a_number_depends_on():
    data = data_of([5], max_history=3, min_interactions=2)
    assert data.protocol == (
        "toy/2-core/leave_last_one_out/full_catalogue/seen_items_removed/ties_against_the_target/max_history=3"
    )
    assert data.selection_metric == "ndcg@10"
    assert (data.schema.n_items, data.schema.max_history) == (5, 3)


def test_times_beyond_32_bits_are_refused_where_a_model_reads_them():
    interactions = histories([7, 4])
    assert interactions.timestamp is not None
    late = dataclasses.replace(interactions, timestamp=interactions.timestamp + 2**31)
    next_item_data(late, Dataset(max_history=3))
    with pytest.raises(UserError) as error:
        next_item_data(late, Dataset(max_history=3), Samples(times=True))
    assert str(error.value) == (
        "the model reads times of 32 bits and toy has the Unix second 2147484048; allowed: up to 2147483647 "
        "(January 2038)"
    )
