from importlib.resources import files

import numpy as np
import pytest

from recjax.data.interactions import Interactions
from recjax.data.movielens import load_movielens_latest_small


@pytest.fixture(scope="module")
def movielens() -> Interactions:
    return load_movielens_latest_small()


def test_counts(movielens: Interactions):
    assert (len(movielens), movielens.n_users, movielens.n_items) == (100_004, 671, 9_066)


def test_counts_of_the_5_core(movielens: Interactions):
    core = movielens.k_core(5)
    assert (len(core), core.n_users, core.n_items) == (90_072, 671, 3_496)
    assert np.bincount(core.user).min() >= 5
    assert np.bincount(core.item).min() >= 5


def test_rows_are_sorted_and_unique(movielens: Interactions):
    order = np.lexsort((movielens.item, movielens.timestamp, movielens.user))
    np.testing.assert_array_equal(order, np.arange(len(movielens)))
    assert len(set(zip(movielens.user.tolist(), movielens.item.tolist(), strict=True))) == len(movielens)


def test_ratings_are_half_stars(movielens: Interactions):
    assert np.unique(movielens.rating).tolist() == [0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5]


def test_movie_columns_belong_to_their_movie(movielens: Interactions):
    row = int(np.flatnonzero(movielens.item_ids == 1)[0])
    assert "Toy Story" in movielens.item_features["title"][row]
    assert movielens.item_features["year"][row] == 1995
    assert movielens.item_features["genres"][row] == ["Adventure", "Animation", "Children", "Comedy", "Fantasy"]
    assert {len(column) for column in movielens.item_features.values()} == {9_066}


def test_licence_stands_beside_the_data():
    folder = files("recjax.data") / "movielens_latest_small"
    assert (folder / "ratings.parquet").is_file()
    assert "MovieLens" in (folder / "LICENSE.md").read_text(encoding="utf-8")
