"""Tables in text files: bytes, encoding, lines and columns, read the same strict way for every data set.

A file is plain or gzip (told by its first bytes). A line is a row and ends with a line feed or a carriage return and
a line feed; blank lines at the end are ignored. Whatever does not fit is a UserError of one line that begins with
the path, the line and, where there is one, the column.
"""

import codecs
import csv
import dataclasses
import gzip
import io
import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.csv

from recjax.data.text_column import TextColumn, shown
from recjax.errors import UserError

Encoding = Literal["utf-8", "latin-1"]
BLOCK_BYTES = 1 << 24  # of text, taken at a time; no line may be longer
BLANKS = None  # the delimiter of fields that any number of blanks and tabs separate, as `str.split` has it

_GZIP_MAGIC = b"\x1f\x8b"
_UNIT_SEPARATOR = "\x1f"  # stands in for a delimiter of several characters
_LATIN_1_CONTROLS = re.compile(rb"[\x80-\x9f]")


def read_table(
    path: str | Path,
    columns: Sequence[str],
    *,
    delimiter: str | None = ",",
    header: bool = True,
    after_header: Sequence[Sequence[str]] = (),
    optional: Collection[str] = (),
    encoding: Encoding = "utf-8",
    quoting: bool | None = None,
) -> dict[str, TextColumn]:
    """Returns the columns of a text file by name.

    Args:
      path: of the file.
      columns: that are wanted, as the header names them; without a header, all columns of the file in their order.
      delimiter: one or more characters, such as `::`, or BLANKS.
      header: the first line names the columns, in any order; others than those of `columns` are ignored, and so is
        a suffix `:type` of a name, as RecBole writes it.
      after_header: what each line between the header and the rows may be; they are checked and ignored.
      optional: columns that the header need not name; then they are absent from the result too.
      encoding: of the file.
      quoting: a field may stand in double quotes, as in CSV; None: if the delimiter is a comma.

    Raises:
      UserError: the file cannot be used.
    """
    path = Path(path)
    data = read_text(path, ", ".join(columns), encoding)
    quoting = delimiter == "," if quoting is None else quoting
    if not header:
        layout = Layout(delimiter=delimiter, names=columns, position=_enumerated(columns), quoting=quoting)
        return read_columns(path, data, layout)
    lines = data.split(b"\n", 1 + len(after_header))
    fields = _split_line(path, lines[0].decode().rstrip("\r"), delimiter, quoting)
    position = _find_columns(path, fields, columns, optional)
    for number, (line, allowed) in enumerate(zip(lines[1:], after_header, strict=False), 2):
        text = line.decode().rstrip("\r")
        if text not in allowed:
            raise UserError(f"{path}:{number}: {shown(text)}; expected {' or '.join(map(repr, allowed))}")
    if len(lines) < 2 + len(after_header):
        raise no_rows(path, ", ".join(columns))
    return read_columns(
        path,
        data,
        Layout(
            delimiter=delimiter,
            names=fields,
            position=position,
            header_lines=1 + len(after_header),
            quoting=quoting,
        ),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How the lines of one file are to be read.

    Attributes:
      delimiter: one or more characters, or BLANKS.
      names: of all columns of the file, as errors show them.
      position: of each wanted column, from 0.
      header_lines: at the top of the file that are no rows.
      quoting: a field may stand in double quotes.
      first_line_counts: the first line tells how many fields a row has, and errors say so.
    """

    delimiter: str | None
    names: Sequence[str]
    position: Mapping[str, int]
    header_lines: int = 0
    quoting: bool = True
    first_line_counts: bool = False


def read_text(path: Path, expected: str, encoding: Encoding = "utf-8") -> bytes:
    """Returns the decompressed text of the file as UTF-8, without byte order mark and blank lines at the end.

    Args:
      path: of the file.
      expected: the columns of a line, for errors.
      encoding: of the file.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a directory; expected a text file of {expected}")
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected a text file of {expected}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if data.startswith(_GZIP_MAGIC):
        data = _decompress(path, data)
    data = data.removeprefix(codecs.BOM_UTF8).rstrip(b"\r\n")
    if not data.strip():
        raise UserError(f"{path}:1: the file is empty; expected lines of {expected}")
    if encoding == "utf-8":
        try:
            data.decode()
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise UserError(
                f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
            ) from error
    if (zero := data.find(0)) >= 0:
        line = data.count(b"\n", 0, zero) + 1
        raise UserError(f"{path}:{line}: byte 0x00 in the text, of a damaged file or one in UTF-16; save it as UTF-8")
    return _latin_1_to_utf_8(path, data) if encoding == "latin-1" else data


def _decompress(path: Path, data: bytes) -> bytes:
    blocks: list[bytes] = []
    try:
        with gzip.open(io.BytesIO(data)) as stream:
            # read1 hands over what precedes a defect, which tells the line.
            while block := stream.read1(BLOCK_BYTES):
                blocks.append(block)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        line = sum(block.count(b"\n") for block in blocks) + 1
        reason = "truncated" if isinstance(error, EOFError) else "corrupt"
        raise UserError(f"{path}:{line}: the gzip stream is {reason} here; expected a complete gzip file") from error
    return b"".join(blocks)


def _latin_1_to_utf_8(path: Path, data: bytes) -> bytes:
    if data.isascii():
        return data
    # Every byte is a Latin-1 character; that these are control characters tells another encoding.
    if control := _LATIN_1_CONTROLS.search(data):
        line = data.count(b"\n", 0, control.start()) + 1
        raise UserError(f"{path}:{line}: byte 0x{control[0][0]:02x} is no Latin-1 text; expected the file as published")
    return data.decode("latin-1").encode()


def no_rows(path: Path, expected: str) -> UserError:
    """Returns the error that a file ends with its header."""
    return UserError(f"{path}:1: no row follows the header; expected lines of {expected}")


def _enumerated(columns: Sequence[str]) -> dict[str, int]:
    return {column: i for i, column in enumerate(columns)}


def _split_line(path: Path, line: str, delimiter: str | None, quoting: bool) -> list[str]:
    """Returns the fields of the header, without surrounding blanks."""
    if not quoting:
        return [field.strip() for field in line.split(delimiter)]
    try:
        return [field.strip() for field in next(csv.reader([line], delimiter=delimiter or " "))]
    except csv.Error as error:
        raise not_one_row_per_line(path, 1) from error


def _find_columns(
    path: Path, fields: Sequence[str], columns: Sequence[str], optional: Collection[str]
) -> dict[str, int]:
    plain = [field.split(":")[0].strip() for field in fields]
    position = {}
    for column in columns:
        if plain.count(column) > 1:
            raise UserError(
                f"{path}:1: the header {shown(', '.join(plain))} names column {column!r} {plain.count(column)} times; "
                "expected once"
            )
        if column in plain:
            position[column] = plain.index(column)
        elif column not in optional:
            raise UserError(
                f"{path}:1: no column {column!r} in the header {shown(', '.join(plain))}; expected {', '.join(columns)}"
            )
    return position


def read_columns(path: Path, data: bytes, layout: Layout, *, block_bytes: int = BLOCK_BYTES) -> dict[str, TextColumn]:
    """Returns the wanted columns of the table in `data`, which `read_text` returned; no line exceeds `block_bytes`."""
    separator, data = _one_character_delimiter(path, data, layout.delimiter)
    names = [str(i) for i in range(len(layout.names))]
    wanted = {column: names[i] for column, i in layout.position.items()}
    invalid_rows: list[pyarrow.csv.InvalidRow] = []

    def stop_at(row: pyarrow.csv.InvalidRow) -> Literal["error"]:
        invalid_rows.append(row)
        return "error"

    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data),
            # Only one thread numbers the invalid rows.
            pyarrow.csv.ReadOptions(
                use_threads=False, block_size=block_bytes, skip_rows=layout.header_lines, column_names=names
            ),
            pyarrow.csv.ParseOptions(
                delimiter=separator,
                quote_char='"' if layout.quoting else False,
                ignore_empty_lines=False,
                invalid_row_handler=stop_at,
            ),
            pyarrow.csv.ConvertOptions(
                check_utf8=False, include_columns=list(wanted.values()), column_types=dict.fromkeys(names, pa.string())
            ),
        )
    except pa.ArrowInvalid as error:
        _check_one_row_per_line(path, data, separator, layout.quoting)
        if not invalid_rows:
            length, line = max((len(text), line) for line, text in enumerate(io.BytesIO(data), 1))
            raise UserError(f"{path}:{line}: {length} bytes on a line; expected at most {block_bytes}") from error
        raise _wrong_width(path, invalid_rows[0], layout) from error
    # Line numbers are row numbers only while no quoted value spans lines.
    if len(table) + layout.header_lines != data.count(b"\n") + 1:
        _check_one_row_per_line(path, data, separator, layout.quoting)
        raise UserError(f"{path}:1: rows do not end with a line feed; expected \\n or \\r\\n after each row")
    return {
        column: TextColumn(
            path=path,
            name=layout.names[layout.position[column]],
            first_line=1 + layout.header_lines,
            text=table[name],
        )
        for column, name in wanted.items()
    }


