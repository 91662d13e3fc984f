"""Interactions from delimited text: one `user,item,rating[,timestamp]` row a line, with or without a header."""

import codecs
import csv
import dataclasses
import gzip
import io
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from jaxtyping import Float32, Int32, Int64
from numpy.typing import NDArray

from recjax.data.interactions import Interactions, encode_ids
from recjax.errors import UserError, unknown_name

Duplicates = Literal["keep_last", "keep_first", "error"]

_GZIP_MAGIC = b"\x1f\x8b"
_BLOCK_BYTES = 1 << 24  # of text, taken at a time; no line may be longer
_DELIMITERS = ",\t;"
_HEADER_NAMES = {
    "user": ("user", "userid", "user_id"),
    "item": ("item", "itemid", "item_id", "movieid"),
    "rating": ("rating",),
    "timestamp": ("timestamp",),
}
_LAYOUT = "user, item, rating[, timestamp]"
# Eighteen digits always fit int64. A leading zero would be lost as a number: 007 and 7 are two ids.
_ID = "non-negative integer id of at most 18 digits without leading zeros"
_INTEGER_ID = "^(0|[1-9][0-9]{0,17})$"
_NEGATIVE_ID = "^-[0-9]{1,18}$"
_TIMESTAMP = "^[0-9]{1,18}$"
# Bounded lengths keep the value inside float64; the float32 it becomes is checked after.
_NUMBER = r"^[+-]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+-]?[0-9]{1,2})?$"


def read_delimited(
    path: str | Path, *, duplicates: Duplicates = "keep_last", require_integer_ids: bool = False
) -> Interactions:
    """Returns the interactions of a text file, sorted by user, then timestamp, then item.

    The file is UTF-8, plain or gzip (told by its first bytes), delimited by comma, tab or semicolon, one row a
    line; blank lines at the end are ignored. Columns are user, item, rating and, optionally, timestamp in this
    order, unless a header names them. The first line is a header if its third field is not a number; it may say
    user, userId or user_id, item, itemId, item_id or movieId, rating, timestamp, in any order and case, with
    RecBole's `:type` suffixes, and columns of other names are ignored. Without timestamps, rows are sorted by user
    and then stand in file order.

    The ids of a column are int64 if all are non-negative integers, and strings otherwise.

    Args:
      path: of the file; its stem (of `x.csv.gz`: `x`) becomes the name of the data set.
      duplicates: what is done where a (user, item) pair stands twice: `keep_last` keeps its row with the latest
        timestamp, `keep_first` the one with the earliest; equal or absent timestamps are decided by file order.
        `error` refuses the file.
      require_integer_ids: refuse ids that are not non-negative integers.

    Raises:
      UserError: the file cannot be used; one line that begins with path, line and, where there is one, column.
    """
    if duplicates not in get_args(Duplicates):
        raise unknown_name("duplicates policy", duplicates, get_args(Duplicates))
    path = Path(path)
    data = _read_bytes(path)
    layout = _detect_layout(path, data)
    columns = _read_columns(path, data, layout)

    user, user_ids = _parse_ids(columns["user"], require_integer_ids)
    item, item_ids = _parse_ids(columns["item"], require_integer_ids)
    interactions = Interactions(
        name=Path(path.name.removesuffix(".gz")).stem,
        user=user,
        item=item,
        rating=_parse_ratings(columns["rating"]),
        timestamp=_parse_timestamps(columns["timestamp"]) if "timestamp" in columns else None,
        user_ids=user_ids,
        item_ids=item_ids,
    )
    if duplicates == "error":
        _reject_duplicates(interactions, columns["user"])
    else:
        interactions = interactions.select(_rows_without_duplicates(interactions, duplicates))
    if interactions.timestamp is None:
        return interactions.select(np.argsort(interactions.user, kind="stable"))
    return interactions.select(np.lexsort((interactions.item, interactions.timestamp, interactions.user)))


def _read_bytes(path: Path) -> bytes:
    """Returns the decompressed UTF-8 text of the file, without byte order mark and blank lines at the end."""
    if path.is_dir():
        raise UserError(f"{path}: is a directory; expected a text file of {_LAYOUT}")
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected a text file of {_LAYOUT}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if data.startswith(_GZIP_MAGIC):
        data = _decompress(path, data)
    data = data.removeprefix(codecs.BOM_UTF8).rstrip(b"\r\n")
    if not data:
        raise UserError(f"{path}:1: the file is empty; expected lines of {_LAYOUT}")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from error
    return data


