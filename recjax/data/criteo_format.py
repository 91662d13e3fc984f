"""The two text formats in which Criteo's click logs are given out: one block of lines in, numbers out.

`TSV`: Criteo's own, of the Kaggle challenge and of the terabyte logs: 40 columns, tab, no header: label, 13 integers,
26 tokens of 8 hexadecimal digits; any but the label may be empty. `X1`: BARS' Criteo_x1, made from the pre-processed
files of AFN: 40 columns, comma, header `label,I1,...,I13,C1,...,C26`; I are real numbers, C non-negative integer
feature ids, nothing is empty.

Sources: ailab.criteo.com (the two logs' descriptions); github.com/reczoo/BARS,
ctr_prediction/datasets/Criteo/Criteo_x1/convert_criteo_x1.py and the DCNv2_criteo_x1 logs (columns and their types).

Shapes: E rows, N = 13 dense features, F = 26 categorical fields.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.csv
from jaxtyping import Float32, Int32, UInt8, UInt32
from numpy.typing import NDArray

from recjax.data.hashing import hash_tokens

N_DENSE = 13
N_SPARSE = 26
N_COLUMNS = 1 + N_DENSE + N_SPARSE
DENSE_NAMES = tuple(f"I{i + 1}" for i in range(N_DENSE))
SPARSE_NAMES = tuple(f"C{i + 1}" for i in range(N_SPARSE))
COLUMN_NAMES = ("label", *DENSE_NAMES, *SPARSE_NAMES)
MISSING_ID = 0  # the bucket of an empty token, in every field

_ARROW_BLOCK_BYTES = 1 << 20  # what one core parses fastest (1.7M rows/s; 0.6M with 32 MiB)
_HEX_DIGITS = b"0123456789abcdefABCDEF"
_DECIMAL = r"-?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+-]?[0-9]{1,2})?"


class UnreadableBlockError(ValueError):
    """A line of the block is not in the format; `find_error` says which and why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """How the lines of a format are told from others and turned into numbers.

    Attributes:
      name: as it stands in protocols.
      delimiter: one character.
      header: the whole first line, or None if there is none.
      dense_transform: what is done to the dense features, as it stands in protocols.
      allowed: every byte that a row may hold.
      patterns: (regular expression, what it stands for) of label, dense and categorical columns.
      arrow_types: of label, dense and categorical columns as Arrow parses them.
      decode_dense: an Arrow column to [E] float32.
      decode_tokens: an Arrow column to [E] uint32 tokens, and a mask of the rows that have one (None: all).
    """

    name: str
    delimiter: str
    header: str | None
    dense_transform: str
    allowed: bytes
    patterns: tuple[tuple[str, str], tuple[str, str], tuple[str, str]]
    arrow_types: tuple[pa.DataType, pa.DataType, pa.DataType]
    decode_dense: Callable[[pa.Array], NDArray]
    decode_tokens: Callable[[pa.Array], tuple[NDArray, NDArray | None]]


