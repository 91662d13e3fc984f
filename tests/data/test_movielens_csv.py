import gzip
from pathlib import Path

import numpy as np
import pytest
from malformed import check_refused, write_files

from recjax.data.movielens_csv import NAMES, load

FILES = {
    "ratings.csv": b"userId,movieId,rating,timestamp\n2,30,0.5,100\n2,10,5.0,900\n10,30,3.5,500\n10,20,4,500\n",
    "movies.csv": b"movieId,title,genres\r\n"
    b'30,"""Great Performances"" Cats, The (1998)",Musical|Children\r\n'
    b"10,D\xc3\xa9j\xc3\xa0 Vu ,(no genres listed)\r\n"
    b"20,Fawlty Towers (1975-1979),Comedy\r\n"
    b"40,Never Rated (2000),Drama\r\n",
}


@pytest.mark.parametrize("name", NAMES)
def test_reads_ratings_and_movies_under_the_name_of_the_folder(tmp_path: Path, name: str):
    read = load(write_files(tmp_path / name, FILES))
    assert read.name == name
    np.testing.assert_array_equal(read.user_ids, np.array([2, 10], np.int64), strict=True)
    np.testing.assert_array_equal(read.item_ids, np.array([10, 20, 30], np.int64), strict=True)
    np.testing.assert_array_equal(read.user, np.array([0, 0, 1, 1], np.int32), strict=True)
    np.testing.assert_array_equal(read.item, np.array([2, 0, 1, 2], np.int32), strict=True)
    np.testing.assert_array_equal(read.rating, np.array([0.5, 5, 4, 3.5], np.float32), strict=True)
    np.testing.assert_array_equal(read.timestamp, np.array([100, 900, 500, 500], np.int64), strict=True)
    np.testing.assert_array_equal(read.item_features["year"], np.array([np.nan, 1975, 1998], np.float32), strict=True)
    assert read.item_features["title"].tolist() == ["Déjà Vu", "Fawlty Towers", '"Great Performances" Cats, The']
    assert read.item_features["genres"].tolist() == [[], ["Comedy"], ["Musical", "Children"]]
    assert read.user_features == {}


def test_large_files_are_read_as_they_were_written(tmp_path: Path):
    rng = np.random.default_rng(0)
    pairs = rng.choice(400 * 300, 50_000, replace=False)
    user, item = 1 + pairs // 300, 1 + pairs % 300
    rating, timestamp = rng.integers(1, 11, 50_000) / 2, rng.integers(10**9, 10**9 + 1000, 50_000)
    rows = list(zip(user.tolist(), timestamp.tolist(), item.tolist(), rating.tolist(), strict=True))
    lines = "".join(f"{u},{i},{r},{t}\n" for u, t, i, r in rows)
    movies = "".join(f"{i},M (2000),Drama\n" for i in range(300, 0, -1))
    files = {
        "ratings.csv": b"userId,movieId,rating,timestamp\n" + lines.encode(),
        "movies.csv": b"movieId,title,genres\n" + movies.encode(),
    }
    read = load(write_files(tmp_path, files))
    columns = (read.user_ids[read.user], read.timestamp, read.item_ids[read.item], read.rating)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == sorted(rows)


