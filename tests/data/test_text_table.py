import gzip
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recjax.data.text_table import BLANKS, Layout, read_columns, read_table, read_text
from recjax.errors import UserError

COLUMNS = ("user", "item", "note")
ROWS = [("1", "10", "a"), ("2", "20", "b c"), ("3", "30", "é")]


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "table.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows_of(path: Path, columns: tuple[str, ...] = COLUMNS, **options: Any) -> list[tuple[str, ...]]:
    table = read_table(path, columns, **options)
    return list(zip(*(table[name].texts().tolist() for name in table), strict=True))


@pytest.mark.parametrize("delimiter", [",", "\t", "|", "::", "\\t", "<=>"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("header", [True, False])
def test_reads_every_delimiter_and_line_end(tmp_path: Path, delimiter: str, end: str, header: bool):
    lines = [COLUMNS, *ROWS] if header else ROWS
    path = write(tmp_path, "".join(delimiter.join(line) + end for line in lines))
    assert rows_of(path, delimiter=delimiter, header=header) == ROWS


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("1 10 a\n2 20 b\n", id="single"),
        pytest.param("1   10\ta\n2\t\t20 b", id="runs and tabs"),
        pytest.param(" 1 10 a \n\t2 20 b\t\n", id="around the line"),
        pytest.param("1 10 a \r\n 2 20 b\r\n", id="crlf"),
    ],
)
def test_blanks_separate_as_in_str_split(tmp_path: Path, text: str):
    read = rows_of(write(tmp_path, text), delimiter=BLANKS, header=False)
    assert read == [tuple(line.split()) for line in text.splitlines()]


def test_header_tells_the_order_and_other_columns_are_ignored(tmp_path: Path):
    path = write(tmp_path, "age, note:token ,item:float,user\n9,a,10,1\n8,b,20,2\n")
    assert rows_of(path) == [("1", "10", "a"), ("2", "20", "b")]


def test_optional_column_may_be_absent(tmp_path: Path):
    path = write(tmp_path, "user,item\n1,10\n")
    assert list(read_table(path, COLUMNS, optional=("note",))) == ["user", "item"]
    path = write(tmp_path, "user,item,note\n1,10,a\n")
    assert list(read_table(path, COLUMNS, optional=("note",))) == list(COLUMNS)


def test_lines_after_the_header_are_no_rows(tmp_path: Path):
    path = write(tmp_path, "user,item,note\nd,d,s\n-\n1,10,a\n2,x,b\n")
    table = read_table(path, COLUMNS, after_header=(("d,d,s", "c,c,s"), ("-",)))
    assert table["user"].texts().tolist() == ["1", "2"]
    with pytest.raises(UserError, match=r"table.txt:5, column 'item': 'x'; expected an integer from 0 to 99$"):
        table["item"].integers(0, 99)


@pytest.mark.parametrize(
    ("text", "delimiter", "quoting", "expected"),
    [
        ('1,"a, ""b"""\n', ",", None, 'a, "b"'),
        ('1,"a"\n', ",", False, '"a"'),
        ('1\t"a"\n', "\t", None, '"a"'),
        ('1\t"a\t b"\n', "\t", True, "a\t b"),
        ('1::"a\n', "::", None, '"a'),
        ('1 "a\n', BLANKS, None, '"a'),
    ],
)
def test_quotes_mean_something_in_csv_or_where_asked(
    tmp_path: Path, text: str, delimiter: str | None, quoting: bool | None, expected: str
):
    path = write(tmp_path, text)
    read = rows_of(path, ("user", "note"), delimiter=delimiter, header=False, quoting=quoting)
    assert read == [("1", expected)]


def test_encodings_and_gzip(tmp_path: Path):
    text = "user,item,note\n1,10,é\n"
    for content in (text.encode(), b"\xef\xbb\xbf" + text.encode(), gzip.compress(text.encode())):
        assert rows_of(write(tmp_path, content)) == [("1", "10", "é")]
    for content in (text.encode("latin-1"), gzip.compress(text.encode("latin-1"))):
        assert rows_of(write(tmp_path, content), encoding="latin-1") == [("1", "10", "é")]


FIELD = st.text(
    st.characters(codec="utf-8", exclude_characters='\n\r\x1f:,\x00"', exclude_categories=("Cs",)), max_size=8
)


@settings(max_examples=50)
@given(rows=st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=8), delimiter=st.sampled_from(["::", ","]))
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], delimiter: str):
    lines = "".join(f"{number}{delimiter}{delimiter.join(row)}\n" for number, row in enumerate(rows))
    path = write(tmp_path_factory.mktemp("any"), lines)
    table = read_table(path, ("number", "first", "second"), delimiter=delimiter, header=False)
    for name, column in zip(("first", "second"), zip(*rows, strict=True), strict=True):
        assert table[name].texts().tolist() == [text.strip() for text in column]


def test_a_line_longer_than_a_block_is_refused(tmp_path: Path):
    path = write(tmp_path, "1,2\n3," + "4" * 198 + "\n")
    layout = Layout(delimiter=",", names=("a", "b"), position={"a": 0})
    with pytest.raises(UserError) as error:
        read_columns(path, read_text(path, "a, b"), layout, block_bytes=64)
    assert str(error.value) == f"{path}:2: 200 bytes on a line; expected at most 64"


