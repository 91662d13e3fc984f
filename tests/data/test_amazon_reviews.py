import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recjax.data import json_lines
from recjax.data.amazon_reviews import load
from recjax.errors import UserError


def review(user: str, item: str, rating: float, time: int, **more: Any) -> dict[str, Any]:
    """Returns a review as the release of 2023 has it; `time` in milliseconds."""
    return {
        "rating": rating,
        "title": "Such a lovely scent",
        "text": 'It\'s "nice".\nReally',
        "images": [],
        "asin": f"{item}-variant",
        "parent_asin": item,
        "user_id": user,
        "timestamp": time,
        "helpful_vote": 0,
        "verified_purchase": True,
    } | more


REVIEWS_2023 = [
    review("AGK", "B00", 5.0, 1_588_687_728_923),
    review("AE7", "0007", 4.0, 1_588_615_855_070),
    review("AGK", "0007", 1.0, 1_588_687_000_000),
    review("AGK", "B00", 2.0, 1_600_000_000_000),
]


def as_2018(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "overall": row["rating"],
        "verified": True,
        "reviewTime": "03 11, 2013",
        "reviewerID": row["user_id"],
        "asin": row["parent_asin"],
        "style": {"Format:": " Paperback"},
        "reviewerName": "A",
        "reviewText": row["text"],
        "unixReviewTime": row["timestamp"] // 1000,
    }


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write(tmp_path: Path, content: bytes, name: str = "All_Beauty.jsonl") -> Path:
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "release", "title"),
    [
        ("All_Beauty.jsonl", 2023, "amazon-reviews-2023-All_Beauty"),
        ("All_Beauty.jsonl.gz", 2023, "amazon-reviews-2023-All_Beauty"),
        ("All_Beauty_5.json.gz", 2018, "amazon-reviews-2018-All_Beauty_5"),
        ("All_Beauty.json", 2018, "amazon-reviews-2018-All_Beauty"),
    ],
)
def test_first_ratings_of_both_releases(tmp_path: Path, name: str, release: int, title: str):
    rows = REVIEWS_2023 if release == 2023 else [as_2018(row) for row in REVIEWS_2023]
    read = load(write(tmp_path, lines(rows), name))
    assert read.name == title
    np.testing.assert_array_equal(read.user_ids, np.array(["AE7", "AGK"], object), strict=True)
    np.testing.assert_array_equal(read.item_ids, np.array(["0007", "B00"], object), strict=True)
    np.testing.assert_array_equal(read.user, np.array([0, 1, 1], np.int32), strict=True)
    np.testing.assert_array_equal(read.item, np.array([0, 0, 1], np.int32), strict=True)
    np.testing.assert_array_equal(read.rating, np.array([4, 1, 5], np.float32), strict=True)
    np.testing.assert_array_equal(read.timestamp, np.array([1_588_615_855, 1_588_687_000, 1_588_687_728]), strict=True)
    assert read.item_features == {}


def test_blocks_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(json_lines, "BLOCK_BYTES", 2048)
    rows = [review(f"U{n % 37}", f"B{n}", 1 + n % 5, 1_500_000_000_000 + n * 1000) for n in range(200)]
    meta = [{"parent_asin": f"B{n}", "title": f"title {n}", "categories": [f"c{n % 3}"]} for n in range(300)]
    read = load(write(write(tmp_path, lines(rows)), lines(meta), "meta_All_Beauty.jsonl"))
    assert len(read) == 200
    assert sorted(zip(read.user_ids[read.user], read.item_ids[read.item], read.rating, strict=True)) == sorted(
        (row["user_id"], row["parent_asin"], row["rating"]) for row in rows
    )
    numbers = [name.removeprefix("B") for name in read.item_ids]
    assert read.item_features["title"].tolist() == [f"title {n}" for n in numbers]
    assert read.item_features["categories"].tolist() == [[f"c{int(n) % 3}"] for n in numbers]


def test_products_of_2023(tmp_path: Path):
    meta = [
        {"parent_asin": "other", "title": "Other", "categories": ["x"], "price": None},
        {"main_category": "All Beauty", "parent_asin": "B00", "title": "Soap", "categories": ["Beauty", "Bath"]},
        {"parent_asin": "B00", "title": "Soap again", "categories": []},
    ]
    write(tmp_path, lines(REVIEWS_2023))
    read = load(write(tmp_path, lines(meta), "meta_All_Beauty.jsonl.gz"))
    assert read.item_features["title"].tolist() == ["", "Soap"]
    assert read.item_features["categories"].tolist() == [[], ["Beauty", "Bath"]]


def test_products_of_2018(tmp_path: Path):
    meta = [{"asin": "0007", "category": ["Books"], "title": None}, {"asin": "B00", "title": "Soap"}]
    write(tmp_path, lines([as_2018(row) for row in REVIEWS_2023]), "Books.json.gz")
    read = load(write(tmp_path, lines(meta), "meta_Books.json.gz"))
    assert read.item_features["title"].tolist() == ["", "Soap"]
    assert read.item_features["categories"].tolist() == [["Books"], []]


def without(field: str) -> dict[str, Any]:
    return {name: value for name, value in REVIEWS_2023[0].items() if name != field}