INTEGER_ID = "a non-negative integer id of at most 18 digits without leading zeros"
RATING = "a finite number from 0.5 to 5 in steps of 0.5"
ONE_ROW = "a quote is not closed, or a carriage return stands inside the line; expected one row a line"


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        (
            ("movies.csv", None),
            "ml-20m: FOLDER/movies.csv is not there; python -m tools.fetch_data ml-20m brings it or says how",
        ),
        (
            ("ratings.csv", b""),
            "FOLDER/ratings.csv:1: the file is empty; expected lines of userId, movieId, rating, timestamp",
        ),
        (
            ("ratings.csv", b"userId,movieId,rating,timestamp\n"),
            "FOLDER/ratings.csv:1: no row follows the header; expected lines of userId, movieId, rating, timestamp",
        ),
        (
            ("ratings.csv", b"userId,movieId,rating,timestamp\n", b""),
            "FOLDER/ratings.csv:1: no column 'userId' in the header '2, 30, 0.5, 100'; "
            "expected userId, movieId, rating, timestamp",
        ),
        (
            ("movies.csv", b",genres", b",genre"),
            "FOLDER/movies.csv:1: no column 'genres' in the header 'movieId, title, genre'; "
            "expected movieId, title, genres",
        ),
        (
            ("movies.csv", b",genres", b",genres,title"),
            "FOLDER/movies.csv:1: the header 'movieId, title, genres, title' names column 'title' 2 times; "
            "expected once",
        ),
        (
            ("ratings.csv", b"2,10,5.0,900", b"2,10,5.0"),
            "FOLDER/ratings.csv:3: 3 columns in '2,10,5.0'; expected 4, as on line 1",
        ),
        (
            ("movies.csv", b"Fawlty Towers", b"Fawlty, Towers"),
            "FOLDER/movies.csv:4: 4 columns in '20,Fawlty, Towers (1975-1979),Comedy'; expected 3, as on line 1",
        ),
        (
            ("ratings.csv", b"10,20,4,500\n", b"10,20"),
            "FOLDER/ratings.csv:5: 2 columns in '10,20'; expected 4, as on line 1",
        ),
        (("ratings.csv", b"5.0", b"five"), f"FOLDER/ratings.csv:3, column 'rating': 'five'; expected {RATING}"),
        (("ratings.csv", b"5.0", b"5.5"), f"FOLDER/ratings.csv:3, column 'rating': '5.5'; expected {RATING}"),
        (("ratings.csv", b"5.0", b"4.8"), f"FOLDER/ratings.csv:3, column 'rating': '4.8'; expected {RATING}"),
        (("ratings.csv", b"5.0", b"0"), f"FOLDER/ratings.csv:3, column 'rating': '0'; expected {RATING}"),
        (("ratings.csv", b"5.0", b"nan"), f"FOLDER/ratings.csv:3, column 'rating': 'nan'; expected {RATING}"),
        (
            ("ratings.csv", b",900", b",-900"),
            "FOLDER/ratings.csv:3, column 'timestamp': '-900'; expected non-negative integer Unix seconds",
        ),
        (
            ("ratings.csv", b",900", b",1" + b"0" * 18),
            f"FOLDER/ratings.csv:3, column 'timestamp': '1{'0' * 18}'; expected Unix seconds up to 9999999999; "
            "divide milliseconds by 1000",
        ),
        (("ratings.csv", b"2,10", b"u2,10"), f"FOLDER/ratings.csv:3, column 'userId': 'u2'; expected {INTEGER_ID}"),
        (
            ("ratings.csv", b"2,10", b"2,11"),
            "FOLDER/ratings.csv:3, column 'movieId': '11'; expected a movie of movies.csv",
        ),
        (
            ("ratings.csv", b"2,10", b"2,30"),
            "FOLDER/ratings.csv:3: userId '2' and movieId '30' stand already on line 2; expected each pair once",
        ),
        (
            ("movies.csv", b"20,Fawlty", b"30,Fawlty"),
            "FOLDER/movies.csv:4, column 'movieId': '30' stands already on line 2; expected each once",
        ),
        (
            ("movies.csv", b"20,Fawlty", b"020,Fawlty"),
            f"FOLDER/movies.csv:4, column 'movieId': '020'; expected {INTEGER_ID}",
        ),
        (("movies.csv", b",Comedy", b","), "FOLDER/movies.csv:4, column 'genres': ''; expected some text"),
        (("movies.csv", b'1998)"', b"1998)"), f"FOLDER/movies.csv:2: {ONE_ROW}"),
        (
            ("movies.csv", b"\xc3\xa9", b"\xe9"),
            "FOLDER/movies.csv:3: byte 0xe9 is not UTF-8; save the file as UTF-8",
        ),
        (
            ("ratings.csv", gzip.compress(FILES["ratings.csv"], compresslevel=0, mtime=0)[:-12]),
            "FOLDER/ratings.csv:5: the gzip stream is truncated here; expected a complete gzip file",
        ),
    ],
)
def test_malformed_file_is_refused_with_its_line(tmp_path: Path, defect: tuple, message: str):
    check_refused(load, tmp_path / "ml-20m", FILES, defect, message)
