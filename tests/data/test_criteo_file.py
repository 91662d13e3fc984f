import gzip
import itertools
from pathlib import Path

import numpy as np
import pytest

from recjax.data import criteo_file
from recjax.data.criteo_file import (
    Part,
    count_lines,
    decode_block,
    detect_format,
    positive_lines,
    read_blocks,
)
from recjax.data.criteo_format import TSV, X1, ids_of, labels_of
from recjax.errors import UserError

SIZES = [2**31 - 1] * 26
HEADER = "label," + ",".join([f"I{i}" for i in range(1, 14)] + [f"C{i}" for i in range(1, 27)])
ROW = "\t".join(["1", "5", "", "-2"] + ["0"] * 10 + ["68fd1e64", ""] + ["0a0b0c0d"] * 24)
X1_ROW = ",".join(["0"] + ["0.5"] * 13 + ["17"] * 26)
TABS = "expected 40 with a tab between: label, I1 to I13, C1 to C26"
COMMAS = TABS.replace("tab", "comma")


def numbered(n: int) -> bytes:
    """Returns n rows, the label 1 in every third, the row's number as C1."""
    rows = ("\t".join([str(int(i % 3 == 0))] + [""] * 13 + [f"{i:08x}"] + [""] * 25) for i in range(n))
    return "".join(row + "\n" for row in rows).encode()


def write(folder: Path, content: bytes, name: str = "train.txt") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def with_field(row: str, delimiter: str, column: int, value: str) -> str:
    fields = row.split(delimiter)
    fields[column] = value
    return delimiter.join(fields)


