"""One column of a text table, and the values that its text stands for; errors name path, line and column.

Shapes: E rows, V distinct values.
"""

import dataclasses
import functools
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float32, Int32, Int64, Shaped
from numpy.typing import NDArray

from recjax.data.interactions import encode_ids
from recjax.errors import UserError

# Eighteen digits always fit int64. A leading zero would be lost as a number: 007 and 7 are two ids.
_ID = "non-negative integer id of at most 18 digits without leading zeros"
_INTEGER_ID = "^(0|[1-9][0-9]{0,17})$"
_NEGATIVE_ID = "^-[0-9]{1,18}$"
_TIMESTAMP = "^0*[0-9]{1,10}$"
_DIGITS = "[0-9]+"
LAST_SECOND = 10**10 - 1  # in the year 2286; milliseconds since April 1970 are above it
LATE_SECONDS = f"Unix seconds up to {LAST_SECOND}; divide milliseconds by 1000"
_INTEGER = "^-?[0-9]{1,18}$"
# Bounded lengths keep the value inside float64; the float32 it becomes is checked after.
_NUMBER = r"^[+-]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+-]?[0-9]{1,2})?$"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextColumn:
    """The text of one column; each method returns what it stands for, or raises UserError at the first bad row.

    Attributes:
      path: of the file.
      name: of the column, as errors show it.
      first_line: number of the first row's line, from 1.
      text: [E] as in the file.
    """

    path: Path
    name: str
    first_line: int
    text: pa.ChunkedArray

    def __len__(self) -> int:
        return len(self.text)

    @functools.cached_property
    def distinct(self) -> tuple[pa.StringArray, Int32[np.ndarray, "E"]]:
        """Returns the values without surrounding blanks, in order of first appearance, and the rows' codes.

        A value that repeats is thus checked and parsed once. Two values that differ by blanks alone stand apart.
        """
        encoded = cast(pa.DictionaryArray, self.text.dictionary_encode().combine_chunks())
        return pc.utf8_trim_whitespace(encoded.dictionary), encoded.indices.to_numpy()

    def line(self, row: int) -> int:
        """Returns the line of the file on which `row` stands, from 1."""
        return self.first_line + row

    def error(self, row: int, expected: str) -> UserError:
        """Returns the error that `row` holds something other than what is `expected`."""
        value = self.text[row].as_py().strip()
        return UserError(f"{self.path}:{self.line(row)}, column {self.name!r}: {shown(value)}; expected {expected}")

    def check(self, valid: pa.BooleanArray, expected: str) -> None:
        """Raises UserError at the first row whose distinct value is not `valid` [V]."""
        bad = valid.index(False).as_py()
        if bad >= 0:
            raise self.error(int(np.argmax(self.distinct[1] == bad)), expected)

    def check_rows(self, valid: NDArray, expected: str) -> None:
        """Raises UserError at the first row that is not `valid` [E]."""
        if not valid.all():
            raise self.error(int(np.argmin(valid)), expected)

    def texts(self, *, empty: bool = True) -> Shaped[np.ndarray, "E"]:
        """Returns the text itself as strings (dtype object); nothing at all is refused unless `empty`."""
        values, codes = self.distinct
        if not empty:
            self.check(pc.not_equal(values, pa.scalar("")), "some text")
        return _objects(values)[codes]

    def ids(self, *, integers: bool = False) -> tuple[Int32[np.ndarray, "E"], Shaped[np.ndarray, "V"]]:
        """Returns codes and the sorted table of ids: int64 if all are non-negative integers, else strings.

        Args:
          integers: refuse ids that are not non-negative integers.
        """
        values, codes = self.distinct
        self.check(pc.not_equal(values, pa.scalar("")), "an id")
        is_integer = pc.match_substring_regex(values, _INTEGER_ID)
        is_negative = pc.match_substring_regex(values, _NEGATIVE_ID)
        if integers:
            self.check(is_integer, f"a {_ID}")
        elif pc.all(pc.or_(is_integer, is_negative)).as_py():
            self.check(is_integer, f"a {_ID} (-1 often means a missing id; drop such rows)")
        table = values.cast(pa.int64()).to_numpy() if pc.all(is_integer).as_py() else _objects(values)
        value_codes, table = encode_ids(table)
        return value_codes[codes], table

    def keys(self, *, integers: bool = True) -> tuple[Shaped[np.ndarray, "E"], Int64[np.ndarray, "E"]]:
        """Returns the sorted ids of a column in which none may stand twice, and the row of each.

        Args:
          integers: refuse ids that are not non-negative integers.
        """
        codes, table = self.ids(integers=integers)
        reject_repeats([self], codes.astype(np.int64))
        return table, np.argsort(codes)

    def find(self, ids: Shaped[np.ndarray, "W"]) -> Int32[np.ndarray, "E"]:
        """Returns the index in `ids` (integers or strings) of every row, -1 where it is not there."""
        return self._found(ids).fill_null(-1).to_numpy()[self.distinct[1]]

    def lookup(self, ids: Shaped[np.ndarray, "W"], expected: str) -> Int32[np.ndarray, "E"]:
        """Returns the index in `ids` (integers or strings) of every row; a value that is not there is refused."""
        found = self._found(ids)
        self.check(pc.is_valid(found), expected)
        return found.to_numpy()[self.distinct[1]]

    def _found(self, ids: NDArray) -> pa.Int32Array:
        return pc.index_in(self.distinct[0], value_set=pa.array([str(name) for name in ids.tolist()], pa.string()))

    def choices(self, allowed: Sequence[str]) -> Int32[np.ndarray, "E"]:
        """Returns the index in `allowed` of every row."""
        return self.lookup(np.array(allowed, object), f"one of {', '.join(allowed)}")

    def integers(self, minimum: int, maximum: int) -> Int64[np.ndarray, "E"]:
        """Returns integers in [minimum, maximum]."""
        values, codes = self.distinct
        expected = f"an integer from {minimum} to {maximum}"
        self.check(pc.match_substring_regex(values, _INTEGER), expected)
        numbers = values.cast(pa.int64()).to_numpy()
        self.check(pa.array((numbers >= minimum) & (numbers <= maximum)), expected)
        return numbers[codes]

    def floats(
        self,
        minimum: int | float | None = None,
        maximum: int | float | None = None,
        *,
        step: int | float | None = None,
        unknown: Collection[str] = (),
    ) -> Float32[np.ndarray, "E"]:
        """Returns finite numbers in [minimum, maximum].

        Args:
          minimum: the least allowed.
          maximum: the greatest allowed.
          step: every number is a multiple of it.
          unknown: texts that stand for no value; they become NaN.
        """
        values, codes = self.distinct
        expected = _number_expected(minimum, maximum, step, unknown)
        is_unknown = pc.is_in(values, value_set=pa.array(sorted(unknown), pa.string()))
        self.check(pc.or_(is_unknown, pc.match_substring_regex(values, _NUMBER)), expected)
        wide = pc.if_else(is_unknown, pa.scalar("nan"), values).cast(pa.float64()).to_numpy()
        in_float32 = np.isnan(wide) | (np.abs(wide) <= np.finfo(np.float32).max)
        self.check(pa.array(in_float32), f"{expected} in the range of float32")
        out_of_range = np.zeros(len(wide), bool)
        if minimum is not None:
            out_of_range |= wide < minimum
        if maximum is not None:
            out_of_range |= wide > maximum
        if step is not None:
            out_of_range |= ~np.isnan(wide) & (wide % step != 0)
        self.check(pa.array(~out_of_range), expected)
        return wide.astype(np.float32)[codes]

    def timestamps(self) -> Int64[np.ndarray, "E"]:
        """Returns Unix seconds, to the year 2286; what is later is refused, since it is milliseconds or damage."""
        # They seldom repeat: finding the distinct values would take half of the whole time.
        text = pc.utf8_trim_whitespace(self.text.combine_chunks())
        valid = pc.match_substring_regex(text, _TIMESTAMP)
        bad = valid.index(False).as_py()
        if bad >= 0:
            is_late = re.fullmatch(_DIGITS, text[bad].as_py())
            raise self.error(bad, LATE_SECONDS if is_late else "non-negative integer Unix seconds")
        return text.cast(pa.int64()).to_numpy()


