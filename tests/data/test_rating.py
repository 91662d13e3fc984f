from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.config import Dataset, Samples
from recjax.data.batches import PADDING_ID
from recjax.data.interactions import Interactions
from recjax.data.rating import RatingData, rating_data
from recjax.errors import UserError

N_USERS, N_ITEMS = 6, 7
Row = tuple[int, int, float, int]  # user, item, rating, time


def interactions(rows: list[Row], with_times: bool = True) -> Interactions:
    user, item, rating, time = (np.array([row[i] for row in rows]) for i in range(4))
    return Interactions(
        name="toy",
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        rating=rating.astype(np.float32),
        timestamp=time.astype(np.int64) if with_times else None,
        user_ids=np.arange(N_USERS),
        item_ids=np.arange(N_ITEMS),
    )


def data_of(samples: Samples, rows: list[Row], with_times: bool = True, **options: Any) -> RatingData:
    options = {"split": "random", "ratios": (0.6, 0.2, 0.2), **options}
    return rating_data(interactions(rows, with_times), Dataset(**options), samples)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Returns 30 ratings of different pairs, at times of which several are equal."""
    rng = np.random.default_rng(0)
    pairs = rng.permutation(N_USERS * N_ITEMS)[:30]
    return [
        (int(pair) // N_ITEMS, int(pair) % N_ITEMS, float(rng.integers(1, 6)), 1_000_000_000 + int(rng.integers(12)))
        for pair in pairs
    ]


def triples(part: Interactions) -> list[tuple[int, int, float]]:
    return list(zip(part.user.tolist(), part.item.tolist(), part.rating.tolist(), strict=True))


def real_rows(batches: Any) -> list[dict[str, Any]]:
    """Returns the samples of all batches that are no padding, each a dict of plain values."""
    return [
        {name: column[row].tolist() for name, column in batch.items()}
        for batch in batches
        for row in np.flatnonzero(batch["weight"])
    ]


def test_batches_hold_each_training_rating_once(rows: list[Row]):
    data = data_of(Samples(), rows)
    assert data.n_train == 18
    batches = list(data.train_batches(4, seed=0, epoch=1))
    assert [batch["weight"].tolist() for batch in batches] == [[1, 1, 1, 1]] * 4 + [[1, 1, 0, 0]]
    assert all(set(batch) == {"user", "item", "rating", "weight"} for batch in batches)
    assert {name: column.dtype.name for name, column in batches[0].items()} == {
        "user": "int32",
        "item": "int32",
        "rating": "float32",
        "weight": "float32",
    }
    found = [(row["user"], row["item"], row["rating"]) for row in real_rows(batches)]
    assert found != triples(data.split.train)  # shuffled
    assert sorted(found) == sorted(triples(data.split.train))


def test_evaluation_batches_hold_a_part_in_order(rows: list[Row]):
    data = data_of(Samples(), rows)
    for part in ("valid", "test"):
        batches = list(data.eval_batches(part, 4))
        assert [batch["weight"].tolist() for batch in batches] == [[1, 1, 1, 1], [1, 1, 0, 0]]
        found = [(row["user"], row["item"], row["rating"]) for row in real_rows(batches)]
        assert found == triples(getattr(data.split, part))


def test_batches_depend_on_seed_and_epoch_alone(rows: list[Row]):
    for samples in (Samples(), Samples(unit="users")):
        data = data_of(samples, rows)

        def epoch(seed: int, number: int, data: RatingData = data) -> list[Any]:
            return [batch[name].tolist() for batch in data.train_batches(4, seed, number) for name in sorted(batch)]

        assert epoch(0, 1) == epoch(0, 1)
        assert epoch(0, 1) != epoch(0, 2)
        assert epoch(0, 1) != epoch(1, 1)


@pytest.mark.parametrize("unit", ["users", "items"])
def test_batches_of_rows_hold_each_owners_training_ratings(rows: list[Row], unit: Any):
    data = data_of(Samples(unit=unit), rows)
    by, other = (0, 1) if unit == "users" else (1, 0)
    train = triples(data.split.train)
    expected = sorted(
        sorted((triple[other], triple[2]) for triple in train if triple[by] == owner)
        for owner in {triple[by] for triple in train}
    )
    assert data.n_train == len(expected)
    assert data.schema.max_row == max(map(len, expected))
    found = []
    for row in real_rows(data.train_batches(4, seed=0, epoch=1)):
        assert set(row) == {"row_ids", "row_ratings", "weight"}
        n = sum(code != PADDING_ID for code in row["row_ids"])
        assert row["row_ids"][n:] == [PADDING_ID] * (data.schema.max_row - n)
        assert row["row_ratings"][n:] == [0] * (data.schema.max_row - n)
        found.append(sorted(zip(row["row_ids"][:n], row["row_ratings"][:n], strict=True)))
    assert sorted(found) == expected


@pytest.mark.parametrize("unit", ["users", "items"])
def test_evaluation_of_rows_asks_for_a_column_of_the_training_row(rows: list[Row], unit: Any):
    data = data_of(Samples(unit=unit), rows)
    by, other = (0, 1) if unit == "users" else (1, 0)
    found = real_rows(data.eval_batches("test", 4))
    for row, rating in zip(found, triples(data.split.test), strict=True):
        assert (row["user"], row["item"], row["rating"]) == rating
        assert row["column"] == rating[other]
        known = [triple for triple in triples(data.split.train) if triple[by] == rating[by]]
        n = len(known)
        assert sorted(zip(row["row_ids"][:n], row["row_ratings"][:n], strict=True)) == sorted(
            (triple[other], triple[2]) for triple in known
        )
        assert set(row["row_ids"][n:]) <= {PADDING_ID}
        assert rating[other] not in row["row_ids"]


def test_rows_need_no_times(rows: list[Row]):
    data = data_of(Samples(unit="users"), rows, with_times=False)
    assert sum(row["row_ids"].count(PADDING_ID) < len(row["row_ids"]) for row in real_rows(data.train_batches(4, 0, 1)))


def test_serving_samples_are_the_test_part_without_its_ratings(rows: list[Row]):
    data = data_of(Samples(unit="items"), rows)
    samples, test = data.serving_samples(), data.split.test
    assert sorted(samples) == ["column", "item", "row_ids", "row_ratings", "user"]
    np.testing.assert_array_equal(samples["user"], test.user)
    np.testing.assert_array_equal(samples["item"], test.item)
    np.testing.assert_array_equal(samples["column"], test.user)
    (batch,) = data.eval_batches("test", len(test))
    for name, column in samples.items():
        np.testing.assert_array_equal(column, batch[name])


def test_schema_and_protocol_by_hand(rows: list[Row]):
    data = data_of(Samples(), rows, seed=3, min_interactions=2)
    ratings = [rating for _, _, rating, _ in rows]
    assert (data.schema.n_users, data.schema.n_items) == (N_USERS, N_ITEMS)
    assert (data.schema.min_rating, data.schema.max_rating) == (min(ratings), max(ratings))
    assert data.schema.mean_rating == pytest.approx(np.mean([r for _, _, r in triples(data.split.train)]))
    assert (data.schema.max_row, data.schema.max_history) == (0, 0)
    assert data.protocol == "toy/2-core/random_6:2:2/seed=3/clipped_to_the_scale"
    assert data.selection_metric == "rmse"


def test_ratings_that_are_all_equal_are_refused(rows: list[Row]):
    equal = [(user, item, 1.0, time) for user, item, _, time in rows]
    with pytest.raises(UserError) as error:
        data_of(Samples(), equal)
    assert str(error.value) == (
        "every rating of toy is 1, so that there is nothing to predict; use a source with ratings, or a top-n model"
    )


def test_sequences_without_times_are_refused(rows: list[Row]):
    with pytest.raises(UserError) as error:
        data_of(Samples(history=True), rows, with_times=False)
    assert str(error.value) == "the model reads sequences and toy has no times; add a timestamp column"


SEQUENCES = Samples(history=True)
START = 1_000_000_000  # times of real sources are far above the span that they cover


def check_sequences(data: RatingData, sample: dict[str, Any], time: int) -> None:
    """Asserts that a sample's sequences are the newest training ratings older than `time`, oldest first."""
    train, L = data.split.train, data.schema.max_history
    assert train.timestamp is not None
    times = train.timestamp.tolist()
    for name, by, other in (("user", 0, 1), ("item", 1, 0)):
        older = [
            (times[number], number, triple[other], triple[2])
            for number, triple in enumerate(triples(train))
            if triple[by] == sample[name] and times[number] < time
        ]
        kept = sorted(older)[-L:]
        others = "items" if name == "user" else "users"
        assert sample[f"{name}_{others}"] == [code for _, _, code, _ in kept] + [PADDING_ID] * (L - len(kept))
        assert sample[f"{name}_ratings"] == [rating for *_, rating in kept] + [0] * (L - len(kept))