def hex_to_uint32(digits: UInt8[np.ndarray, "E 8"]) -> UInt32[np.ndarray, "E"]:
    """Returns the numbers that 8 ASCII hexadecimal digits each stand for.

    All digits of a token are worked on at once, as the bytes of one 64-bit word.

    Raises:
      UnreadableBlockError: a byte is neither digit nor letter.
    """
    words = np.ascontiguousarray(digits).reshape(-1).view("<u8")
    ones = np.uint64(0x0101010101010101)
    # Letters have bit 6, digits bit 4; the other allowed bytes, "-" among them, have neither.
    if ((((words >> np.uint64(6)) | (words >> np.uint64(4))) & ones) != ones).any():
        raise UnreadableBlockError
    nibbles = (words & np.uint64(0x0F0F0F0F0F0F0F0F)) + ((words >> np.uint64(6)) & ones) * np.uint64(9)
    pairs = ((nibbles << np.uint64(4)) + (nibbles >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
    fours = ((pairs << np.uint64(8)) + (pairs >> np.uint64(16))) & np.uint64(0x0000FFFF0000FFFF)
    return ((fours << np.uint64(16)) + (fours >> np.uint64(32))).astype(np.uint32)


def decode(block: bytes, layout: Format, vocab_sizes: Sequence[int]) -> Int32[np.ndarray, "E 40"]:
    """Returns the rows of a block of whole lines, as words of 32 bits that `dense_of` and its likes take apart.

    Raises:
      UnreadableBlockError: some line is not in the format.
    """
    if block.translate(None, layout.allowed):
        raise UnreadableBlockError
    label_type, dense_type, token_type = layout.arrow_types
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(block),
            # Threads made this slower on two cores, and the caller has a thread of its own.
            pyarrow.csv.ReadOptions(use_threads=False, block_size=_ARROW_BLOCK_BYTES, column_names=list(COLUMN_NAMES)),
            pyarrow.csv.ParseOptions(delimiter=layout.delimiter, quote_char=False, ignore_empty_lines=False),
            pyarrow.csv.ConvertOptions(
                check_utf8=False,
                null_values=[""],
                strings_can_be_null=False,
                column_types={
                    "label": label_type,
                    **dict.fromkeys(DENSE_NAMES, dense_type),
                    **dict.fromkeys(SPARSE_NAMES, token_type),
                },
            ),
        )
    except pa.ArrowInvalid as error:
        raise UnreadableBlockError from error
    if len(table) != block.count(b"\n") + (not block.endswith(b"\n")):  # a carriage return inside a line
        raise UnreadableBlockError
    rows = np.empty((len(table), N_COLUMNS), np.int32)
    start = 0
    for batch in table.to_batches():
        _decode_batch(batch, layout, vocab_sizes, rows[start : start + len(batch)])
        start += len(batch)
    return rows


def _decode_batch(batch: pa.RecordBatch, layout: Format, vocab_sizes: Sequence[int], rows: NDArray) -> None:
    """Fills `rows` with the numbers of a batch."""
    real = rows[:, : 1 + N_DENSE].view(np.float32)
    real[:, 0] = _decode_labels(batch.column(0))
    for i in range(1, 1 + N_DENSE):
        real[:, i] = layout.decode_dense(batch.column(i))
    for i in range(1 + N_DENSE, N_COLUMNS):
        tokens, present = layout.decode_tokens(batch.column(i))
        ids = hash_tokens(tokens, vocab_sizes[i - 1 - N_DENSE])
        if present is None:
            rows[:, i] = ids
        else:
            rows[:, i] = MISSING_ID
            rows[present, i] = ids


def labels_of(rows: Int32[np.ndarray, "E 40"]) -> Float32[np.ndarray, "E"]:
    """Returns the labels of decoded rows."""
    return rows[:, 0].view(np.float32)


def dense_of(rows: Int32[np.ndarray, "E 40"]) -> Float32[np.ndarray, "E N"]:
    """Returns the dense features of decoded rows."""
    return rows[:, 1 : 1 + N_DENSE].view(np.float32)


def ids_of(rows: Int32[np.ndarray, "E 40"]) -> Int32[np.ndarray, "E F"]:
    """Returns the hashed ids of decoded rows."""
    return rows[:, 1 + N_DENSE :]


def _decode_labels(column: pa.Array) -> UInt8[np.ndarray, "E"]:
    lengths, text = _texts(column)
    labels = text - ord("0")
    if (lengths != 1).any() or (labels > 1).any():
        raise UnreadableBlockError
    return labels


def _texts(column: pa.Array) -> tuple[NDArray, NDArray]:
    """Returns the length of each text and the bytes of all, one after the other."""
    _, offsets_buffer, data_buffer = column.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32, len(column) + 1, 4 * column.offset)
    size = int(offsets[-1] - offsets[0])
    data = np.frombuffer(data_buffer, np.uint8, size, int(offsets[0])) if size else np.zeros(0, np.uint8)
    return np.diff(offsets), data