def read(path: Path) -> np.ndarray:
    return np.concatenate(list(Part(files=(path,)).rows(SIZES)))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(numbered(50), id="plain"),
        pytest.param(numbered(50).rstrip(b"\n"), id="no newline at the end"),
        pytest.param(numbered(50).replace(b"\n", b"\r\n"), id="crlf"),
        pytest.param(gzip.compress(numbered(50)), id="gzip"),
        pytest.param(gzip.compress(numbered(50)[:999]) + gzip.compress(numbered(50)[999:]), id="gzip of two members"),
    ],
)
@pytest.mark.parametrize("block_bytes", [100, 1 << 24])
def test_reads_every_layout_alike(tmp_path: Path, content: bytes, block_bytes: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(criteo_file, "_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(criteo_file, "_GZIP_BLOCK_BYTES", block_bytes)
    rows = read(write(tmp_path, content))
    expected = criteo_file.decode(numbered(50), TSV, SIZES)
    np.testing.assert_array_equal(rows, expected, strict=True)


def test_the_header_of_x1_is_no_row(tmp_path: Path):
    path = write(tmp_path, f"{HEADER}\r\n{X1_ROW}\r\n{X1_ROW}".encode())
    assert detect_format(path) is X1
    assert [(line, count_lines(block)) for line, block in read_blocks(path, X1)] == [(2, 1), (3, 1)]
    assert len(read(path)) == 2


def test_blocks_number_their_first_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(criteo_file, "_BLOCK_BYTES", 200)
    blocks = list(read_blocks(write(tmp_path, numbered(40)), TSV))
    assert len(blocks) > 5
    assert b"".join(block for _, block in blocks) == numbered(40)
    for line, block in blocks:
        assert block == b"".join(numbered(40).splitlines(keepends=True)[line - 1 :])[: len(block)]


GZIP = gzip.compress(f"{ROW}\n{ROW}\n".encode(), compresslevel=0, mtime=0)
HEX = "expected 8 hexadecimal digits, or nothing"
INTEGER = "expected an integer of at most 18 digits, or nothing"
REAL = "expected a finite number in the range of float32"
FEATURE_ID = "expected a feature id from 0 to 4294967295"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ":1: the file is empty; expected rows of label, I1 to I13, C1 to C26"),
        (gzip.compress(b"", mtime=0), ":1: the file is empty; expected rows of label, I1 to I13, C1 to C26"),
        (HEADER.encode(), ":1: no row follows the header; expected rows of label, I1 to I13, C1 to C26"),
        (HEADER.encode() + b"\n", ":1: no row follows the header; expected rows of label, I1 to I13, C1 to C26"),
        (
            f"Label,{HEADER}\n{X1_ROW}\n".encode(),
            f":1: {('Label,' + HEADER)[:57] + '...'!r} is not a header that is known; expected "
            "'label,I1,...,I13,C1,...,C26' with commas, or no header and tabs",
        ),
        (
            b"\xef\xbb\xbf" + HEADER.encode() + b"\n",
            f":1: {(chr(0xFEFF) + HEADER)[:57] + '...'!r} is not a header that is known; expected "
            "'label,I1,...,I13,C1,...,C26' with commas, or no header and tabs",
        ),
        (ROW.replace("\t", ",").encode(), f":1: 1 column in {ROW.replace(chr(9), ',')[:57] + '...'!r}; {TABS}"),
        (f"{ROW}\n{ROW[2:]}\n".encode(), f":2: 39 columns in {ROW[2:59] + '...'!r}; {TABS}"),
        (f"{ROW}\n{ROW}\t\n".encode(), f":2: 41 columns in {ROW[:57] + '...'!r}; {TABS}"),
        (f"{ROW}\n\n{ROW}\n".encode(), f":2: 1 column in ''; {TABS}"),
        (f"{ROW}\n{ROW}\r{ROW}\n".encode(), f":2: 79 columns in {ROW[:57] + '...'!r}; {TABS}"),
        (f"{ROW}\n{with_field(ROW, chr(9), 0, '')}\n".encode(), ":2, column 'label': ''; expected 0 or 1"),
        (f"{ROW}\n{with_field(ROW, chr(9), 0, '2')}\n".encode(), ":2, column 'label': '2'; expected 0 or 1"),
        (f"{ROW}\n{with_field(ROW, chr(9), 0, '-1')}\n".encode(), ":2, column 'label': '-1'; expected 0 or 1"),
        (f"{ROW}\n{with_field(ROW, chr(9), 1, '1.5')}\n".encode(), f":2, column 'I1': '1.5'; {INTEGER}"),
        (f"{ROW}\n{with_field(ROW, chr(9), 13, 'abc')}\n".encode(), f":2, column 'I13': 'abc'; {INTEGER}"),
        (f"{ROW}\n{with_field(ROW, chr(9), 5, '0x1f')}\n".encode(), f":2, column 'I5': '0x1f'; {INTEGER}"),
        (f"{ROW}\n{with_field(ROW, chr(9), 5, '9' * 19)}\n".encode(), f":2, column 'I5': '{'9' * 19}'; {INTEGER}"),
        (f"{ROW}\n{with_field(ROW, chr(9), 5, 'NULL')}\n".encode(), f":2, column 'I5': 'NULL'; {INTEGER}"),
        (f"{ROW}\n{with_field(ROW, chr(9), 14, '68fd1e6')}\n".encode(), f":2, column 'C1': '68fd1e6'; {HEX}"),
        (f"{ROW}\n{with_field(ROW, chr(9), 39, '68fd1e64a')}\n".encode(), f":2, column 'C26': '68fd1e64a'; {HEX}"),
        (f"{ROW}\n{with_field(ROW, chr(9), 15, '68fd1eg4')}\n".encode(), f":2, column 'C2': '68fd1eg4'; {HEX}"),
        (f"{ROW}\n{with_field(ROW, chr(9), 15, '-8fd1e64')}\n".encode(), f":2, column 'C2': '-8fd1e64'; {HEX}"),
        (f"{ROW}\n{with_field(ROW, chr(9), 15, 'ä' * 4)}\n".encode(), f":2, column 'C2': 'ääää'; {HEX}"),
        (f"{ROW}\n{ROW}\n".encode() + b"\xff\x00", f":3: 1 column in {chr(92) + 'xff' + chr(0)!r}; {TABS}"),
        (f"{HEADER}\n{X1_ROW}\n{X1_ROW},\n".encode(), f":3: 41 columns in {X1_ROW[:57] + '...'!r}; {COMMAS}"),
        (f"{HEADER}\n{with_field(X1_ROW, ',', 0, '0.0')}\n".encode(), ":2, column 'label': '0.0'; expected 0 or 1"),
        (f"{HEADER}\n{with_field(X1_ROW, ',', 3, '')}\n".encode(), f":2, column 'I3': ''; {REAL}"),
        (f"{HEADER}\n{with_field(X1_ROW, ',', 3, 'nan')}\n".encode(), f":2, column 'I3': 'nan'; {REAL}"),
        (f"{HEADER}\n{with_field(X1_ROW, ',', 3, '1e39')}\n".encode(), f":2, column 'I3': '1e39'; {REAL}"),
        (f"{HEADER}\n{with_field(X1_ROW, ',', 14, '')}\n".encode(), f":2, column 'C1': ''; {FEATURE_ID}"),
        (f"{HEADER}\n{with_field(X1_ROW, ',', 14, '-1')}\n".encode(), f":2, column 'C1': '-1'; {FEATURE_ID}"),
        (f"{HEADER}\n{with_field(X1_ROW, ',', 14, '1.0')}\n".encode(), f":2, column 'C1': '1.0'; {FEATURE_ID}"),
        (
            f"{HEADER}\n{with_field(X1_ROW, ',', 14, '4294967296')}\n".encode(),
            f":2, column 'C1': '4294967296'; {FEATURE_ID}",
        ),
        (GZIP[:-12], ":2: the gzip stream is truncated here; expected a complete gzip file"),
        (GZIP[:-8] + bytes(8), ":3: the gzip stream is corrupt here; expected a complete gzip file"),
        (b"\x1f\x8b\x08\x00" + b"\xff" * 20, ":1: the gzip stream is corrupt here; expected a complete gzip file"),
    ],
)
def test_malformed_file_is_refused_with_its_line(tmp_path: Path, content: bytes, message: str):
    path = write(tmp_path, content)
    with pytest.raises(UserError) as error:
        read(path)
    assert str(error.value) == f"{path}{message}"