def _decompress(path: Path, data: bytes) -> bytes:
    blocks: list[bytes] = []
    try:
        with gzip.open(io.BytesIO(data)) as stream:
            # read1 hands over what precedes a defect, which tells the line.
            while block := stream.read1(_BLOCK_BYTES):
                blocks.append(block)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        line = sum(block.count(b"\n") for block in blocks) + 1
        reason = "truncated" if isinstance(error, EOFError) else "corrupt"
        raise UserError(f"{path}:{line}: the gzip stream is {reason} here; expected a complete gzip file") from error
    return b"".join(blocks)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Layout:
    """How the lines of one file are to be read.

    Attributes:
      delimiter: one character.
      n_columns: fields of every line.
      position: of the user, item, rating and, where there is one, timestamp column; from 0.
      names: of all columns, as errors show them.
      has_header: the first line is no data.
    """

    delimiter: str
    n_columns: int
    position: Mapping[str, int]
    names: list[str]
    has_header: bool


def _detect_layout(path: Path, data: bytes) -> _Layout:
    line = io.BytesIO(data).readline().decode().rstrip("\r\n")
    delimiter = max(_DELIMITERS, key=line.count)
    if delimiter not in line:
        raise UserError(f"{path}:1: no comma, tab or semicolon in {_shown(line)}; expected {_LAYOUT}")
    try:
        fields = [field.strip() for field in next(csv.reader([line], delimiter=delimiter))]
    except csv.Error as error:
        raise _not_one_row_per_line(path, 1) from error
    if len(fields) < 3:
        raise UserError(f"{path}:1: {len(fields)} columns in {_shown(line)}; expected {_LAYOUT}")
    has_header = not _is_number(fields[2])
    if has_header:
        position = _find_columns(path, fields)
        if b"\n" not in data:
            raise UserError(f"{path}:1: no row follows the header; expected lines of {_LAYOUT}")
    elif len(fields) > len(_HEADER_NAMES):
        raise UserError(
            f"{path}:1: {len(fields)} columns and no header; expected {_LAYOUT}, or a header that names them"
        )
    else:
        position = dict(zip(_HEADER_NAMES, range(len(fields)), strict=False))
    return _Layout(
        delimiter=delimiter,
        n_columns=len(fields),
        position=position,
        names=fields if has_header else list(position),
        has_header=has_header,
    )


def _find_columns(path: Path, fields: list[str]) -> dict[str, int]:
    """Returns where each column stands in the header `fields`."""
    plain = [field.split(":")[0].strip().lower() for field in fields]
    position = {}
    for column, names in _HEADER_NAMES.items():
        found = [i for i, field in enumerate(plain) if field in names]
        if len(found) > 1:
            raise UserError(
                f"{path}:1: the header names the {column} column {len(found)} times, as "
                f"{' and '.join(_shown(fields[i]) for i in found)}; expected once"
            )
        if found:
            position[column] = found[0]
        elif column != "timestamp":
            raise UserError(
                f"{path}:1: no {column} column in the header {_shown(', '.join(fields))}; "
                f"expected {_LAYOUT}, or a number as third field if there is no header"
            )
    return position


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Column:
    """One text column as codes into its values, so that a value that repeats is checked and parsed once.

    Attributes:
      path: of the file.
      name: of the column, as errors show it.
      first_line: number of the first row's line, from 1.
      values: [V] strings, in order of first appearance, without surrounding blanks.
      codes: [E] index into `values`.
    """

    path: Path
    name: str
    first_line: int
    values: pa.StringArray
    codes: Int32[np.ndarray, "E"]

    def check(self, valid: pa.BooleanArray, expected: str) -> None:
        """Raises UserError at the first row whose value is not `valid`."""
        bad = valid.index(False).as_py()
        if bad >= 0:
            line = self.first_line + int(np.argmax(self.codes == bad))
            value = self.values[bad].as_py()
            raise UserError(f"{self.path}:{line}, column {self.name!r}: {_shown(value)}; expected {expected}")


def _read_columns(path: Path, data: bytes, layout: _Layout) -> dict[str, _Column]:
    names = [str(i) for i in range(layout.n_columns)]
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
                use_threads=False, block_size=_BLOCK_BYTES, skip_rows=int(layout.has_header), column_names=names
            ),
            pyarrow.csv.ParseOptions(delimiter=layout.delimiter, ignore_empty_lines=False, invalid_row_handler=stop_at),
            pyarrow.csv.ConvertOptions(
                check_utf8=False, include_columns=list(wanted.values()), column_types=dict.fromkeys(names, pa.string())
            ),
        )
    except pa.ArrowInvalid as error:
        _check_one_row_per_line(path, data, layout.delimiter)
        if not invalid_rows:
            length, line = max((len(text), line) for line, text in enumerate(io.BytesIO(data), 1))
            raise UserError(f"{path}:{line}: {length} bytes on a line; expected at most {_BLOCK_BYTES}") from error
        row = invalid_rows[0]
        plural = "" if row.actual_columns == 1 else "s"
        raise UserError(
            f"{path}:{row.number}: {row.actual_columns} column{plural} in {_shown(row.text)}; "
            f"expected {row.expected_columns}, as on line 1"
        ) from error
    # Line numbers are row numbers only while no quoted value spans lines.
    if len(table) + layout.has_header != data.count(b"\n") + 1:
        _check_one_row_per_line(path, data, layout.delimiter)
        raise UserError(f"{path}:1: rows do not end with a line feed; expected \\n or \\r\\n after each row")

    columns = {}
    for column, name in wanted.items():
        if column == "timestamp":  # it seldom repeats: finding its distinct values would take half of the whole time
            values, codes = table[name].combine_chunks(), np.arange(len(table), dtype=np.int32)
        else:
            encoded = cast(pa.DictionaryArray, table[name].dictionary_encode().combine_chunks())
            values, codes = encoded.dictionary, encoded.indices.to_numpy()
        columns[column] = _Column(
            path=path,
            name=layout.names[layout.position[column]],
            first_line=1 + layout.has_header,
            values=cast(pa.StringArray, pc.utf8_trim_whitespace(values)),
            codes=codes,
        )
    return columns