def _decode_counts(column: pa.Array) -> NDArray:
    """Returns log(1 + x), and 0 where x is negative or missing, as if nothing had been counted."""
    counts = column.fill_null(0).to_numpy().astype(np.float32)
    return np.log(1 + np.maximum(counts, 0))


def _decode_hex(column: pa.Array) -> tuple[NDArray, NDArray | None]:
    lengths, text = _texts(column)
    present = lengths > 0
    if (lengths[present] != 8).any():
        raise UnreadableBlockError
    return hex_to_uint32(text.reshape(-1, 8)), None if present.all() else present


def _decode_reals(column: pa.Array) -> NDArray:
    values = column.to_numpy(zero_copy_only=False)
    if column.null_count or not np.isfinite(values).all():
        raise UnreadableBlockError
    return values


def _decode_feature_ids(column: pa.Array) -> tuple[NDArray, None]:
    if column.null_count:
        raise UnreadableBlockError
    return column.to_numpy(), None


_LABEL = ("[01]", "0 or 1")
TSV = Format(
    name="tsv",
    delimiter="\t",
    header=None,
    dense_transform="log1p",
    allowed=_HEX_DIGITS + b"-\t\r\n",
    patterns=(
        _LABEL,
        ("(-?[0-9]{1,18})?", "an integer of at most 18 digits, or nothing"),
        ("([0-9a-fA-F]{8})?", "8 hexadecimal digits, or nothing"),
    ),
    arrow_types=(pa.binary(), pa.int64(), pa.binary()),
    decode_dense=_decode_counts,
    decode_tokens=_decode_hex,
)
X1 = Format(
    name="x1",
    delimiter=",",
    header=",".join(COLUMN_NAMES),
    dense_transform="as_given",
    allowed=b"0123456789.eE+-,\r\n",
    patterns=(
        _LABEL,
        (_DECIMAL, "a finite number in the range of float32"),
        ("[0-9]{1,10}", "a feature id from 0 to 4294967295"),
    ),
    arrow_types=(pa.binary(), pa.float32(), pa.uint32()),
    decode_dense=_decode_reals,
    decode_tokens=_decode_feature_ids,
)


def find_error(block: bytes, layout: Format) -> tuple[int, str]:
    """Returns the first line, counted from 0, that is not in the format, and what to say after `path:line`.

    It reads line by line, so it is for a block that `decode` refused.
    """
    rules = [(re.compile(pattern), expected) for pattern, expected in layout.patterns]
    kinds = [rules[0], *[rules[1]] * N_DENSE, *[rules[2]] * N_SPARSE]
    number = 0
    for number, line in enumerate(block.removesuffix(b"\n").split(b"\n")):
        text = line.removesuffix(b"\r").decode(errors="backslashreplace")
        fields = text.split(layout.delimiter)
        if len(fields) != N_COLUMNS:
            plural = "" if len(fields) == 1 else "s"
            named = "tab" if layout.delimiter == "\t" else "comma"
            return number, (
                f": {len(fields)} column{plural} in {shown(text)}; "
                f"expected {N_COLUMNS} with a {named} between: label, I1 to I13, C1 to C26"
            )
        for name, value, (pattern, expected) in zip(COLUMN_NAMES, fields, kinds, strict=True):
            if not pattern.fullmatch(value) or not _in_range(name, value, layout):
                return number, f", column {name!r}: {shown(value)}; expected {expected}"
    # Arrow refused what the patterns take: better a coarse place than none.
    return 0, f": one of the {number + 1} lines from here on cannot be parsed; expected the format {layout.name}"


def _in_range(name: str, value: str, layout: Format) -> bool:
    """Returns whether a number fits the type that it becomes."""
    if layout is TSV or name == "label":
        return True
    if name in DENSE_NAMES:
        return abs(float(value)) <= float(np.finfo(np.float32).max)
    return int(value) < 1 << 32


def shown(text: str) -> str:
    """Returns `text` quoted on one line, shortened if it is long."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