def _one_character_delimiter(path: Path, data: bytes, delimiter: str | None) -> tuple[str, bytes]:
    """Returns a delimiter of one character, which pyarrow needs, and the text with it."""
    if delimiter is BLANKS:
        single = re.sub(rb"[ \t]+", b" ", data)
        return " ", re.sub(rb" ?\r?\n ?", b"\n", single).strip(b" ")
    if len(delimiter) == 1:
        return delimiter, data
    before, found, _ = data.partition(_UNIT_SEPARATOR.encode())
    if found:
        line = before.count(b"\n") + 1
        raise UserError(f"{path}:{line}: byte 0x1f in the text; expected the file as published")
    return _UNIT_SEPARATOR, data.replace(delimiter.encode(), _UNIT_SEPARATOR.encode())


def _wrong_width(path: Path, row: pyarrow.csv.InvalidRow, layout: Layout) -> UserError:
    plural = "" if row.actual_columns == 1 else "s"
    text = row.text.replace(_UNIT_SEPARATOR, layout.delimiter or " ")
    names = ", as on line 1" if layout.header_lines or layout.first_line_counts else f": {', '.join(layout.names)}"
    return UserError(
        f"{path}:{row.number}: {row.actual_columns} column{plural} in {shown(text)}; "
        f"expected {row.expected_columns}{names}"
    )


def _check_one_row_per_line(path: Path, data: bytes, delimiter: str, quoting: bool) -> None:
    """Raises UserError at the first row that does not end where its line ends."""
    lines = io.TextIOWrapper(io.BytesIO(data), "utf-8", newline="\n")
    reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE)
    n_rows = 0
    try:
        for _ in reader:
            n_rows += 1
            if reader.line_num != n_rows:
                raise not_one_row_per_line(path, n_rows)
    except csv.Error as error:
        raise not_one_row_per_line(path, n_rows + 1) from error


def not_one_row_per_line(path: Path, line: int) -> UserError:
    """Returns the error that a row does not end where its line ends."""
    return UserError(
        f"{path}:{line}: a quote is not closed, or a carriage return stands inside the line; expected one row a line"
    )
