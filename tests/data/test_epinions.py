import gzip
from pathlib import Path

import numpy as np
import pytest
from malformed import check_refused, write_files

from recjax.data.epinions import NAME, load

FILES = {
    "ratings_data.txt": b"7 300 2\n2 100 5\n2 300 1\n7 200 3\n2 100 4\n",
    "trust_data.txt": b" 2 7 1 \n 7 2 1 \n 7 49290 1 \n 2 7 1 \n",
}


def test_reads_ratings_and_trust(tmp_path: Path):
    read = load(write_files(tmp_path, FILES))
    assert read.name == NAME == "epinions"
    np.testing.assert_array_equal(read.user_ids, np.array([2, 7], np.int64), strict=True)
    np.testing.assert_array_equal(read.item_ids, np.array([100, 200, 300], np.int64), strict=True)
    np.testing.assert_array_equal(read.user, np.array([0, 0, 1, 1], np.int32), strict=True)
    np.testing.assert_array_equal(read.item, np.array([2, 0, 2, 1], np.int32), strict=True)
    np.testing.assert_array_equal(read.rating, np.array([1, 4, 2, 3], np.float32), strict=True)
    assert read.timestamp is None
    np.testing.assert_array_equal(read.trust, np.array([[0, 1], [1, 0]], np.int32), strict=True)


def test_trust_may_touch_nobody_who_rates(tmp_path: Path):
    read = load(write_files(tmp_path, {**FILES, "trust_data.txt": b"1 3 1\n3 2 1\n"}))
    np.testing.assert_array_equal(read.trust, np.zeros((2, 0), np.int32), strict=True)


RATING = "a finite number from 1 to 5 in steps of 1"
INTEGER_ID = "a non-negative integer id of at most 18 digits without leading zeros"
FETCH = "is not there; python -m tools.fetch_data epinions brings it or says how"


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        (("ratings_data.txt", None), f"epinions: FOLDER/ratings_data.txt {FETCH}"),
        (("trust_data.txt", None), f"epinions: FOLDER/trust_data.txt {FETCH}"),
        (
            ("ratings_data.txt", b""),
            "FOLDER/ratings_data.txt:1: the file is empty; expected lines of user, item, rating",
        ),
        (
            ("trust_data.txt", b"\n"),
            "FOLDER/trust_data.txt:1: the file is empty; expected lines of truster, trustee, trust",
        ),
        (
            ("trust_data.txt", b" \n \n"),
            "FOLDER/trust_data.txt:1: the file is empty; expected lines of truster, trustee, trust",
        ),
        (
            ("ratings_data.txt", b"2 300 1", b"2 300 NaN"),
            f"FOLDER/ratings_data.txt:3, column 'rating': 'NaN'; expected {RATING}",
        ),
        (
            ("ratings_data.txt", b"2 300 1", b"2 300 1\x00"),
            "FOLDER/ratings_data.txt:3: byte 0x00 in the text, of a damaged file or one in UTF-16; save it as UTF-8",
        ),
        (
            ("ratings_data.txt", b"2 300 1", b"2 300"),
            "FOLDER/ratings_data.txt:3: 2 columns in '2 300'; expected 3: user, item, rating",
        ),
        (
            ("ratings_data.txt", b"2 300 1", b"2 300 1 0"),
            "FOLDER/ratings_data.txt:3: 4 columns in '2 300 1 0'; expected 3: user, item, rating",
        ),
        (
            ("ratings_data.txt", FILES["ratings_data.txt"].replace(b" ", b",")),
            "FOLDER/ratings_data.txt:1: 1 column in '7,300,2'; expected 3: user, item, rating",
        ),
        (
            ("ratings_data.txt", b"7 300 2", b"user item rating"),
            f"FOLDER/ratings_data.txt:1, column 'rating': 'rating'; expected {RATING}",
        ),
        (
            ("ratings_data.txt", b"2 300 1", b"2 300 6"),
            f"FOLDER/ratings_data.txt:3, column 'rating': '6'; expected {RATING}",
        ),
        (
            ("ratings_data.txt", b"2 300 1", b"2 300 0"),
            f"FOLDER/ratings_data.txt:3, column 'rating': '0'; expected {RATING}",
        ),
        (
            ("ratings_data.txt", b"2 300 1", b"2 300 1.5"),
            f"FOLDER/ratings_data.txt:3, column 'rating': '1.5'; expected {RATING}",
        ),
        (
            ("ratings_data.txt", b"2 300 1", b"u2 300 1"),
            f"FOLDER/ratings_data.txt:3, column 'user': 'u2'; expected {INTEGER_ID}",
        ),
        (
            ("ratings_data.txt", b"2 300 1", b"2 " + b"9" * 19 + b" 1"),
            f"FOLDER/ratings_data.txt:3, column 'item': '{'9' * 19}'; expected {INTEGER_ID}",
        ),
        (
            ("trust_data.txt", b"49290 1", b"49290 -1"),
            "FOLDER/trust_data.txt:3, column 'trust': '-1'; expected one of 1, 1.0",
        ),
        (
            ("trust_data.txt", b"49290 1", b"49290"),
            "FOLDER/trust_data.txt:3: 2 columns in '7 49290'; expected 3: truster, trustee, trust",
        ),
        (
            ("trust_data.txt", b"49290 1", b"-1 1"),
            f"FOLDER/trust_data.txt:3, column 'trustee': '-1'; expected {INTEGER_ID}",
        ),
        (
            ("trust_data.txt", b"49290", b"\xff49290"),
            "FOLDER/trust_data.txt:3: byte 0xff is not UTF-8; save the file as UTF-8",
        ),
        (
            ("ratings_data.txt", gzip.compress(FILES["ratings_data.txt"], compresslevel=0, mtime=0)[:-12]),
            "FOLDER/ratings_data.txt:5: the gzip stream is truncated here; expected a complete gzip file",
        ),
    ],
)
def test_malformed_file_is_refused_with_its_line(tmp_path: Path, defect: tuple, message: str):
    check_refused(load, tmp_path, FILES, defect, message)
