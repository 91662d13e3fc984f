import gzip
from pathlib import Path

import numpy as np
import pytest
from malformed import check_refused, write_files

from recjax.data.movielens_1m import NAME, load

FILES = {
    "ratings.dat": b"7::30::3::500\n2::10::5::900\n2::30::1::100\n7::20::4::500\n",
    "users.dat": b"7::F::1::10::48067\n2::M::56::16::70072\n",
    "movies.dat": b"30::American President, The (1995)::Comedy|Drama|Romance\n10::Toy Story (1995)::Animation\n"
    b"20::Mis\xe9rables, Les (1958)::Drama\n40::Nobody's Film: Never Rated (2000)::Drama\n",
}


def test_reads_ratings_users_and_movies(tmp_path: Path):
    read = load(write_files(tmp_path, FILES))
    assert read.name == NAME == "ml-1m"
    np.testing.assert_array_equal(read.user_ids, np.array([2, 7], np.int64), strict=True)
    np.testing.assert_array_equal(read.item_ids, np.array([10, 20, 30], np.int64), strict=True)
    np.testing.assert_array_equal(read.user, np.array([0, 0, 1, 1], np.int32), strict=True)
    np.testing.assert_array_equal(read.item, np.array([2, 0, 1, 2], np.int32), strict=True)
    np.testing.assert_array_equal(read.rating, np.array([1, 5, 4, 3], np.float32), strict=True)
    np.testing.assert_array_equal(read.timestamp, np.array([100, 900, 500, 500], np.int64), strict=True)
    np.testing.assert_array_equal(read.item_features["year"], np.array([1995, 1958, 1995], np.float32), strict=True)
    assert read.item_features["title"].tolist() == ["Toy Story", "Misérables, Les", "American President, The"]
    assert read.item_features["genres"].tolist() == [["Animation"], ["Drama"], ["Comedy", "Drama", "Romance"]]
    np.testing.assert_array_equal(read.user_features["age"], np.array([56, 1], np.float32), strict=True)
    np.testing.assert_array_equal(read.user_features["gender"], np.array(["M", "F"], object), strict=True)
    assert read.user_features["occupation"].tolist() == ["self-employed", "K-12 student"]
    assert read.trust is None
    assert read.knowledge is None


def test_line_ends_and_gzip_do_not_matter(tmp_path: Path):
    plain = load(write_files(tmp_path / "plain", FILES))
    other = {name: gzip.compress(content.replace(b"\n", b"\r\n") + b"\r\n") for name, content in FILES.items()}
    read = load(write_files(tmp_path / "other", other))
    np.testing.assert_array_equal(read.timestamp, plain.timestamp)
    assert read.item_features["genres"].tolist() == plain.item_features["genres"].tolist()