def reject_repeats(columns: Sequence[TextColumn], keys: Int64[np.ndarray, "E"], remedy: str = "") -> None:
    """Raises UserError at the first row whose key stood on an earlier line.

    Args:
      columns: of one table, whose values together are the key.
      keys: equal where the values are.
      remedy: what else the user may do, for the end of the message.
    """
    order = np.argsort(keys, kind="stable")
    repeats = np.flatnonzero(np.diff(keys[order]) == 0)
    if not repeats.size:
        return
    first = repeats[np.argmin(order[repeats + 1])]
    earlier, later = int(order[first]), int(order[first + 1])
    values = [shown(column.text[later].as_py().strip()) for column in columns]
    line, earlier_line = columns[0].line(later), columns[0].line(earlier)
    if len(columns) == 1:
        raise UserError(
            f"{columns[0].path}:{line}, column {columns[0].name!r}: {values[0]} stands already on line {earlier_line}; "
            f"expected each once{remedy}"
        )
    what = " and ".join(f"{column.name} {value}" for column, value in zip(columns, values, strict=True))
    raise UserError(
        f"{columns[0].path}:{line}: {what} stand already on line {earlier_line}; expected each pair once{remedy}"
    )


def shown(text: str) -> str:
    """Returns `text` quoted on one line, shortened if it is long."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _objects(values: pa.StringArray) -> NDArray:
    return values.to_numpy(zero_copy_only=False)


def _number_expected(
    minimum: int | float | None, maximum: int | float | None, step: int | float | None, unknown: Collection[str]
) -> str:
    text = "a finite number"
    if minimum is not None:
        text += f" from {minimum:g}"
    if maximum is not None:
        text += f" to {maximum:g}" if minimum is not None else f" up to {maximum:g}"
    if step is not None:
        text += f" in steps of {step:g}"
    return text + "".join(f", or {shown(mark)}" for mark in sorted(unknown))
