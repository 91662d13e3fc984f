"""Criteo's click logs from files larger than memory: blocks of whole lines in, decoded rows out.

Shapes: E rows.
"""

import dataclasses
import functools
import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int32, Int64

from recjax.data.criteo_format import TSV, X1, Format, UnreadableBlockError, decode, find_error, shown
from recjax.data.hashing import unit_hash
from recjax.errors import UserError

_BLOCK_BYTES = 1 << 24  # of text, taken at a time; no line may be longer
_GZIP_BLOCK_BYTES = 1 << 22  # of decompressed text
_GZIP_MAGIC = b"\x1f\x8b"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Some rows of some files, which are read one after the other.

    Attributes:
      files: plain or gzip, each in one of the formats of `criteo_format`.
      chosen_by: "all" rows, or those whose "position" among all, or "hash" of their row number, falls in
        [low, high) of the unit interval.
      low: see above.
      high: see above.
      seed: of the hash.
    """

    files: tuple[Path, ...]
    chosen_by: Literal["all", "position", "hash"] = "all"
    low: float = 0.0
    high: float = 1.0
    seed: int = 0

    @functools.cached_property
    def _positions(self) -> tuple[int, int]:
        """Returns the first row chosen by position and the one after the last; counts the files' rows once."""
        n_rows = sum(count_lines(block) for file in self.files for _, block in read_blocks(file, detect_format(file)))
        # 0.8 + 0.1 may be a hair above 0.9: rounded before the next whole row is taken.
        return math.ceil(round(self.low * n_rows, 6)), math.ceil(round(self.high * n_rows, 6))

    def choose(self, row_numbers: Int64[np.ndarray, "E"]) -> Bool[np.ndarray, "E"]:
        """Returns which rows, numbered from 0 over all files, belong to the part."""
        if self.chosen_by == "all":
            return np.ones(len(row_numbers), bool)
        if self.chosen_by == "position":
            first, stop = self._positions
            return (row_numbers >= first) & (row_numbers < stop)
        fractions = unit_hash(row_numbers, self.seed)
        return (fractions >= self.low) & (fractions < self.high)

    @functools.cached_property
    def counts(self) -> tuple[int, int]:
        """Returns the numbers of rows and of positive labels; the first call reads the files through."""
        n_rows = n_positive = start = 0
        for file in self.files:
            for _, block in read_blocks(file, detect_format(file)):
                positive = positive_lines(block)
                chosen = self.choose(np.arange(start, start + len(positive)))
                n_rows += int(chosen.sum())
                n_positive += int(positive[chosen].sum())
                start += len(positive)
        return n_rows, n_positive

    def rows(self, vocab_sizes: Sequence[int]) -> Iterator[Int32[np.ndarray, "E 40"]]:
        """Yields the part's decoded rows in order, in blocks of at most 16 MiB of text.

        Raises:
          UserError: a file is not there, or a line not in the format.
        """
        start = 0
        for file in self.files:
            layout = detect_format(file)
            for line, block in read_blocks(file, layout):
                n = count_lines(block)
                chosen = self.choose(np.arange(start, start + n))
                start += n
                if chosen.any():  # what a part by position skips is not parsed
                    rows = decode_block(file, layout, line, block, vocab_sizes)
                    yield rows if chosen.all() else rows[chosen]
                if self.chosen_by == "position" and start >= self._positions[1]:
                    return


def read_blocks(path: Path, layout: Format) -> Iterator[tuple[int, bytes]]:
    """Yields blocks of whole lines without the header, each with the number of its first line, from 1.

    Raises:
      UserError: the file is not there, is empty, or its compression is defective.
    """
    line, rest, header = 1, b"", layout.header is not None
    for chunk in _chunks(path):
        text = rest + chunk
        cut = text.rfind(b"\n") + 1
        block, rest = text[:cut], text[cut:]
        if len(rest) > _BLOCK_BYTES:
            number = line + block.count(b"\n")
            raise UserError(f"{path}:{number}: more than {_BLOCK_BYTES} bytes on a line; expected one row a line")
        if header and block:
            block, header, line = block[block.index(b"\n") + 1 :], False, 2
        if block:
            yield line, block
            line += block.count(b"\n")
    if rest and not header:
        yield line, rest
    elif line == 1 + (layout.header is not None) or header:
        what = "no row follows the header" if layout.header else "the file is empty"
        raise UserError(f"{path}:1: {what}; expected rows of label, I1 to I13, C1 to C26")


def decode_block(
    path: Path, layout: Format, line: int, block: bytes, vocab_sizes: Sequence[int]
) -> Int32[np.ndarray, "E 40"]:
    """Returns the rows of a block whose first line is number `line` of the file, from 1.

    Raises:
      UserError: a line is not in the format.
    """
    try:
        return decode(block, layout, vocab_sizes)
    except UnreadableBlockError as error:
        within, message = find_error(block, layout)
        raise UserError(f"{path}:{line + within}{message}") from error


def count_lines(block: bytes) -> int:
    """Returns how many lines a block of whole lines has; a file's last one may lack its end."""
    return block.count(b"\n") + (not block.endswith(b"\n"))


def positive_lines(block: bytes) -> Bool[np.ndarray, "E"]:
    """Returns which lines begin with a 1, the positive label; nothing else of them is looked at."""
    text = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    starts = np.concatenate([[0], ends[: count_lines(block) - 1] + 1])
    return text[starts] == ord("1")


def detect_format(path: Path) -> Format:
    """Returns the format of a file by its first line: a header makes it X1.

    Raises:
      UserError: the header is not X1's, or the file cannot be read.
    """
    line = next(_chunks(path), b"")[:65_536].split(b"\n")[0].rstrip(b"\r").decode(errors="backslashreplace")
    if "label" not in line.lower():
        return TSV
    if line != X1.header:
        raise UserError(
            f"{path}:1: {shown(line)} is not a header that is known; expected 'label,I1,...,I13,C1,...,C26' with "
            "commas, or no header and tabs"
        )
    return X1


def _chunks(path: Path) -> Iterator[bytes]:
    """Yields the decompressed bytes of the file, at most _BLOCK_BYTES at a time."""
    n_lines = 0
    try:
        with path.open("rb") as raw:
            if raw.peek(2)[:2] != _GZIP_MAGIC:
                while chunk := raw.read(_BLOCK_BYTES):
                    yield chunk
                return
            with gzip.open(raw) as stream:
                # read1 hands over what precedes a defect, which tells the line; its pieces are small.
                text = bytearray()
                while piece := stream.read1(_BLOCK_BYTES):
                    n_lines += piece.count(b"\n")
                    text += piece
                    if len(text) >= _GZIP_BLOCK_BYTES:
                        yield bytes(text)
                        text.clear()
                if text:
                    yield bytes(text)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        reason = "truncated" if isinstance(error, EOFError) else "corrupt"
        raise UserError(
            f"{path}:{n_lines + 1}: the gzip stream is {reason} here; expected a complete gzip file"
        ) from error
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected Criteo click logs, TSV or x1 CSV, plain or gzip") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
