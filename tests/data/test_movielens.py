from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recjax.data.interactions import Interactions
from recjax.data.movielens import load, load_movielens_latest_small
from recjax.errors import UserError


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


SMALL: dict[str, dict[str, Any]] = {
    "ratings": {
        "user": pa.array([3, 3, 8], pa.int32()),
        "item": pa.array([10, 20, 10], pa.int32()),
        "rating": pa.array([0.5, 5.0, 3.5], pa.float32()),
        "timestamp": pa.array([900, 100, 500], pa.int64()),
    },
    "movies": {
        "item": [20, 10, 30],
        "title": ["Heat", "Sabrina", None],
        "year": pa.array([1995, None, 1950], pa.int16()),
        "genres": ["Action|Crime", "(no genres listed)", "Drama"],
    },
}


def write(folder: Path, changes: dict[str, dict[str, Any]]) -> Path:
    """Writes SMALL with columns replaced by `changes`, or left out where it says None."""
    for name, columns in SMALL.items():
        columns = {key: value for key, value in (columns | changes.get(name, {})).items() if value is not None}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder


def test_a_folder_is_read(tmp_path: Path):
    read = load(write(tmp_path, {}))
    np.testing.assert_array_equal(read.user_ids, np.array([3, 8]), strict=True)
    np.testing.assert_array_equal(read.item_ids, np.array([10, 20]), strict=True)
    np.testing.assert_array_equal(read.user, np.array([0, 0, 1], np.int32), strict=True)
    np.testing.assert_array_equal(read.item, np.array([1, 0, 0], np.int32), strict=True)
    np.testing.assert_array_equal(read.rating, np.array([5, 0.5, 3.5], np.float32), strict=True)
    np.testing.assert_array_equal(read.timestamp, np.array([100, 900, 500]), strict=True)
    np.testing.assert_array_equal(read.item_features["year"], np.array([np.nan, 1995], np.float32), strict=True)
    assert read.item_features["title"].tolist() == ["Sabrina", "Heat"]
    assert read.item_features["genres"].tolist() == [[], ["Action", "Crime"]]


ID = "an integer from 0 to 2147483647"
RATINGS = "user, item, rating, timestamp"
SECONDS = "an integer from 0 to 9999999999"
RATING = "a number from 0.5 to 5 in steps of 0.5"


@pytest.mark.parametrize(
    ("file", "columns", "message"),
    [
        ("ratings", {"rating": None}, f": no column 'rating' in user, item, timestamp; expected {RATINGS}"),
        (
            "ratings",
            {name: column[:0] for name, column in SMALL["ratings"].items()},
            f": has no row; expected rows of {RATINGS}",
        ),
        ("ratings", {"user": ["3", "3", "8"]}, ", column 'user': values of type string; expected integers"),
        ("ratings", {"timestamp": [9.5, 1.0, 5.0]}, ", column 'timestamp': values of type double; expected integers"),
        ("ratings", {"user": [3, None, 8]}, f":2, column 'user': nothing; expected {ID}"),
        ("ratings", {"user": [3, 3, -8]}, f":3, column 'user': -8; expected {ID}"),
        ("ratings", {"item": [10, 20, 2**31]}, f":3, column 'item': 2147483648; expected {ID}"),
        ("ratings", {"item": [10, 21, 10]}, ":2, column 'item': 21; expected a movie of movies.parquet"),
        (
            "ratings",
            {"item": [10, 10, 10]},
            ":2: the user's rating of the movie stands already in row 1; expected each pair once",
        ),
        ("ratings", {"rating": [0.5, float("nan"), 1.0]}, f":2, column 'rating': nan; expected {RATING}"),
        ("ratings", {"rating": [0.5, 5.0, 0.0]}, f":3, column 'rating': 0.0; expected {RATING}"),
        ("ratings", {"rating": [5.5, 5.0, 0.5]}, f":1, column 'rating': 5.5; expected {RATING}"),
        ("ratings", {"rating": [0.5, 5.0, 0.75]}, f":3, column 'rating': 0.75; expected {RATING}"),
        ("ratings", {"timestamp": [900, -1, 500]}, f":2, column 'timestamp': -1; expected {SECONDS}"),
        ("ratings", {"timestamp": [900, 100, 10**12]}, f":3, column 'timestamp': 1000000000000; expected {SECONDS}"),
        ("movies", {"genres": None}, ": no column 'genres' in item, title, year; expected item, title, year, genres"),
        ("movies", {"item": [20, 10, 20]}, ":3, column 'item': 20; expected each once"),
        ("movies", {"year": [1995, 95, 1950]}, ":2, column 'year': 95; expected a number from 1870 to 2100"),
        ("movies", {"title": [1, 2, 3]}, ", column 'title': values of type int64; expected texts"),
    ],
)
def test_a_table_of_other_values_is_refused(tmp_path: Path, file: str, columns: dict[str, Any], message: str):
    write(tmp_path, {file: columns})
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert str(error.value) == f"{tmp_path}/{file}.parquet{message}"


def test_a_missing_file_and_a_damaged_one_are_refused(tmp_path: Path):
    (write(tmp_path, {}) / "movies.parquet").unlink()
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/movies.parquet: no such file; expected a Parquet file of item, title, year, genres"
    )
    (tmp_path / "movies.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/movies.parquet: cannot be read as Parquet (Parquet file size is 4 bytes, smaller than the minimum "
        "file footer (8 bytes)); expected the file as published"
    )
