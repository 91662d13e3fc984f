"""Tables in JSON lines: one object a line, of which named fields become columns; plain or gzip.

Arrow parses the text in blocks and nothing is evaluated. An error names the line, and the field where there is one.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json
from jaxtyping import Integer

from recjax.data.text_column import shown
from recjax.data.typed_column import TypedColumn
from recjax.errors import UserError

BLOCK_BYTES = 1 << 26  # of text, taken at a time; no line may be twice as long

TEXT, NUMBER, INTEGER, TEXTS = pa.string(), pa.float64(), pa.int64(), pa.list_(pa.string())

_SUBBLOCK_BYTES = 1 << 22  # of a block, parsed by one thread
_GZIP_MAGIC = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_ONE_A_LINE = "expected one JSON object a line"
_EXPECTED = {
    TEXT: "a string",
    NUMBER: "a number",
    INTEGER: "an integer of at most 18 digits",
    TEXTS: "a list of strings",
}


def first_object(path: Path) -> dict[str, Any]:
    """Returns the object of the file's first line.

    Raises:
      UserError: the file cannot be read, is empty, or its first line is no JSON object.
    """
    for _, block in _blocks(path):
        return _parse_line(path, 1, block.split(b"\n", 1)[0])
    raise UserError(f"{path}:1: the file is empty; {_ONE_A_LINE}")


def read_json_lines(path: Path, fields: Mapping[str, pa.DataType]) -> Iterator[dict[str, TypedColumn]]:
    """Yields the columns of each block of lines, null where an object lacks the field; other fields are ignored.

    Args:
      path: of the file, UTF-8, plain or gzip (told by its first bytes); blank lines at its end are ignored.
      fields: the type of each field, one of TEXT, NUMBER, INTEGER and TEXTS.

    Raises:
      UserError: the file cannot be read, a line is no JSON object, or a field has another type.
    """
    line = 1
    for first_line, block in _blocks(path):
        table = _parse_block(path, first_line, block, fields)
        line = first_line + len(table)
        yield {name: TypedColumn(path=path, name=name, values=table[name], first_line=first_line) for name in fields}
    if line == 1:
        raise UserError(f"{path}:1: the file is empty; {_ONE_A_LINE}")


def _blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields whole lines, each with its line feed, after the number of the first."""
    line, n_bytes = 1, 0
    parts: list[bytes] = []  # read and not yet handed over
    try:
        with path.open("rb") as plain:
            is_gzip = plain.read(2) == _GZIP_MAGIC
        with gzip.open(path) if is_gzip else path.open("rb") as file:
            # read1 hands over what precedes a defect, which tells the line.
            while part := file.read1(BLOCK_BYTES):
                parts.append(part.removeprefix(_BYTE_ORDER_MARK) if line == 1 and not parts else part)
                n_bytes += len(part)
                if n_bytes < BLOCK_BYTES:
                    continue
                text = b"".join(parts)
                # The last line that is not blank stays here: only what follows tells whether it ends the file.
                end = text.rstrip(b"\r\n").rfind(b"\n") + 1
                if not end:
                    raise UserError(f"{path}:{line}: {BLOCK_BYTES} bytes and more on a line; {_ONE_A_LINE}")
                yield line, text[:end]
                line += text.count(b"\n", 0, end)
                parts, n_bytes = [text[end:]], len(text) - end
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; {_ONE_A_LINE}") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        line += sum(part.count(b"\n") for part in parts)
        reason = "truncated" if isinstance(error, EOFError) else "corrupt"
        raise UserError(f"{path}:{line}: the gzip stream is {reason} here; expected a complete gzip file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if text := b"".join(parts).rstrip(b"\r\n"):
        yield line, text + b"\n"


def _parse_block(path: Path, first_line: int, block: bytes, fields: Mapping[str, pa.DataType]) -> pa.Table:
    try:
        block.decode()
    except UnicodeDecodeError as error:
        line = first_line + block.count(b"\n", 0, error.start)
        raise UserError(f"{path}:{line}: byte 0x{block[error.start]:02x} is not UTF-8; {_ONE_A_LINE}") from error
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + 1
    table = _parse(block, ends, fields)
    if isinstance(table, pa.Table):
        return table
    good, bad = 0, len(ends)  # the first `good` lines can be parsed, the first `bad` cannot
    while bad - good > 1:
        middle = (good + bad) // 2
        prefix = _parse(block[: ends[middle - 1]], ends[:middle], fields)
        good, bad = (middle, bad) if isinstance(prefix, pa.Table) else (good, middle)
        table = table if isinstance(prefix, pa.Table) else prefix
    start = ends[good - 1] if good else 0
    raise _line_error(path, first_line + good, block[start : ends[good] - 1], fields, table)


def _parse(block: bytes, ends: Integer[np.ndarray, "E"], fields: Mapping[str, pa.DataType]) -> pa.Table | str:
    """Returns the table of the lines that end at `ends`, or why there is none with one row a line."""
    starts = np.insert(ends[:-1], 0, 0)
    if (np.frombuffer(block, np.uint8)[starts] != ord("{")).any():
        return "a line does not begin with '{'"
    options = pyarrow.json.ParseOptions(
        explicit_schema=pa.schema(list(fields.items())), unexpected_field_behavior="ignore"
    )
    longest = int((ends - starts).max())
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(block), pyarrow.json.ReadOptions(block_size=max(_SUBBLOCK_BYTES, 2 * longest)), options
        )
    except pa.ArrowInvalid as error:
        return str(error).splitlines()[0]
    return table if len(table) == len(ends) else "an object does not end where its line ends"


def _line_error(path: Path, line: int, text: bytes, fields: Mapping[str, pa.DataType], reason: str) -> UserError:
    """Returns the error of one line that could not be parsed for `reason`, which says it worse than the line does."""
    values = _parse_line(path, line, text)
    for name, of in fields.items():
        if (value := values.get(name)) is not None and not _fits(value, of):
            seen = shown(value) if isinstance(value, str) else shown(json.dumps(value))[1:-1]
            return UserError(f"{path}:{line}, column {name!r}: {seen}; expected {_EXPECTED[of]}")
    told = re.sub(r"^JSON parse error: |\.? in row [0-9]+$", "", reason)  # Arrow counts rows from the block's start
    return UserError(f"{path}:{line}: {told}; {_ONE_A_LINE}")


def _parse_line(path: Path, line: int, text: bytes) -> dict[str, Any]:
    content = text.decode(errors="replace").strip()
    if not content:
        raise UserError(f"{path}:{line}: a blank line; {_ONE_A_LINE}")
    if content.startswith("{'"):
        raise UserError(
            f"{path}:{line}: a Python dict in single quotes, as in Amazon's files of 2014, which would have to be "
            "evaluated; expected JSON, as in the files of 2018 and 2023"
        )
    try:
        values = json.loads(content, object_pairs_hook=lambda pairs: _object(path, line, pairs))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{line}: no JSON: {error.msg} (character {error.colno}); {_ONE_A_LINE}") from error
    except RecursionError as error:
        raise UserError(f"{path}:{line}: lists or objects are nested too deep; {_ONE_A_LINE}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}:{line}: {shown(content)} is no object; {_ONE_A_LINE}")
    return values


def _object(path: Path, line: int, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path}:{line}: an object has the field {twice!r} twice; expected once")
    return values


def _fits(value: Any, of: pa.DataType) -> bool:
    if of == TEXT:
        return isinstance(value, str)
    if of == TEXTS:
        return isinstance(value, list) and all(isinstance(text, str) for text in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return of == NUMBER or (isinstance(value, int) and abs(value) < 10**18)
