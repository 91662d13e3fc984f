import gzip
from pathlib import Path

import numpy as np
import pytest
from malformed import check_refused, write_files

from recjax.data.epinions_trustees import NAME, load

HEADER = b"user\titems\trelevance\ncontinuous\tcontinuous\tcontinuous\nrow=1\tcol=1\tclass\n"
FILES = {
    "epinions_train.tab": HEADER + b"89\t0\t1\n4\t7\t1\n4\t0\t1\n",
    "epinions_test.tab": HEADER + b"89\t4\t1\n4\t89\t1\n",
}


def test_reads_both_files_as_pairs(tmp_path: Path):
    read = load(write_files(tmp_path, FILES))
    assert read.name == NAME == "epinions-trustees"
    np.testing.assert_array_equal(read.user_ids, np.array([4, 89], np.int64), strict=True)
    np.testing.assert_array_equal(read.item_ids, np.array([0, 4, 7, 89], np.int64), strict=True)
    np.testing.assert_array_equal(read.user, np.array([0, 0, 0, 1, 1], np.int32), strict=True)
    np.testing.assert_array_equal(read.item, np.array([2, 0, 3, 0, 1], np.int32), strict=True)
    np.testing.assert_array_equal(read.rating, np.ones(5, np.float32), strict=True)
    assert read.timestamp is None
    assert read.trust is None


INTEGER_ID = "a non-negative integer id of at most 18 digits without leading zeros"
FETCH = "is not there; python -m tools.fetch_data epinions-trustees brings it or says how"


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        (("epinions_train.tab", None), f"epinions-trustees: FOLDER/epinions_train.tab {FETCH}"),
        (("epinions_test.tab", None), f"epinions-trustees: FOLDER/epinions_test.tab {FETCH}"),
        (
            ("epinions_test.tab", b""),
            "FOLDER/epinions_test.tab:1: the file is empty; expected lines of user, items, relevance",
        ),
        (
            ("epinions_test.tab", HEADER),
            "FOLDER/epinions_test.tab:1: no row follows the header; expected lines of user, items, relevance",
        ),
        (
            ("epinions_test.tab", b"\titems", b"\titem"),
            "FOLDER/epinions_test.tab:1: no column 'items' in the header 'user, item, relevance'; "
            "expected user, items, relevance",
        ),
        (
            ("epinions_test.tab", b"row=1\tcol=1\tclass\n", b""),
            r"FOLDER/epinions_test.tab:3: '89\t4\t1'; expected 'row=1\tcol=1\tclass'",
        ),
        (
            ("epinions_test.tab", b"4\t89\t1", b"4\t89"),
            r"FOLDER/epinions_test.tab:5: 2 columns in '4\t89'; expected 3, as on line 1",
        ),
        (
            ("epinions_test.tab", b"4\t89\t1", b"4\t89\t1\t1"),
            r"FOLDER/epinions_test.tab:5: 4 columns in '4\t89\t1\t1'; expected 3, as on line 1",
        ),
        (
            ("epinions_test.tab", b"4\t89\t1", b"4\t89\t0"),
            "FOLDER/epinions_test.tab:5, column 'relevance': '0'; expected one of 1",
        ),
        (
            ("epinions_test.tab", b"4\t89\t1", b"-4\t89\t1"),
            f"FOLDER/epinions_test.tab:5, column 'user': '-4'; expected {INTEGER_ID}",
        ),
        (
            ("epinions_test.tab", b"4\t89\t1", b"4\t8.9\t1"),
            f"FOLDER/epinions_test.tab:5, column 'items': '8.9'; expected {INTEGER_ID}",
        ),
        (
            ("epinions_test.tab", b"4\t89\t1", b"89\t4\t1"),
            "FOLDER/epinions_test.tab:5: user '89' and items '4' stand already on line 4; expected each pair once",
        ),
        (
            ("epinions_test.tab", b"4\t89\t1", b"4\t7\t1"),
            "FOLDER/epinions_test.tab:5, column 'items': '7'; "
            "expected somebody whom epinions_train.tab does not give this user",
        ),
        (
            ("epinions_test.tab", b"4\t89\t1", b"4\t\xff\t1"),
            "FOLDER/epinions_test.tab:5: byte 0xff is not UTF-8; save the file as UTF-8",
        ),
        (
            ("epinions_test.tab", gzip.compress(FILES["epinions_test.tab"], compresslevel=0, mtime=0)[:-12]),
            "FOLDER/epinions_test.tab:5: the gzip stream is truncated here; expected a complete gzip file",
        ),
    ],
)
def test_malformed_file_is_refused_with_its_line(tmp_path: Path, defect: tuple, message: str):
    check_refused(load, tmp_path, FILES, defect, message)