HEADER = b"user,item,note\n"
ZERO_BYTE = "byte 0x00 in the text, of a damaged file or one in UTF-16; save it as UTF-8"
ONE_ROW = "a quote is not closed, or a carriage return stands inside the line; expected one row a line"
AFTER = {"after_header": (("x",),)}
NO_HEADER = {"header": False}
COLONS = {"delimiter": "::", "header": False}
LATIN = {"encoding": "latin-1"}


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"", {}, ":1: the file is empty; expected lines of user, item, note"),
        (b"\xef\xbb\xbf\n", {}, ":1: the file is empty; expected lines of user, item, note"),
        (b" \t\n  \n", {"delimiter": None}, ":1: the file is empty; expected lines of user, item, note"),
        (HEADER + b"1,2,\x003\n", {}, f":2: {ZERO_BYTE}"),
        (HEADER + b"1,2,\x003\n", LATIN, f":2: {ZERO_BYTE}"),
        ("user,item,note\n1,2,3\n".encode("utf-16-be"), {}, f":1: {ZERO_BYTE}"),
        (HEADER, {}, ":1: no row follows the header; expected lines of user, item, note"),
        (HEADER + b"x\n", AFTER, ":1: no row follows the header; expected lines of user, item, note"),
        (HEADER + b"y\n1,2,3\n", AFTER, ":2: 'y'; expected 'x'"),
        (b"1,2,3\n", {}, ":1: no column 'user' in the header '1, 2, 3'; expected user, item, note"),
        (
            b"user;item;note\n1;2;3\n",
            {},
            ":1: no column 'user' in the header 'user;item;note'; expected user, item, note",
        ),
        (
            b"user,User,item\n1,2,3\n",
            {},
            ":1: no column 'note' in the header 'user, User, item'; expected user, item, note",
        ),
        (
            b"user,item,user,note\n1,2,3,4\n",
            {},
            ":1: the header 'user, item, user, note' names column 'user' 2 times; expected once",
        ),
        (
            b'user,"item,note\n1,2,3\n',
            {},
            ":1: no column 'item' in the header 'user, item,note'; expected user, item, note",
        ),
        (HEADER + b"1,2,3\n1,2\n", {}, ":3: 2 columns in '1,2'; expected 3, as on line 1"),
        (HEADER + b"1,2,3,4\n", {}, ":2: 4 columns in '1,2,3,4'; expected 3, as on line 1"),
        (b"1,2,3\n1\n", NO_HEADER, ":2: 1 column in '1'; expected 3: user, item, note"),
        (b"1::2::3\n1::2::3::\n", COLONS, ":2: 4 columns in '1::2::3::'; expected 3: user, item, note"),
        (b"1::2::3\n1:2::3\n", COLONS, ":2: 2 columns in '1:2::3'; expected 3: user, item, note"),
        (b"1::2::3\n1::2::\x1f\n", COLONS, ":2: byte 0x1f in the text; expected the file as published"),
        (b"1::2::3\n1::2::3\r1\n", COLONS, f":2: {ONE_ROW}"),
        (b"1::2::3\r1::2::3\r", COLONS, f":1: {ONE_ROW}"),
        (HEADER + b'1,2,"3\n1,2,3\n', {}, f":2: {ONE_ROW}"),
        (HEADER + b'1,2,"3\n3"\n', {}, f":2: {ONE_ROW}"),
        (HEADER + b"1,2,3\n1,\x80,3\n", {}, ":3: byte 0x80 is not UTF-8; save the file as UTF-8"),
        (HEADER + b"1,2,3\n1,\x80,3\n", LATIN, ":3: byte 0x80 is no Latin-1 text; expected the file as published"),
        (
            gzip.compress(HEADER + b"1,2,3\n", compresslevel=0, mtime=0)[:-12],
            {},
            ":2: the gzip stream is truncated here; expected a complete gzip file",
        ),
        (
            gzip.compress(HEADER + b"1,2,3\n", compresslevel=0, mtime=0)[:-8] + bytes(8),
            {},
            ":3: the gzip stream is corrupt here; expected a complete gzip file",
        ),
    ],
)
def test_malformed_table_is_refused_with_its_line(
    tmp_path: Path, content: bytes, options: dict[str, Any], message: str
):
    path = write(tmp_path, content)
    with pytest.raises(UserError) as error:
        read_table(path, COLUMNS, **options)
    assert str(error.value) == f"{path}{message}"


def test_missing_file_and_directory_are_refused(tmp_path: Path):
    missing = tmp_path / "none.txt"
    with pytest.raises(UserError) as error:
        read_table(missing, COLUMNS)
    assert str(error.value) == f"{missing}: no such file; expected a text file of user, item, note"
    with pytest.raises(UserError) as error:
        read_table(tmp_path, COLUMNS)
    assert str(error.value) == f"{tmp_path}: is a directory; expected a text file of user, item, note"