def test_errors_name_the_line_of_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(criteo_file, "_BLOCK_BYTES", 200)
    lines = numbered(100).splitlines(keepends=True)
    lines[76] = lines[76].replace(b"0000004c", b"000004c")
    path = write(tmp_path, b"".join(lines))
    with pytest.raises(UserError, match=r"train\.txt:77, column 'C1': '000004c'; "):
        read(path)
    long = write(tmp_path, b"".join(lines[:3]) + b"1" * 500, "long.txt")
    with pytest.raises(UserError) as error:
        read(long)
    assert str(error.value) == f"{long}:4: more than 200 bytes on a line; expected one row a line"


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path):
    with pytest.raises(UserError) as error:
        read(tmp_path / "none")
    assert (
        str(error.value) == f"{tmp_path}/none: no such file; expected Criteo click logs, TSV or x1 CSV, plain or gzip"
    )
    with pytest.raises(UserError) as error:
        read(tmp_path)
    assert str(error.value) == f"{tmp_path}: cannot be read: Is a directory"


def test_lines_are_counted_with_their_labels():
    assert positive_lines(numbered(7)).tolist() == [True, False, False, True, False, False, True]
    assert positive_lines(numbered(4).rstrip(b"\n")).tolist() == [True, False, False, True]
    assert count_lines(numbered(4)) == count_lines(numbered(4).rstrip(b"\n")) == 4


def row_numbers(part: Part) -> list[int]:
    """Returns which rows of `numbered` files the part has, by their hashed number."""
    number_of = {int(ids_of(row[None])[0, 0]): i for i, row in enumerate(criteo_file.decode(numbered(64), TSV, SIZES))}
    rows = list(part.rows(SIZES))
    return [number_of[int(row[14])] for row in np.concatenate(rows)] if rows else []


def test_parts_by_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(criteo_file, "_BLOCK_BYTES", 200)
    files = (write(tmp_path, numbered(10), "a"), write(tmp_path, numbered(5), "b"))
    first = Part(files=files, chosen_by="position", high=0.5)
    second = Part(files=files, chosen_by="position", low=0.5)
    assert row_numbers(first) == [0, 1, 2, 3, 4, 5, 6, 7]  # of 15 rows the first half is the larger
    assert row_numbers(second) == [8, 9, 0, 1, 2, 3, 4]
    assert first.counts == (8, 3)
    assert second.counts == (7, 3)


def test_parts_by_position_skip_text_that_is_not_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(criteo_file, "_BLOCK_BYTES", 200)
    path = write(tmp_path, b"unreadable\n" * 30 + numbered(30))
    assert row_numbers(Part(files=(path,), chosen_by="position", low=0.9)) == list(range(24, 30))


def test_a_sum_of_ratios_above_the_cut_takes_no_row_more(tmp_path: Path):
    path = write(tmp_path, numbered(10))
    cut = 0.1 + 0.2
    assert cut > 0.3
    assert row_numbers(Part(files=(path,), chosen_by="position", high=cut)) == [0, 1, 2]


def test_parts_by_hash_are_disjoint_complete_and_seeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(criteo_file, "_BLOCK_BYTES", 200)
    path = write(tmp_path, numbered(64))
    cuts = (0.0, 0.5, 0.75, 1.0)
    parts = [
        row_numbers(Part(files=(path,), chosen_by="hash", low=low, high=high)) for low, high in itertools.pairwise(cuts)
    ]
    assert sorted(itertools.chain.from_iterable(parts)) == list(range(64))
    assert all(part == sorted(part) for part in parts)
    assert 20 <= len(parts[0]) <= 44
    assert row_numbers(Part(files=(path,), chosen_by="hash", high=0.5, seed=1)) != parts[0]
    assert Part(files=(path,), chosen_by="hash", high=0.5).counts == (len(parts[0]), sum(n % 3 == 0 for n in parts[0]))


def test_a_decoded_block_keeps_its_labels(tmp_path: Path):
    rows = decode_block(tmp_path, TSV, 1, numbered(4), SIZES)
    assert labels_of(rows).tolist() == [1, 0, 0, 1]
