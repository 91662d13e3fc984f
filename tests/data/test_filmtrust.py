import gzip
from pathlib import Path

import numpy as np
import pytest
from malformed import check_refused, write_files

from recjax.data.filmtrust import NAME, load

ROLES = b"row=1\tcol=1\tclass\r\n"
TAB = {
    "ratings.tab": b"user\tmovie\tscore\r\nc\tc\tc\r\n"
    + ROLES
    + b"7\t30\t2\r\n2\t10\t4\r\n2\t30\t0.5\r\n7\t20\t3.5\r\n"
    b"2\t10\t1\r\n9\t10\t4\r\n",
    "trust.tab": b"truster\ttrustee\tscore\r\ncontinuous\tcontinuous\tcontinuous\r\n" + ROLES + b"7\t2\t1.0\r\n"
    b"2\t9\t1.0\r\n2\t7\t1.0\r\n7\t5\t1.0\r\n5\t7\t1.0\r\n9\t9\t1.0\r\n2\t9\t1.0\r\n",
}
TXT = {
    "ratings.txt": b"7 30 2\n2 10 4\n2 30 .5\n7 20 3.5\n2 10 1\n9 10 4\n",
    "trust.txt": b" 7 2 1 \n2 9 1\n2\t 7  1\n7 5 1\n5 7 1\n9 9 1\n2 9 1\n",
}


@pytest.mark.parametrize("files", [pytest.param(TAB, id="orange"), pytest.param(TXT, id="blanks")])
def test_reads_ratings_and_trust(tmp_path: Path, files: dict[str, bytes]):
    read = load(write_files(tmp_path, files))
    assert read.name == NAME == "filmtrust"
    np.testing.assert_array_equal(read.user_ids, np.array([2, 7, 9], np.int64), strict=True)
    np.testing.assert_array_equal(read.item_ids, np.array([10, 20, 30], np.int64), strict=True)
    # User 2 rates item 10 twice, first 4, then 1; within a user, rows stand as in the file.
    np.testing.assert_array_equal(read.user, np.array([0, 0, 1, 1, 2], np.int32), strict=True)
    np.testing.assert_array_equal(read.item, np.array([2, 0, 2, 1, 0], np.int32), strict=True)
    np.testing.assert_array_equal(read.rating, np.array([0.5, 1, 2, 3.5, 4], np.float32), strict=True)
    assert read.timestamp is None
    # 2 trusts 7 and 9 (said twice), 7 trusts 2; 5 rated nothing, and 9 trusting 9 says nothing.
    np.testing.assert_array_equal(read.trust, np.array([[0, 0, 1], [1, 2, 0]], np.int32), strict=True)


