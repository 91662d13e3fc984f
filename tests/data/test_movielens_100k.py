import gzip
from pathlib import Path

import numpy as np
import pytest
from malformed import check_refused, write_files

from recjax.data.movielens_100k import NAME, load

RECBOLE = {
    "ml-100k.inter": b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    b"7\t30\t3\t500\n2\t10\t5\t900\n2\t30\t1\t100\n7\t20\t4\t500\n",
    "ml-100k.user": b"user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    b"7\t53\tF\tother\t94043\n2\t24\tM\ttechnician\t85711\n",
    "ml-100k.item": b"item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    b"30\tunkonwn\tunkonwn\tunknown\n"
    b"10\tToy Story\t1995\tAnimation Children's Comedy\n"
    b"20\tLand Before Time III: The Time of the Great Giving (1995)\tV\tAnimation Children's\n",
    "ml-100k.kg": b"head_id:token\trelation_id:token\ttail_id:token\n"
    b"m.toy\tfilm.genre\tm.fun\nm.fun\tgenre.films\tm.toy\nm.land\tfilm.genre\tm.fun\nm.land\tfilm.sequel\tm.toy\n",
    "ml-100k.link": b"item_id:token\tentity_id:token\n20\tm.land\n10\tm.toy\n",
}
FLAGS = {
    30: b"1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0",
    10: b"0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0",
    20: b"0|0|0|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0|0",
}
GROUPLENS = {
    "u.data": b"7\t30\t3\t500\n2\t10\t5\t900\n2\t30\t1\t100\n7\t20\t4\t500\n",
    "u.user": b"7|53|F|other|94043\n2|24|M|technician|85711\n",
    "u.item": b"30|unknown||||" + FLAGS[30] + b"\n"
    b"10|Toy Story (1995)|01-Jan-1995||http://us.imdb.com/M/title-exact?Toy%20Story%20(1995)|" + FLAGS[10] + b"\n"
    b"20|Mis\xe9rables, Les (1995) (V)|01-Jan-1995|||" + FLAGS[20] + b"\n",
}


@pytest.mark.parametrize("files", [pytest.param(RECBOLE, id="recbole"), pytest.param(GROUPLENS, id="grouplens")])
def test_reads_ratings_users_and_movies(tmp_path: Path, files: dict[str, bytes]):
    read = load(write_files(tmp_path, files))
    assert read.name == NAME == "ml-100k"
    np.testing.assert_array_equal(read.user_ids, np.array([2, 7], np.int64), strict=True)
    np.testing.assert_array_equal(read.item_ids, np.array([10, 20, 30], np.int64), strict=True)
    np.testing.assert_array_equal(read.user, np.array([0, 0, 1, 1], np.int32), strict=True)
    # The second user's two ratings have the same time and keep the order of their lines: movie 30, then 20.
    np.testing.assert_array_equal(read.item, np.array([2, 0, 2, 1], np.int32), strict=True)
    np.testing.assert_array_equal(read.rating, np.array([1, 5, 3, 4], np.float32), strict=True)
    np.testing.assert_array_equal(read.timestamp, np.array([100, 900, 500, 500], np.int64), strict=True)
    np.testing.assert_array_equal(read.item_features["year"], np.array([1995, 1995, np.nan], np.float32), strict=True)
    assert read.item_features["genres"].tolist() == [
        ["Animation", "Children's", "Comedy"],
        ["Animation", "Children's"],
        [],
    ]
    np.testing.assert_array_equal(read.user_features["age"], np.array([24, 53], np.float32), strict=True)
    np.testing.assert_array_equal(read.user_features["gender"], np.array(["M", "F"], object), strict=True)
    assert read.user_features["occupation"].tolist() == ["technician", "other"]
    assert read.trust is None


def test_titles_of_both_forms(tmp_path: Path):
    recbole = load(write_files(tmp_path / "recbole", RECBOLE)).item_features["title"]
    grouplens = load(write_files(tmp_path / "grouplens", GROUPLENS)).item_features["title"]
    assert recbole.tolist() == ["Toy Story", "Land Before Time III: The Time of the Great Giving", "unkonwn"]
    assert grouplens.tolist() == ["Toy Story", "Misérables, Les", "unknown"]


