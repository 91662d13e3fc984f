import gzip
import inspect
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recjax.data import delimited
from recjax.data.delimited import read_delimited
from recjax.errors import UserError

# user 5: item 20 at time 100, item 10 at time 200; user 7: items 20 and 10 at time 50 (a tie).
ROWS = [("7", "20", "4.5", "50"), ("5", "10", "3", "200"), ("5", "20", "1e0", "100"), ("7", "10", ".5", "50")]


def text(delimiter: str = ",", header: str = "", end: str = "\n", order: tuple[int, ...] = (0, 1, 2, 3)) -> bytes:
    """Returns ROWS as a file, with the columns in `order`."""
    lines = [header] if header else []
    lines += [delimiter.join(row[i] for i in order) for row in ROWS]
    return "".join(line + end for line in lines).encode()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(text(), id="csv"),
        pytest.param(text().rstrip(), id="no newline at the end"),
        pytest.param(text() + b"\r\n\n", id="blank lines at the end"),
        pytest.param(text("\t"), id="tsv"),
        pytest.param(text(";"), id="semicolon"),
        pytest.param(text(", "), id="blanks around fields"),
        pytest.param(text(end="\r\n"), id="crlf"),
        pytest.param(b"\xef\xbb\xbf" + text(), id="byte order mark"),
        pytest.param(b"\xef\xbb\xbf" + text(header="user,item,rating,timestamp"), id="byte order mark, header"),
        pytest.param(text(header="userId,movieId,rating,timestamp"), id="MovieLens header"),
        pytest.param(text(header="USER_ID,Item_ID,Rating,TIMESTAMP"), id="case of the header"),
        pytest.param(text(header='"user","item","rating","timestamp"'), id="quoted header"),
        pytest.param(
            text("\t", header="user_id:token\titem_id:token\trating:float\ttimestamp:float"), id="RecBole header"
        ),
        pytest.param(text(header="timestamp,rating,itemId,userId", order=(3, 2, 1, 0)), id="header order"),
        pytest.param(text(header="user,age,item,rating,timestamp,age", order=(0, 2, 1, 2, 3, 2)), id="extra columns"),
        pytest.param(
            b'user,item,title,rating,timestamp\n7,20,"a, ""b""",4.5,50\n5,10,"",3,200\n5,20,c,1,100\n7,10,d"e,.5,50\n',
            id="quotes",
        ),
        pytest.param(gzip.compress(text()), id="gzip"),
        pytest.param(gzip.compress(text()[:20]) + gzip.compress(text()[20:]), id="gzip of two members"),
    ],
)
def test_reads_every_layout_alike(tmp_path: Path, content: bytes):
    path = tmp_path / "ratings.dat"
    path.write_bytes(content)
    read = read_delimited(path)
    assert read.name == "ratings"
    np.testing.assert_array_equal(read.user_ids, np.array([5, 7], np.int64), strict=True)
    np.testing.assert_array_equal(read.item_ids, np.array([10, 20], np.int64), strict=True)
    np.testing.assert_array_equal(read.user, np.array([0, 0, 1, 1], np.int32), strict=True)
    np.testing.assert_array_equal(read.item, np.array([1, 0, 0, 1], np.int32), strict=True)
    np.testing.assert_array_equal(read.rating, np.array([1, 3, 0.5, 4.5], np.float32), strict=True)
    np.testing.assert_array_equal(read.timestamp, np.array([100, 200, 50, 50], np.int64), strict=True)


def write(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "r.csv"
    path.write_text(content)
    return path


def test_without_timestamps_file_order_stays_within_a_user(tmp_path: Path):
    read = read_delimited(write(tmp_path, "2,9,1\n1,8,2\n2,7,3\n1,9,4\n"))
    assert read.timestamp is None
    assert read.rating.tolist() == [2, 4, 1, 3]


def test_name_drops_only_the_last_suffix_and_gz(tmp_path: Path):
    path = tmp_path / "ml-1.5m.csv.gz"
    path.write_bytes(gzip.compress(b"1,2,3\n", mtime=0))
    assert read_delimited(path).name == "ml-1.5m"


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["b", "a", "é"], ["a", "b", "é"]),
        (["10", "9", "x"], ["10", "9", "x"]),
        (["7", "007", "0"], ["0", "007", "7"]),  # as integers, 7 and 007 would become one user
        (["-1", "a", "3"], ["-1", "3", "a"]),
        (["1.0", "2", "3"], ["1.0", "2", "3"]),
        (["99999999999999999999", "1", "2"], ["1", "2", "99999999999999999999"]),  # beyond int64
    ],
)
def test_ids_that_are_not_all_integers_are_strings(tmp_path: Path, ids: list[str], expected: list[str]):
    path = tmp_path / "r.csv"
    path.write_text("".join(f"{name},1,5\n" for name in ids), encoding="utf-8")
    read = read_delimited(path)
    assert read.user_ids.tolist() == expected
    assert sorted(ids) == [read.user_ids[code] for code in read.user]
    assert read.item_ids.tolist() == [1]