def test_sequences_by_hand():
    # The temporal split trains on the first five rows.
    rows = [(0, 0, 1, START), (0, 1, 2, START + 5), (1, 1, 3, START + 5), (0, 2, 4, START + 9), (1, 2, 5, START + 9)]
    rows += [(0, 3, 1, START + 20), (1, 0, 2, START + 30)]
    data = data_of(SEQUENCES, rows, split="temporal", ratios=(5 / 7, 1 / 7, 1 / 7), max_history=2)
    found = {(row["user"], row["item"]): row for row in real_rows(data.train_batches(8, 0, 1))}
    assert found[0, 0]["user_items"] == [-1, -1]
    assert found[0, 1]["user_items"] == [0, -1]
    assert found[0, 1]["user_ratings"] == [1, 0]
    assert found[0, 2]["user_items"] == [0, 1]
    assert found[0, 2]["item_users"] == [-1, -1]  # user 1 rates item 2 at the same moment
    assert found[1, 1]["item_users"] == [-1, -1]
    (valid,), (test,) = (real_rows(data.eval_batches(part, 1)) for part in ("valid", "test"))
    assert (valid["user_items"], valid["user_ratings"]) == ([1, 2], [2, 4])  # the newest two
    assert (valid["item_users"], valid["item_ratings"]) == ([-1, -1], [0, 0])
    assert (test["user_items"], test["item_users"], test["item_ratings"]) == ([1, 2], [0, -1], [1, 0])


@given(
    st.lists(
        st.tuples(st.integers(0, N_USERS - 1), st.integers(0, N_ITEMS - 1), st.integers(2, 5), st.integers(0, 9)),
        min_size=9,
        max_size=25,
        unique_by=lambda row: row[:2],
    ),
    st.integers(2, 5),
    st.sampled_from([0, START]),
)
def test_sequences_hold_older_training_ratings_alone(rows: list[Row], max_history: int, start: int):
    rows = [(user, item, rating, start + time) for user, item, rating, time in rows]
    rows[0] = (*rows[0][:2], 1, rows[0][3])  # so that not all ratings are equal
    data = data_of(SEQUENCES, rows, max_history=max_history)
    assert data.schema.max_history == max_history
    time_of = {row[:2]: row[3] for row in rows}
    samples = [
        *real_rows(data.train_batches(4, seed=0, epoch=1)),
        *real_rows(data.eval_batches("valid", 4)),
        *real_rows(data.eval_batches("test", 4)),
    ]
    assert len(samples) == len(rows)
    for sample in samples:
        check_sequences(data, sample, time_of[sample["user"], sample["item"]])