INTEGER_ID = "a non-negative integer id of at most 18 digits without leading zeros"
RATING = "a finite number from 1 to 5 in steps of 1"


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        (
            ("movies.dat", None),
            "ml-1m: FOLDER/movies.dat is not there; python -m tools.fetch_data ml-1m brings it or says how",
        ),
        (
            ("users.dat", b"\n"),
            "FOLDER/users.dat:1: the file is empty; expected lines of user, gender, age, occupation, zip_code",
        ),
        (
            ("ratings.dat", b"7::30::3::500", b"7::30::3"),
            "FOLDER/ratings.dat:1: 3 columns in '7::30::3'; expected 4: user, movie, rating, timestamp",
        ),
        (
            ("movies.dat", b"10::Toy Story", b"10::Toy::Story"),
            "FOLDER/movies.dat:2: 4 columns in '10::Toy::Story (1995)::Animation'; expected 3: movie, title, genres",
        ),
        (
            ("ratings.dat", FILES["ratings.dat"].replace(b"::", b",")),
            "FOLDER/ratings.dat:1: 1 column in '7,30,3,500'; expected 4: user, movie, rating, timestamp",
        ),
        (
            ("ratings.dat", b"::500\n2::10", b"::500\n\n2::10"),
            "FOLDER/ratings.dat:2, column 'user': ''; expected a user of users.dat",
        ),
        (
            ("ratings.dat", b"::1::100", b"::one::100"),
            f"FOLDER/ratings.dat:3, column 'rating': 'one'; expected {RATING}",
        ),
        (("ratings.dat", b"::1::100", b"::0::100"), f"FOLDER/ratings.dat:3, column 'rating': '0'; expected {RATING}"),
        (
            ("ratings.dat", b"::1::100", b"::3.5::100"),
            f"FOLDER/ratings.dat:3, column 'rating': '3.5'; expected {RATING}",
        ),
        (
            ("ratings.dat", b"::900", b"::-900"),
            "FOLDER/ratings.dat:2, column 'timestamp': '-900'; expected non-negative integer Unix seconds",
        ),
        (
            ("ratings.dat", b"::900", b"::" + b"9" * 19),
            f"FOLDER/ratings.dat:2, column 'timestamp': '{'9' * 19}'; expected Unix seconds up to 9999999999; "
            "divide milliseconds by 1000",
        ),
        (("ratings.dat", b"2::10", b"3::10"), "FOLDER/ratings.dat:2, column 'user': '3'; expected a user of users.dat"),
        (
            ("ratings.dat", b"2::10", b"2::11"),
            "FOLDER/ratings.dat:2, column 'movie': '11'; expected a movie of movies.dat",
        ),
        (
            ("ratings.dat", b"2::30", b"2::10"),
            "FOLDER/ratings.dat:3: user '2' and movie '10' stand already on line 2; expected each pair once",
        ),
        (
            ("movies.dat", b"20::", b"30::"),
            "FOLDER/movies.dat:3, column 'movie': '30' stands already on line 1; expected each once",
        ),
        (("movies.dat", b"20::", b"-20::"), f"FOLDER/movies.dat:3, column 'movie': '-20'; expected {INTEGER_ID}"),
        (("movies.dat", b"::Animation", b"::"), "FOLDER/movies.dat:2, column 'genres': ''; expected some text"),
        (
            ("movies.dat", b"\xe9", b"\xc3\x89"),
            "FOLDER/movies.dat:3: byte 0x89 is no Latin-1 text; expected the file as published",
        ),
        (
            ("movies.dat", b"Toy Story", b"Toy\x1fStory"),
            "FOLDER/movies.dat:2: byte 0x1f in the text; expected the file as published",
        ),
        (
            ("users.dat", b"2::M", b"7::M"),
            "FOLDER/users.dat:2, column 'user': '7' stands already on line 1; expected each once",
        ),
        (("users.dat", b"::M::", b"::m::"), "FOLDER/users.dat:2, column 'gender': 'm'; expected one of F, M"),
        (
            ("users.dat", b"::56::", b"::57::"),
            "FOLDER/users.dat:2, column 'age': '57'; expected one of 1, 18, 25, 35, 45, 50, 56",
        ),
        (
            ("users.dat", b"::16::", b"::21::"),
            "FOLDER/users.dat:2, column 'occupation': '21'; expected an integer from 0 to 20",
        ),
        (
            ("users.dat", b"::16::", b"::writer::"),
            "FOLDER/users.dat:2, column 'occupation': 'writer'; expected an integer from 0 to 20",
        ),
        (
            ("ratings.dat", gzip.compress(FILES["ratings.dat"], compresslevel=0, mtime=0)[:-12]),
            "FOLDER/ratings.dat:4: the gzip stream is truncated here; expected a complete gzip file",
        ),
        (
            ("ratings.dat", b"3::500", b"3\r::500"),
            "FOLDER/ratings.dat:1: a quote is not closed, or a carriage return stands inside the line; "
            "expected one row a line",
        ),
    ],
)
def test_malformed_file_is_refused_with_its_line(tmp_path: Path, defect: tuple, message: str):
    check_refused(load, tmp_path, FILES, defect, message)