def test_required_integer_ids_are_read(tmp_path: Path):
    read = read_delimited(write(tmp_path, "0,999999999999999999,1\n"), require_integer_ids=True)
    assert read.user_ids.tolist() == [0]
    assert read.item_ids.tolist() == [999999999999999999]


@pytest.mark.parametrize(
    ("content", "duplicates", "kept"),
    [
        ("1,1,5,30\n1,1,4,10\n1,1,3,20\n", "keep_last", 5),
        ("1,1,5,30\n1,1,4,10\n1,1,3,20\n", "keep_first", 4),
        ("1,1,5,10\n1,1,4,10\n", "keep_last", 4),
        ("1,1,5,10\n1,1,4,10\n", "keep_first", 5),
        ("1,1,5\n1,1,4\n1,1,3\n", "keep_last", 3),
        ("1,1,5\n1,1,4\n1,1,3\n", "keep_first", 5),
    ],
)
def test_duplicates_keep_one_row(tmp_path: Path, content: str, duplicates: delimited.Duplicates, kept: float):
    assert read_delimited(write(tmp_path, content), duplicates=duplicates).rating.tolist() == [kept]


@settings(deadline=None, max_examples=50)
@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30),
    duplicates=st.sampled_from(["keep_last", "keep_first"]),
)
def test_agrees_with_plain_python(rows: list[tuple[int, int, int]], duplicates: delimited.Duplicates):
    kept: dict[tuple[int, int], tuple[int, int]] = {}
    for number, (user, item, time) in enumerate(rows):
        old = kept.get((user, item))
        if old is None or (time >= old[0] if duplicates == "keep_last" else time < old[0]):
            kept[user, item] = (time, number)
    expected = sorted((user, time, item, number) for (user, item), (time, number) in kept.items())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.csv"
        path.write_text("".join(f"{user},{item},{n},{time}\n" for n, (user, item, time) in enumerate(rows)))
        read = read_delimited(path, duplicates=duplicates)
    users, items = read.user_ids[read.user], read.item_ids[read.item]
    assert list(zip(users, read.timestamp, items, read.rating, strict=True)) == expected


def test_lines_are_numbered_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(delimited, "_BLOCK_BYTES", 64)
    lines = [f"{n},{n},1,{n}" for n in range(1000)]
    read = read_delimited(write(tmp_path, "\n".join(lines)))
    assert read.user_ids[read.user].tolist() == list(range(1000))
    assert read.item_ids[read.item].tolist() == list(range(1000))
    lines[700] = "700,700,x,700"
    with pytest.raises(UserError, match=r":701, column 'rating': 'x'; "):
        read_delimited(write(tmp_path, "\n".join(lines)))
    lines[700] = "700,700"
    with pytest.raises(UserError, match=r":701: 2 columns in '700,700'; expected 4, as on line 1$"):
        read_delimited(write(tmp_path, "\n".join(lines)))
    lines[700] = f"700,700,{'1' * 40},{'7' * 40}"
    with pytest.raises(UserError, match=r":701: 90 bytes on a line; expected at most 64$"):
        read_delimited(write(tmp_path, "\n".join(lines)))


