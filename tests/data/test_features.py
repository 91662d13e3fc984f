import dataclasses
import datetime

import jax.numpy as jnp
import numpy as np
import pytest

from recjax.data.batches import PADDING_ID
from recjax.data.features import Field, LabelledSchema, make_features
from recjax.data.interactions import Interactions


def seconds(*moment: int) -> int:
    return int(datetime.datetime(*moment, tzinfo=datetime.UTC).timestamp())


TIMES = [seconds(2000, 1, 1, 13, 59), seconds(2000, 1, 3), seconds(2001, 7, 4, 23), seconds(2005, 1, 1)]


@pytest.fixture
def movies() -> Interactions:
    genres = np.empty(3, object)
    genres[:] = [["Drama", "Comedy"], [], ["Comedy"]]
    return Interactions(
        name="toy",
        user=np.array([0, 0, 1, 1], np.int32),
        item=np.array([0, 1, 2, 0], np.int32),
        rating=np.array([4, 3, 5, 1], np.float32),
        timestamp=np.array(TIMES, np.int64),
        user_ids=np.arange(2),
        item_ids=np.arange(3),
        item_features={"year": np.array([1990, np.nan, 1980], np.float32), "genres": genres},
    )


def test_fields_of_a_source_that_has_everything(movies: Interactions):
    schema, _ = make_features(movies, movies.select(np.arange(3)))
    first_quarter, last_quarter = (TIMES[i] // (91 * 86_400) for i in (0, 2))
    assert schema.fields == (
        Field("user", 2),
        Field("item", 3),
        Field("hour", 24),
        Field("weekday", 7),
        Field("quarter", last_quarter - first_quarter + 1),
        Field("year", 3),  # unknown, 1980, 1990
        Field("genres", 2, length=2),
    )
    assert schema.n_dense == 4


def test_ids_by_hand(movies: Interactions):
    schema, columns_of = make_features(movies, movies.select(np.arange(3)))
    _, ids = columns_of(movies)
    quarters = schema.fields[4].vocab_size
    assert ids.dtype == np.int32
    # January 1, 2000 was a Saturday (5), the 3rd a Monday (0), July 4, 2001 a Wednesday (2), January 1, 2005 a Saturday
    assert ids.tolist() == [
        [0, 0, 13, 5, 0, 2, 1, 0],  # genres by name: Comedy 0, Drama 1; the bag keeps the source's order
        [0, 1, 0, 0, 0, 0, PADDING_ID, PADDING_ID],
        [1, 2, 23, 2, quarters - 1, 1, 0, PADDING_ID],
        [1, 0, 0, 5, quarters - 1, 2, 1, 0],  # later than all training rows: the last quarter
    ]


def test_every_id_lies_in_its_field(movies: Interactions):
    schema, columns_of = make_features(movies, movies.select(np.array([1, 2])))
    _, ids = columns_of(movies)
    for field, columns in schema.split_fields(jnp.asarray(ids)):
        assert columns.shape == (4, field.length)
        assert columns.max() < field.vocab_size
        assert columns.min() >= (PADDING_ID if field.name == "genres" else 0)


def test_split_fields_covers_every_column_once():
    schema = LabelledSchema(1, (Field("a", 5), Field("bag", 5, length=3), Field("b", 5)))
    split = {field.name: ids.tolist() for field, ids in schema.split_fields(jnp.array([[0, 1, 2, 3, 4]]))}
    assert split == {"a": [[0]], "bag": [[1, 2, 3]], "b": [[4]]}


def test_dense_features_are_standardised_by_train(movies: Interactions):
    train = movies.select(np.arange(3))
    _, columns_of = make_features(movies, train)
    dense, _ = columns_of(train)
    assert dense.dtype == np.float32
    np.testing.assert_allclose(dense.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(dense.std(0), 1, atol=1e-5)
    year = np.array([1990, 1985, 1980])  # the unknown year is the mean of the known
    np.testing.assert_allclose(dense[:, 0], (year - year.mean()) / year.std(), rtol=1e-5)
    n_genres = np.array([2, 0, 1])
    np.testing.assert_allclose(dense[:, 1], (n_genres - n_genres.mean()) / n_genres.std(), atol=1e-6)
    now = np.array(TIMES[:3]) / (365.2425 * 86_400) + 1970
    np.testing.assert_allclose(dense[:, 2], (now - now.mean()) / now.std(), rtol=1e-4)
    age = now - year
    np.testing.assert_allclose(dense[:, 3], (age - age.mean()) / age.std(), rtol=1e-4)


def test_rows_outside_train_change_nothing_of_train(movies: Interactions):
    train = movies.select(np.arange(3))
    before = make_features(movies, train)
    moved = dataclasses.replace(movies, timestamp=np.where(np.arange(4) == 3, 10**10, movies.timestamp))
    after = make_features(moved, train)
    assert after[0] == before[0]
    for old, new in zip(before[1](train), after[1](train), strict=True):
        np.testing.assert_array_equal(old, new)


def test_bare_interactions_have_one_dense_column_and_two_fields(movies: Interactions):
    bare = dataclasses.replace(movies, timestamp=None, item_features={})
    schema, columns_of = make_features(bare, bare)
    dense, ids = columns_of(bare)
    assert schema == LabelledSchema(1, (Field("user", 2), Field("item", 3)))
    np.testing.assert_array_equal(dense, np.zeros((4, 1), np.float32))
    assert ids.tolist() == [[0, 0], [0, 1], [1, 2], [1, 0]]


def test_years_and_genres_that_nobody_knows_are_no_features(movies: Interactions):
    nothing = np.empty(3, object)
    nothing[:] = [[], [], []]
    bare = dataclasses.replace(movies, item_features={"year": np.full(3, np.nan, np.float32), "genres": nothing})
    schema, columns_of = make_features(bare, bare)
    assert "genres" not in [field.name for field in schema.fields]
    dense, ids = columns_of(bare)
    assert np.isfinite(dense).all()
    assert ids.shape[1] == sum(field.length for field in schema.fields)


def test_history_holds_the_liked_training_items_that_are_older(movies: Interactions):
    train = movies.select(np.arange(3))
    liked = train.select(train.rating >= 3)
    schema, columns_of = make_features(movies, train, liked, 2)
    _, ids = columns_of(movies)
    assert schema.fields[-1] == Field("history", 3, length=2)
    # User 0 likes item 0, then item 1; user 1 item 2, years before item 0.
    assert ids[:, -2:].tolist() == [[-1, -1], [0, -1], [-1, -1], [2, -1]]