GOOD = lines(REVIEWS_2023)
FIRST_MS = "an integer from 100000000000 to 9999999999999"
PYTHON = (
    ": a Python dict in single quotes, as in Amazon's files of 2014, which would have to be evaluated; expected JSON, "
    "as in the files of 2018 and 2023"
)
EITHER = "expected reviews of either"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ":1: the file is empty; expected one JSON object a line"),
        (b"{'reviewerID': 'A1', 'asin': '0007'}\n", f":1{PYTHON}"),
        (GOOD + b"{'reviewerID': 'A1', 'asin': '0007'}\n", f":5{PYTHON}"),
        (
            b'{"user": "a", "stars": 5}\n',
            ":1: no field 'user_id' (amazon-reviews-2023) or 'reviewerID' (amazon-reviews-2018) in user, stars; "
            f"{EITHER}",
        ),
        (
            b"{}\n",
            ":1: no field 'user_id' (amazon-reviews-2023) or 'reviewerID' (amazon-reviews-2018) in an empty object; "
            f"{EITHER}",
        ),
        (GOOD + lines([as_2018(REVIEWS_2023[0])]), ":5, column 'user_id': nothing; expected an id"),
        (GOOD + lines([without("user_id")]), ":5, column 'user_id': nothing; expected an id"),
        (GOOD + lines([without("parent_asin")]), ":5, column 'parent_asin': nothing; expected an id"),
        (GOOD + lines([without("rating")]), ":5, column 'rating': nothing; expected a number from 0 to 5"),
        (GOOD + lines([without("timestamp")]), f":5, column 'timestamp': nothing; expected {FIRST_MS}"),
        (GOOD + lines([review("", "B", 5, 10**12)]), ":5, column 'user_id': ''; expected an id"),
        (GOOD + lines([review("A", "", 5, 10**12)]), ":5, column 'parent_asin': ''; expected an id"),
        (GOOD + lines([review("A", "B", 6, 10**12)]), ":5, column 'rating': 6.0; expected a number from 0 to 5"),
        (
            GOOD + lines([review("A", "B", float("nan"), 10**12)]),
            ":5, column 'rating': nan; expected a number from 0 to 5",
        ),
        (
            GOOD + lines([review("A", "B", 5, 1_588_687_728)]),
            f":5, column 'timestamp': 1588687728; expected {FIRST_MS}",
        ),
        (GOOD + lines([review("A", "B", 5, -1)]), f":5, column 'timestamp': -1; expected {FIRST_MS}"),
        (GOOD + lines([review("A", "B", 5, 10**13)]), f":5, column 'timestamp': 10000000000000; expected {FIRST_MS}"),
        (
            GOOD + lines([review("A", "B", 5, 10**12) | {"timestamp": "2020"}]),
            ":5, column 'timestamp': '2020'; expected an integer of at most 18 digits",
        ),
        (GOOD + lines([review("A", "B", 5, 10**12) | {"user_id": 7}]), ":5, column 'user_id': 7; expected a string"),
        (GOOD + b"[1, 2]\n", ":5: '[1, 2]' is no object; expected one JSON object a line"),
        (GOOD + b"\n" + GOOD, ":5: a blank line; expected one JSON object a line"),
        (GOOD.replace(b'"A', b'"\xffA', 1), ":1: byte 0xff is not UTF-8; expected one JSON object a line"),
        (
            GOOD + b'{"user_id": "A", "user_id": "B"}\n',
            ":5: an object has the field 'user_id' twice; expected once",
        ),
        (
            gzip.compress(GOOD, compresslevel=0, mtime=0)[:-12],
            ":4: the gzip stream is truncated here; expected a complete gzip file",
        ),
        (GOOD[:-9], ":4: no JSON: Unterminated string starting at (character 207); expected one JSON object a line"),
        (
            lines([as_2018(REVIEWS_2023[0]) | {"unixReviewTime": 1_588_687_728_923}]),
            ":1, column 'unixReviewTime': 1588687728923; expected an integer from 0 to 9999999999",
        ),
    ],
)
def test_malformed_reviews_are_refused_with_their_line(tmp_path: Path, content: bytes, message: str):
    write(tmp_path, content)
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert str(error.value) == f"{tmp_path}/All_Beauty.jsonl{message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{'asin': '0007', 'imUrl': ''}\n", f":1{PYTHON}"),
        (lines([{"parent_asin": "B00", "title": 5}]), ":1, column 'title': 5; expected a string"),
        (
            lines([{"parent_asin": "B00", "categories": "Bath"}]),
            ":1, column 'categories': 'Bath'; expected a list of strings",
        ),
        (lines([{"title": "Soap"}]), ":1, column 'parent_asin': nothing; expected an id"),
        (
            lines([{"parent_asin": "B99", "title": "Soap"}]),
            ": none of the products that are reviewed; expected the meta file of the same category",
        ),
    ],
)
def test_malformed_products_are_refused_with_their_line(tmp_path: Path, content: bytes, message: str):
    write(write(tmp_path, GOOD), content, "meta_All_Beauty.jsonl")
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert str(error.value) == f"{tmp_path}/meta_All_Beauty.jsonl{message}"


def test_other_than_one_file_of_reviews_is_refused(tmp_path: Path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError) as error:
            load(folder)
        assert str(error.value) == (
            f"amazon-reviews-2023: {folder} holds no reviews (*.jsonl, *.json, *.jsonl.gz, *.json.gz); "
            "python -m tools.fetch_data amazon-reviews-2023 brings them or says how"
        )
    write(write(tmp_path, GOOD), GOOD, "Books.jsonl.gz")
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: All_Beauty.jsonl and Books.jsonl.gz are there; expected one file of reviews, of one category"
    )