HEADER = b"userId,movieId,rating,timestamp\n"
COLUMNS = "user, item, rating[, timestamp]"
INTEGER_ID = "a non-negative integer id of at most 18 digits without leading zeros"
MISSING_ID = f"{INTEGER_ID} (-1 often means a missing id; drop such rows)"
ZERO_BYTE = "byte 0x00 in the text, of a damaged file or one in UTF-16; save it as UTF-8"
ONE_ROW = "a quote is not closed, or a carriage return stands inside the line; expected one row a line"
LATE = "expected Unix seconds up to 9999999999; divide milliseconds by 1000"
GZIP = gzip.compress(b"1,2,3\n" * 2, compresslevel=0, mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", f":1: the file is empty; expected lines of {COLUMNS}"),
        (b"\n\r\n", f":1: the file is empty; expected lines of {COLUMNS}"),
        (b"\xef\xbb\xbf", f":1: the file is empty; expected lines of {COLUMNS}"),
        (gzip.compress(b"", mtime=0), f":1: the file is empty; expected lines of {COLUMNS}"),
        (HEADER, f":1: no row follows the header; expected lines of {COLUMNS}"),
        (HEADER + b"\n", f":1: no row follows the header; expected lines of {COLUMNS}"),
        (b"1::2::3::4\n", f":1: no comma, tab or semicolon in '1::2::3::4'; expected {COLUMNS}"),
        (b"1,2\n", f":1: 2 columns in '1,2'; expected {COLUMNS}"),
        (b"1,2,3,4,5\n", f":1: 5 columns and no header; expected {COLUMNS}, or a header that names them"),
        (
            b"user,film,rating\n1,2,3\n",
            f":1: no item column in the header 'user, film, rating'; expected {COLUMNS}, "
            "or a number as third field if there is no header",
        ),
        (
            b"1,2,good\n1,2,3\n",
            f":1: no user column in the header '1, 2, good'; expected {COLUMNS}, "
            "or a number as third field if there is no header",
        ),
        (
            b"user,item,rating,movieId\n1,2,3,4\n",
            ":1: the header names the item column 2 times, as 'item' and 'movieId'; expected once",
        ),
        (HEADER + b"1,2,3,4\n1,2,3\n", ":3: 3 columns in '1,2,3'; expected 4, as on line 1"),
        (b"1,2,3\n1,2,3,4\n", ":2: 4 columns in '1,2,3,4'; expected 3, as on line 1"),
        (b"1,2,3\n1\n1,2,3\n", ":2: 1 column in '1'; expected 3, as on line 1"),
        (b"1,2,3\n\n4,5,6\n", ":2, column 'user': ''; expected an id"),
        (b"1,2,3\n4,\xff5,6\n", ":2: byte 0xff is not UTF-8; save the file as UTF-8"),
        ("1,2,3\n".encode("utf-16"), ":1: byte 0xff is not UTF-8; save the file as UTF-8"),
        (GZIP[:-12], ":2: the gzip stream is truncated here; expected a complete gzip file"),
        (GZIP[:5], ":1: the gzip stream is truncated here; expected a complete gzip file"),
        (GZIP[:-8] + bytes(8), ":3: the gzip stream is corrupt here; expected a complete gzip file"),
        (GZIP + b"rest", ":3: the gzip stream is corrupt here; expected a complete gzip file"),
        (b"\x1f\x8b\x08\x00" + b"\xff" * 20, ":1: the gzip stream is corrupt here; expected a complete gzip file"),
        (b'1,2,3\n"4,5,6\n7,8,9\n', f":2: {ONE_ROW}"),
        (b'user,item,rating,title\n1,2,3,a\n1,3,3,"a\nb"\n1,4,x,a\n', f":3: {ONE_ROW}"),
        (b"1,2,3\n4,5,6\r7,8,9\n", f":2: {ONE_ROW}"),
        (b"1,2,3\r4,5,6\r", f":1: {ONE_ROW}"),
        (b"1,2,3\r\r\n4,5,6\r\r\n", ":1: rows do not end with a line feed; expected \\n or \\r\\n after each row"),
        (b"1,2,nan\n", ":1, column 'rating': 'nan'; expected a finite number"),
        (HEADER + b"1,2,3,4\n1,3,NaN,4\n", ":3, column 'rating': 'NaN'; expected a finite number"),
        (b"1,2,3\n1,3,-inf\n", ":2, column 'rating': '-inf'; expected a finite number"),
        (b"1,2,3\n1,3,1e999\n", ":2, column 'rating': '1e999'; expected a finite number"),
        (b"1,2,3\n1,3,1e39\n", ":2, column 'rating': '1e39'; expected a finite number in the range of float32"),
        (b"1,2,3\n1,3,\n", ":2, column 'rating': ''; expected a finite number"),
        (b"1;2;3\n1;3;3,5\n", ":2, column 'rating': '3,5'; expected a finite number"),
        (b"1,2,3\n1,3,five\n1,4,six\n", ":2, column 'rating': 'five'; expected a finite number"),
        (
            b"1,2,3\n1,3," + b"z" * 99 + b"\n",
            f":2, column 'rating': '{'z' * 57}...'; expected a finite number",
        ),
        (b"1,2,3,4.5\n", ":1, column 'timestamp': '4.5'; expected non-negative integer Unix seconds"),
        (HEADER + b"1,2,3,-4\n", ":2, column 'timestamp': '-4'; expected non-negative integer Unix seconds"),
        (b"1,2,3,4\n1,3,3,\n", ":2, column 'timestamp': ''; expected non-negative integer Unix seconds"),
        (
            b"1,2,3,4\n1,3,3," + b"9" * 19 + b"\n",
            f":2, column 'timestamp': '{'9' * 19}'; {LATE}",
        ),
        (b"1,2,3,1593878903000\n", f":1, column 'timestamp': '1593878903000'; {LATE}"),
        (b"1,2,3\n4\x00,5,6\n", f":2: {ZERO_BYTE}"),
        ("1,2,3\n".encode("utf-16-le"), f":1: {ZERO_BYTE}"),
        (
            b"<!DOCTYPE html>\n<html></html>\n",
            f":1: no comma, tab or semicolon in '<!DOCTYPE html>'; expected {COLUMNS}",
        ),
        (b"1,2,3\n,2,3\n", ":2, column 'user': ''; expected an id"),
        (HEADER + b"1,2,3,4\n1, ,3,4\n", ":3, column 'movieId': ''; expected an id"),
        (b"1,2,3\n-1,2,3\n", f":2, column 'user': '-1'; expected {MISSING_ID}"),
        (HEADER + b"a,2,3,4\na,-7,3,4\n", f":3, column 'movieId': '-7'; expected {MISSING_ID}"),
    ],
)
def test_malformed_file_is_refused_with_its_line(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_delimited(path)
    assert str(error.value) == f"{path}{message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1,2,3\na,2,3\n", f":2, column 'user': 'a'; expected {INTEGER_ID}"),
        ("1,2,3\n1,-2,3\n", f":2, column 'item': '-2'; expected {INTEGER_ID}"),
        ("1,2,3\n1,2.0,3\n", f":2, column 'item': '2.0'; expected {INTEGER_ID}"),
        ("1,2,3\n01,3,3\n", f":2, column 'user': '01'; expected {INTEGER_ID}"),
    ],
)
def test_required_integer_ids_are_checked(tmp_path: Path, content: str, message: str):
    path = write(tmp_path, content)
    with pytest.raises(UserError) as error:
        read_delimited(path, require_integer_ids=True)
    assert str(error.value) == f"{path}{message}"