def test_items_are_the_first_entities_of_the_graph(tmp_path: Path):
    graph = load(write_files(tmp_path, RECBOLE)).knowledge
    assert graph is not None
    # Items 0 (Toy Story), 1 (Land Before Time) and 2, which has no link; then m.fun.
    assert (graph.n_entities, graph.n_relations) == (4, 3)
    relations = ["film.genre", "film.sequel", "genre.films"]
    triples = [
        (head, relations[relation], tail)
        for head, relation, tail in zip(graph.head, graph.relation, graph.tail, strict=True)
    ]
    assert triples == [(0, "film.genre", 3), (3, "genre.films", 0), (1, "film.genre", 3), (1, "film.sequel", 0)]
    assert graph.head.dtype == graph.relation.dtype == graph.tail.dtype == np.int32


def test_there_is_no_graph_without_its_files(tmp_path: Path):
    assert load(write_files(tmp_path / "grouplens", GROUPLENS)).knowledge is None
    bare = {name: content for name, content in RECBOLE.items() if not name.endswith((".kg", ".link"))}
    assert load(write_files(tmp_path / "bare", bare)).knowledge is None


FETCH = "is not there; python -m tools.fetch_data ml-100k brings it or says how"


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        (("ml-100k.inter", None), f"ml-100k: FOLDER/ml-100k.inter {FETCH}"),
        (("ml-100k.user", None), f"ml-100k: FOLDER/ml-100k.user {FETCH}"),
        (("ml-100k.link", None), f"ml-100k: FOLDER/ml-100k.link {FETCH}"),
        (
            ("ml-100k.inter", b""),
            "FOLDER/ml-100k.inter:1: the file is empty; expected lines of user_id, item_id, rating, timestamp",
        ),
        (
            ("ml-100k.inter", b"user_id\titem_id\trating\ttimestamp\n"),
            "FOLDER/ml-100k.inter:1: no row follows the header; expected lines of user_id, item_id, rating, timestamp",
        ),
        (
            ("ml-100k.inter", b"\ttimestamp:float", b"\tunix_time:float"),
            "FOLDER/ml-100k.inter:1: no column 'timestamp' in the header 'user_id, item_id, rating, unix_time'; "
            "expected user_id, item_id, rating, timestamp",
        ),
        (
            ("ml-100k.user", b"zip_code:token", b"age:float"),
            "FOLDER/ml-100k.user:1: the header 'user_id, age, gender, occupation, age' names column 'age' 2 times; "
            "expected once",
        ),
        (
            ("ml-100k.inter", b"2\t30\t1\t100", b"2\t30\t1"),
            "FOLDER/ml-100k.inter:4: 3 columns in '2\\t30\\t1'; expected 4, as on line 1",
        ),
        (
            ("ml-100k.item", b"1995\tAnimation", b"1995\tAnimation\t"),
            'FOLDER/ml-100k.item:3: 5 columns in "10\\tToy Story\\t1995\\tAnimation\\t Children\'s Comedy"; '
            "expected 4, as on line 1",
        ),
        (
            ("ml-100k.inter", b"2\t30\t1\t", b"2\t30\tbad\t"),
            "FOLDER/ml-100k.inter:4, column 'rating:float': 'bad'; expected a finite number from 1 to 5 in steps of 1",
        ),
        (
            ("ml-100k.inter", b"2\t30\t1\t", b"2\t30\t6\t"),
            "FOLDER/ml-100k.inter:4, column 'rating:float': '6'; expected a finite number from 1 to 5 in steps of 1",
        ),
        (
            ("ml-100k.inter", b"2\t30\t1\t", b"2\t30\t1.5\t"),
            "FOLDER/ml-100k.inter:4, column 'rating:float': '1.5'; expected a finite number from 1 to 5 in steps of 1",
        ),
        (
            ("ml-100k.inter", b"\t900", b"\t-900"),
            "FOLDER/ml-100k.inter:3, column 'timestamp:float': '-900'; expected non-negative integer Unix seconds",
        ),
        (
            ("ml-100k.inter", b"\t900", b"\t9" + b"0" * 18),
            "FOLDER/ml-100k.inter:3, column 'timestamp:float': '9000000000000000000'; "
            "expected Unix seconds up to 9999999999; divide milliseconds by 1000",
        ),
        (
            ("ml-100k.inter", b"2\t10\t", b"3\t10\t"),
            "FOLDER/ml-100k.inter:3, column 'user_id:token': '3'; expected a user of ml-100k.user",
        ),
        (
            ("ml-100k.inter", b"2\t10\t", b"2\t11\t"),
            "FOLDER/ml-100k.inter:3, column 'item_id:token': '11'; expected an item of ml-100k.item",
        ),
        (
            ("ml-100k.inter", b"2\t10\t", b"2\t30\t"),
            "FOLDER/ml-100k.inter:4: user_id:token '2' and item_id:token '30' stand already on line 3; "
            "expected each pair once",
        ),
        (
            ("ml-100k.user", b"2\t24", b"7\t24"),
            "FOLDER/ml-100k.user:3, column 'user_id:token': '7' stands already on line 2; expected each once",
        ),
        (
            ("ml-100k.item", b"10\tToy", b"30\tToy"),
            "FOLDER/ml-100k.item:3, column 'item_id:token': '30' stands already on line 2; expected each once",
        ),
        (
            ("ml-100k.item", b"10\tToy", b"m10\tToy"),
            "FOLDER/ml-100k.item:3, column 'item_id:token': 'm10'; "
            "expected a non-negative integer id of at most 18 digits without leading zeros",
        ),
        (
            ("ml-100k.item", b"\t1995\t", b"\t19955\t"),
            "FOLDER/ml-100k.item:3, column 'release_year:token': '19955'; "
            "expected a finite number from 1900 to 2000 in steps of 1, or 'V', or 'unkonwn'",
        ),
        (
            ("ml-100k.item", b"Toy Story", b"Toy \xff Story"),
            "FOLDER/ml-100k.item:3: byte 0xff is not UTF-8; save the file as UTF-8",
        ),
        (
            ("ml-100k.user", b"\tM\t", b"\tmale\t"),
            "FOLDER/ml-100k.user:3, column 'gender:token': 'male'; expected one of F, M",
        ),
        (
            ("ml-100k.user", b"24", b"240"),
            "FOLDER/ml-100k.user:3, column 'age:token': '240'; expected a finite number from 0 to 120 in steps of 1",
        ),
        (
            ("ml-100k.user", b"technician", b""),
            "FOLDER/ml-100k.user:3, column 'occupation:token': ''; expected some text",
        ),
        (
            ("ml-100k.link", b"10\tm.toy", b"11\tm.toy"),
            "FOLDER/ml-100k.link:3, column 'item_id:token': '11'; expected an item of ml-100k.item",
        ),
        (
            ("ml-100k.link", b"10\tm.toy", b"10\tm.tay"),
            "FOLDER/ml-100k.link:3, column 'entity_id:token': 'm.tay'; expected an entity of ml-100k.kg",
        ),
        (
            ("ml-100k.link", b"10\tm.toy", b"10\tm.land"),
            "FOLDER/ml-100k.link:3, column 'entity_id:token': 'm.land' stands already on line 2; expected each once",
        ),
        (
            ("ml-100k.kg", b"m.land\tfilm.sequel\tm.toy", b"m.land\tfilm.sequel\t"),
            "FOLDER/ml-100k.kg:5, column 'tail_id:token': ''; expected some text",
        ),
        (
            ("ml-100k.kg", b"m.toy\tfilm.genre\tm.fun\n", b"head_id:token\trelation_id:token\ttail_id:token\n"),
            "FOLDER/ml-100k.kg:2, column 'head_id:token': 'head_id:token'; expected no second header",
        ),
        (
            ("ml-100k.kg", b"m.fun\tgenre", b"m.fun\x00\tgenre"),
            "FOLDER/ml-100k.kg:3: byte 0x00 in the text, of a damaged file or one in UTF-16; save it as UTF-8",
        ),
        (
            ("ml-100k.inter", gzip.compress(RECBOLE["ml-100k.inter"], compresslevel=0, mtime=0)[:-12]),
            "FOLDER/ml-100k.inter:5: the gzip stream is truncated here; expected a complete gzip file",
        ),
    ],
)
def test_malformed_atomic_file_is_refused_with_its_line(tmp_path: Path, defect: tuple, message: str):
    check_refused(load, tmp_path, RECBOLE, defect, message)


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        (("u.user", None), f"ml-100k: FOLDER/u.user {FETCH}"),
        (
            ("u.data", b"2\t10\t5\t900", b"2\t10\t5"),
            "FOLDER/u.data:2: 3 columns in '2\\t10\\t5'; expected 4: user_id, item_id, rating, timestamp",
        ),
        (
            ("u.data", b"7\t30", b"7\t31"),
            "FOLDER/u.data:1, column 'item_id': '31'; expected an item of u.item",
        ),
        (
            ("u.data", b""),
            "FOLDER/u.data:1: the file is empty; expected lines of user_id, item_id, rating, timestamp",
        ),
        (
            ("u.data", b"7\t20\t4\t500", b"7\t20\t4\t500\t0"),
            r"FOLDER/u.data:4: 5 columns in '7\t20\t4\t500\t0'; expected 4: user_id, item_id, rating, timestamp",
        ),
        (
            ("u.data", b"\t4\t500", b"\tfour\t500"),
            "FOLDER/u.data:4, column 'rating': 'four'; expected a finite number from 1 to 5 in steps of 1",
        ),
        (
            ("u.data", b"\t4\t500", b"\tnan\t500"),
            "FOLDER/u.data:4, column 'rating': 'nan'; expected a finite number from 1 to 5 in steps of 1",
        ),
        (
            ("u.data", b"\t900", b"\t900000000000"),
            "FOLDER/u.data:2, column 'timestamp': '900000000000'; expected Unix seconds up to 9999999999; "
            "divide milliseconds by 1000",
        ),
        (
            ("u.data", b"2\t30\t", b"2\t10\t"),
            "FOLDER/u.data:3: user_id '2' and item_id '10' stand already on line 2; expected each pair once",
        ),
        (
            ("u.data", b"7\t30\t3", b"-7\t30\t3"),
            "FOLDER/u.data:1, column 'user_id': '-7'; expected a user of u.user",
        ),
        (
            ("u.user", b"\n2|", b"\n007|"),
            "FOLDER/u.user:2, column 'user_id': '007'; "
            "expected a non-negative integer id of at most 18 digits without leading zeros",
        ),
        (
            ("u.item", b"30|unknown||||", b"30|unknown|||"),
            f"FOLDER/u.item:1: 23 columns in '30|unknown|||{FLAGS[30].decode()}'; expected 24: item_id, movie_title, "
            "release_date, video_release_date, imdb_url, unknown, Action, Adventure, Animation, Children's, Comedy, "
            "Crime, Documentary, Drama, Fantasy, Film-Noir, Horror, Musical, Mystery, Romance, Sci-Fi, Thriller, War, "
            "Western",
        ),
        (
            ("u.item", gzip.compress(GROUPLENS["u.item"], compresslevel=0, mtime=0)[:-12]),
            "FOLDER/u.item:3: the gzip stream is truncated here; expected a complete gzip file",
        ),
        (
            ("u.user", b"|technician", b""),
            "FOLDER/u.user:2: 4 columns in '2|24|M|85711'; expected 5: user_id, age, gender, occupation, zip_code",
        ),
        (
            ("u.item", FLAGS[20], FLAGS[20].replace(b"1", b"2", 1)),
            "FOLDER/u.item:3, column 'Animation': '2'; expected one of 0, 1",
        ),
        (
            ("u.item", b"\xe9", b"\x82"),
            "FOLDER/u.item:3: byte 0x82 is no Latin-1 text; expected the file as published",
        ),
    ],
)
def test_malformed_grouplens_file_is_refused_with_its_line(tmp_path: Path, defect: tuple, message: str):
    check_refused(load, tmp_path, GROUPLENS, defect, message)
