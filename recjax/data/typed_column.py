"""One column of a file whose values have types (Parquet, JSON lines), checked; errors name path, row and column.

Shapes: E rows, V distinct values.
"""

import dataclasses
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float32, Int32, Int64, Integer, Shaped
from numpy.typing import NDArray

from recjax.data.interactions import encode_ids
from recjax.data.text_column import LAST_SECOND, shown
from recjax.errors import UserError

_MOST_IDS_BY_FLAGS = 1 << 26  # ids below this are numbered through one flag each: 64 MiB instead of a sort


@dataclasses.dataclass(frozen=True, kw_only=True)
class TypedColumn:
    """The values of one column; each method returns them checked, or raises UserError at the first bad row.

    Attributes:
      path: of the file.
      name: of the column, as errors show it.
      values: [E] of one Arrow type; a value may be null.
      first_line: of the rows, as errors number them: a line of text, or a row of a Parquet file counted from 1.
    """

    path: Path
    name: str
    values: pa.ChunkedArray
    first_line: int = 1

    def __len__(self) -> int:
        return len(self.values)

    def error(self, row: int, expected: str) -> UserError:
        """Returns the error that `row` holds something other than what is `expected`."""
        value = self.values[row].as_py()
        seen = "nothing" if value is None else shown(value) if isinstance(value, str) else f"{value}"
        return UserError(f"{self.path}:{self.first_line + row}, column {self.name!r}: {seen}; expected {expected}")

    def check(self, valid: Bool[np.ndarray, "E"], expected: str) -> None:
        """Raises UserError at the first row that is not `valid`."""
        if not valid.all():
            raise self.error(int(np.argmin(valid)), expected)

    def integers(self, minimum: int, maximum: int) -> Int64[np.ndarray, "E"]:
        """Returns integers in [minimum, maximum]."""
        expected = f"an integer from {minimum} to {maximum}"
        self._check_present(expected)
        numbers = self.values.cast(pa.int64(), safe=False).to_numpy()
        in_range = (numbers >= minimum) & (numbers <= maximum)
        if pa.types.is_uint64(self.values.type):
            in_range &= numbers >= 0  # what is beyond int64 has wrapped
        self.check(in_range, expected)
        return numbers

    def floats(
        self,
        minimum: int | float,
        maximum: int | float,
        *,
        step: int | float | None = None,
        missing: int | float | None = None,
    ) -> Float32[np.ndarray, "E"]:
        """Returns finite numbers in [minimum, maximum].

        Args:
          minimum: the least allowed.
          maximum: the greatest allowed.
          step: every number is a multiple of it.
          missing: stands for null, which is refused if this is None.
        """
        expected = f"a number from {minimum:.15g} to {maximum:.15g}" + (f" in steps of {step:g}" if step else "")
        if missing is None:
            self._check_present(expected)
        wide = self.values.cast(pa.float64(), safe=False).to_numpy()  # safe refuses integers above 2**53 itself
        absent = self.values.is_null().to_numpy()
        in_range = (wide >= minimum) & (wide <= maximum)  # false for NaN
        if step is not None:
            in_range &= np.isfinite(wide) & (np.mod(wide, step, where=in_range, out=np.zeros_like(wide)) == 0)
        self.check(absent | in_range, expected)
        return np.where(absent, np.nan if missing is None else missing, wide).astype(np.float32)

    def texts(self) -> Shaped[np.ndarray, "E"]:
        """Returns strings (dtype object), "" where there is none."""
        return pc.fill_null(self.values, "").to_numpy()

    def seconds(self) -> Int64[np.ndarray, "E"]:
        """Returns Unix seconds of moments; those without a time zone are taken as UTC."""
        self._check_present("a moment")
        unit = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[self.values.type.unit]
        seconds = self.values.cast(pa.int64()).to_numpy() // unit
        in_range = (seconds >= 0) & (seconds <= LAST_SECOND)
        if not in_range.all():
            # Not the moment itself: the farthest ones are beyond Python's calendar.
            row = int(np.argmin(in_range))
            raise UserError(
                f"{self.path}:{self.first_line + row}, column {self.name!r}: {seconds[row]} s from 1970; expected a "
                "moment of 1970 to 2286"
            )
        return seconds

    def ids(self) -> tuple[Int32[np.ndarray, "E"], Shaped[np.ndarray, "V"]]:
        """Returns codes and the sorted table of ids: non-negative integers (int64), or strings that are not empty."""
        if pa.types.is_integer(self.values.type):
            return encode_integers(self.integers(0, 2**63 - 1))
        self.check_ids()
        return encode_strings(self.values)

    def check_distinct(self, keys: Integer[np.ndarray, "E"]) -> None:
        """Raises UserError at the first row whose key, which stands for its value, was there before."""
        _, first = np.unique(keys, return_index=True)
        is_first = np.zeros(len(keys), bool)
        is_first[first] = True
        self.check(is_first, "each once")

    def check_ids(self) -> None:
        """Raises UserError at the first string that is null or empty."""
        self._check_present("an id")
        self.check(pc.not_equal(self.values, "").to_numpy(), "an id")

    def are_in(self, table: pa.Array) -> Bool[np.ndarray, "E"]:
        """Returns which values stand in `table`."""
        return pc.is_in(self.values, value_set=table).to_numpy()

    def _check_present(self, expected: str) -> None:
        if self.values.null_count:
            self.check(self.values.is_valid().to_numpy(), expected)


def encode_integers(ids: Int64[np.ndarray, "E"]) -> tuple[Int32[np.ndarray, "E"], Int64[np.ndarray, "V"]]:
    """Returns dense codes for non-negative `ids`, and the sorted table of distinct ids that they index."""
    if not len(ids) or ids.max() >= _MOST_IDS_BY_FLAGS:
        return encode_ids(ids)
    is_used = np.zeros(ids.max() + 1, bool)
    is_used[ids] = True
    code_of = np.cumsum(is_used, dtype=np.int32) - 1
    return code_of[ids], np.flatnonzero(is_used)


def encode_strings(ids: pa.ChunkedArray) -> tuple[Int32[np.ndarray, "E"], Shaped[np.ndarray, "V"]]:
    """Returns dense codes for `ids`, and the sorted table (dtype object) of distinct ids that they index."""
    encoded = cast(pa.DictionaryArray, ids.dictionary_encode().combine_chunks())
    order = pc.sort_indices(encoded.dictionary)
    code_of = np.empty(len(order), np.int32)
    code_of[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
    table: NDArray = encoded.dictionary.take(order).to_numpy(zero_copy_only=False)
    return code_of[encoded.indices.to_numpy()], table


def rows_of(
    ids: Shaped[np.ndarray, "V"], table_ids: Shaped[np.ndarray, "W"]
) -> tuple[Bool[np.ndarray, "V"], Int64[np.ndarray, "V"]]:
    """Returns which of `ids` stand in `table_ids`, and the first row of `table_ids` where each does (else 0)."""
    table, first = np.unique(table_ids, return_index=True)
    if not len(table):
        return np.zeros(len(ids), bool), np.zeros(len(ids), np.int64)
    place = np.minimum(np.searchsorted(table, ids), len(table) - 1)
    found = table[place] == ids
    return found, np.where(found, first[place], 0)