def test_duplicate_error_names_both_lines(tmp_path: Path):
    path = write(tmp_path, "user,item,rating\na,x,1\nb,x,1\na,y,1\nb,x,2\na,x,3\n")
    with pytest.raises(UserError) as error:
        read_delimited(path, duplicates="error")
    assert str(error.value) == (
        f"{path}:5: user 'b' and item 'x' stand already on line 3; "
        "expected each pair once, or duplicates='keep_last' or 'keep_first'"
    )


def test_duplicate_error_passes_distinct_pairs(tmp_path: Path):
    assert len(read_delimited(write(tmp_path, "1,1,1\n1,2,1\n2,1,1\n"), duplicates="error")) == 3


def test_unknown_duplicates_policy_is_refused(tmp_path: Path):
    path = write(tmp_path, "1,1,1\n")
    with pytest.raises(UserError, match=r"unknown duplicates policy 'keep_lst'; .*; did you mean 'keep_last'\?"):
        # Unwrapped: a runtime type checker, where one is on, would refuse the value before.
        inspect.unwrap(read_delimited)(path, duplicates="keep_lst")


def test_missing_file_and_directory_are_refused(tmp_path: Path):
    missing = tmp_path / "none.csv"
    with pytest.raises(UserError) as error:
        read_delimited(missing)
    assert str(error.value) == f"{missing}: no such file; expected a text file of {COLUMNS}"
    with pytest.raises(UserError) as error:
        read_delimited(tmp_path)
    assert str(error.value) == f"{tmp_path}: is a directory; expected a text file of {COLUMNS}"