RATING = "a finite number from 0.5 to 4 in steps of 0.5"
INTEGER_ID = "a non-negative integer id of at most 18 digits without leading zeros"
FETCH = "is not there; python -m tools.fetch_data filmtrust brings it or says how"
TYPES = r"'c\tc\tc' or 'continuous\tcontinuous\tcontinuous'"


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        (("ratings.tab", None), f"filmtrust: FOLDER/ratings.tab {FETCH}"),
        (("trust.tab", None), f"filmtrust: FOLDER/trust.tab {FETCH}"),
        (
            ("ratings.tab", b"\r\n\r\n"),
            "FOLDER/ratings.tab:1: the file is empty; expected lines of user, movie, score",
        ),
        (
            ("ratings.tab", b"user\tmovie\tscore\r\nc\tc\tc\r\n" + ROLES),
            "FOLDER/ratings.tab:1: no row follows the header; expected lines of user, movie, score",
        ),
        (
            ("ratings.tab", b"user\tmovie\tscore\n"),
            "FOLDER/ratings.tab:1: no row follows the header; expected lines of user, movie, score",
        ),
        (
            ("ratings.tab", b"\tmovie", b"\tfilm"),
            "FOLDER/ratings.tab:1: no column 'movie' in the header 'user, film, score'; expected user, movie, score",
        ),
        (("ratings.tab", b"c\tc\tc\r\n", b""), f"FOLDER/ratings.tab:2: 'row=1\\tcol=1\\tclass'; expected {TYPES}"),
        (("ratings.tab", b"c\tc\tc\r\n", b"d\td\tc\r\n"), f"FOLDER/ratings.tab:2: 'd\\td\\tc'; expected {TYPES}"),
        (("trust.tab", ROLES, b""), r"FOLDER/trust.tab:3: '7\t2\t1.0'; expected 'row=1\tcol=1\tclass'"),
        (
            ("ratings.tab", b"2\t30\t0.5", b"2\t30"),
            r"FOLDER/ratings.tab:6: 2 columns in '2\t30'; expected 3, as on line 1",
        ),
        (
            ("ratings.tab", b"2\t30\t0.5", b"2\t30\t0.5\t1"),
            r"FOLDER/ratings.tab:6: 4 columns in '2\t30\t0.5\t1'; expected 3, as on line 1",
        ),
        (("ratings.tab", b"0.5", b"half"), f"FOLDER/ratings.tab:6, column 'score': 'half'; expected {RATING}"),
        (("ratings.tab", b"0.5", b"4.5"), f"FOLDER/ratings.tab:6, column 'score': '4.5'; expected {RATING}"),
        (("ratings.tab", b"0.5", b"0"), f"FOLDER/ratings.tab:6, column 'score': '0'; expected {RATING}"),
        (("ratings.tab", b"0.5", b"0.7"), f"FOLDER/ratings.tab:6, column 'score': '0.7'; expected {RATING}"),
        (("ratings.tab", b"7\t30\t", b"x\t30\t"), f"FOLDER/ratings.tab:4, column 'user': 'x'; expected {INTEGER_ID}"),
        (("ratings.tab", b"7\t30\t", b"7\t\t"), "FOLDER/ratings.tab:4, column 'movie': ''; expected an id"),
        (("trust.tab", b"7\t5", b"7\t-5"), f"FOLDER/trust.tab:7, column 'trustee': '-5'; expected {INTEGER_ID}"),
        (
            ("trust.tab", b"7\t5\t1.0", b"7\t5\t0.5"),
            "FOLDER/trust.tab:7, column 'score': '0.5'; expected one of 1, 1.0",
        ),
        (
            ("trust.tab", b"7\t5", b"7\t\xe9"),
            "FOLDER/trust.tab:7: byte 0xe9 is not UTF-8; save the file as UTF-8",
        ),
        (
            ("trust.tab", gzip.compress(TAB["trust.tab"], compresslevel=0, mtime=0)[:-12]),
            "FOLDER/trust.tab:10: the gzip stream is truncated here; expected a complete gzip file",
        ),
    ],
)
def test_malformed_orange_file_is_refused_with_its_line(tmp_path: Path, defect: tuple, message: str):
    check_refused(load, tmp_path, TAB, defect, message)


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        (("trust.txt", None), f"filmtrust: FOLDER/trust.txt {FETCH}"),
        (
            ("ratings.txt", b"2 30 .5", b"2 30"),
            "FOLDER/ratings.txt:3: 2 columns in '2 30'; expected 3: user, item, rating",
        ),
        (
            ("trust.txt", b"7 5 1", b"7  5\t 1 1"),
            "FOLDER/trust.txt:4: 4 columns in '7 5 1 1'; expected 3: truster, trustee, trust",
        ),
        (("ratings.txt", b"2 30 .5", b"2 30 5"), f"FOLDER/ratings.txt:3, column 'rating': '5'; expected {RATING}"),
        (("trust.txt", b"7 5 1", b"7 5 -1"), "FOLDER/trust.txt:4, column 'trust': '-1'; expected one of 1, 1.0"),
        (
            ("ratings.txt", b"   \n \t\n"),
            "FOLDER/ratings.txt:1: the file is empty; expected lines of user, item, rating",
        ),
        (
            ("ratings.txt", TXT["ratings.txt"].replace(b" ", b",")),
            "FOLDER/ratings.txt:1: 1 column in '7,30,2'; expected 3: user, item, rating",
        ),
        (
            ("ratings.txt", b"7 30 2", b"user item rating"),
            f"FOLDER/ratings.txt:1, column 'rating': 'rating'; expected {RATING}",
        ),
        (("ratings.txt", b"2 30 .5", b"2 30 nan"), f"FOLDER/ratings.txt:3, column 'rating': 'nan'; expected {RATING}"),
        (
            ("ratings.txt", b"7 30 2", b"7 30" + b"0" * 18 + b" 2"),
            f"FOLDER/ratings.txt:1, column 'item': '30{'0' * 18}'; expected {INTEGER_ID}",
        ),
        (
            ("trust.txt", b"7 5 1", b"7\x00 5 1"),
            "FOLDER/trust.txt:4: byte 0x00 in the text, of a damaged file or one in UTF-16; save it as UTF-8",
        ),
        (
            ("trust.txt", b"7 5 1", b"7 \xff 1"),
            "FOLDER/trust.txt:4: byte 0xff is not UTF-8; save the file as UTF-8",
        ),
        (("trust.txt", b"7 5 1\n", b"7 5 1\n \n"), "FOLDER/trust.txt:5, column 'truster': ''; expected an id"),
    ],
)
def test_malformed_text_file_is_refused_with_its_line(tmp_path: Path, defect: tuple, message: str):
    check_refused(load, tmp_path, TXT, defect, message)