def _check_one_row_per_line(path: Path, data: bytes, delimiter: str) -> None:
    """Raises UserError at the first row that does not end where its line ends."""
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(data), "utf-8", newline="\n"), delimiter=delimiter)
    n_rows = 0
    try:
        for _ in reader:
            n_rows += 1
            if reader.line_num != n_rows:
                raise _not_one_row_per_line(path, n_rows)
    except csv.Error as error:
        raise _not_one_row_per_line(path, n_rows + 1) from error


def _not_one_row_per_line(path: Path, line: int) -> UserError:
    return UserError(
        f"{path}:{line}: a quote is not closed, or a carriage return stands inside the line; expected one row a line"
    )


def _parse_ids(column: _Column, require_integer_ids: bool) -> tuple[Int32[np.ndarray, "E"], NDArray]:
    """Returns codes and table of the ids; the table is int64 or, where that loses something, strings."""
    column.check(pc.not_equal(column.values, pa.scalar("")), "an id")
    is_integer = pc.match_substring_regex(column.values, _INTEGER_ID)
    is_negative = pc.match_substring_regex(column.values, _NEGATIVE_ID)
    if require_integer_ids:
        column.check(is_integer, f"a {_ID}")
    elif pc.all(pc.or_(is_integer, is_negative)).as_py():
        column.check(is_integer, f"a {_ID} (-1 often means a missing id; drop such rows)")
    all_integers = pc.all(is_integer).as_py()
    values = column.values.cast(pa.int64()) if all_integers else column.values
    codes, table = encode_ids(values.to_numpy(zero_copy_only=False))
    return codes[column.codes], table


def _parse_ratings(column: _Column) -> Float32[np.ndarray, "E"]:
    expected = "a finite number"
    column.check(pc.match_substring_regex(column.values, _NUMBER), expected)
    wide = column.values.cast(pa.float64()).to_numpy()
    column.check(pa.array(np.abs(wide) <= np.finfo(np.float32).max), f"{expected} in the range of float32")
    return wide.astype(np.float32)[column.codes]


def _parse_timestamps(column: _Column) -> Int64[np.ndarray, "E"]:
    column.check(pc.match_substring_regex(column.values, _TIMESTAMP), "non-negative integer Unix seconds")
    return column.values.cast(pa.int64()).to_numpy()[column.codes]


def _pairs(interactions: Interactions) -> Int64[np.ndarray, "E"]:
    """Returns one number for each (user, item)."""
    return interactions.user.astype(np.int64) * interactions.n_items + interactions.item


def _rows_without_duplicates(interactions: Interactions, duplicates: Duplicates) -> Int64[np.ndarray, "K"]:
    """Returns the one row to keep of every (user, item) pair, in file order."""
    pairs = _pairs(interactions)
    # Both sorts are stable: file order decides among equal timestamps.
    if interactions.timestamp is None:
        order = np.argsort(pairs, kind="stable")
    else:
        order = np.lexsort((interactions.timestamp, pairs))
    changes = np.diff(pairs[order]) != 0
    keep = np.append(changes, True) if duplicates == "keep_last" else np.insert(changes, 0, True)
    return np.sort(order[keep])


def _reject_duplicates(interactions: Interactions, column: _Column) -> None:
    """Raises UserError at the first row whose (user, item) pair stood on an earlier line."""
    pairs = _pairs(interactions)
    order = np.argsort(pairs, kind="stable")
    repeats = np.flatnonzero(np.diff(pairs[order]) == 0)
    if not repeats.size:
        return
    first = repeats[np.argmin(order[repeats + 1])]
    earlier, later = order[first], order[first + 1]
    user = _shown(str(interactions.user_ids[interactions.user[later]]))
    item = _shown(str(interactions.item_ids[interactions.item[later]]))
    raise UserError(
        f"{column.path}:{column.first_line + later}: user {user} and item {item} stand already on line "
        f"{column.first_line + earlier}; expected each pair once, or duplicates='keep_last' or 'keep_first'"
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _shown(text: str) -> str:
    """Returns `text` quoted on one line, shortened if it is long."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
