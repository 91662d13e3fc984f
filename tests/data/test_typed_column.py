from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.data import typed_column
from recjax.data.typed_column import TypedColumn, encode_integers, encode_strings, rows_of
from recjax.errors import UserError


def column(values: list, of: pa.DataType | None = None) -> TypedColumn:
    half = len(values) // 2  # two chunks: rows are counted across them
    array = pa.array(values, of)
    return TypedColumn(path=Path("f"), name="x", values=pa.chunked_array([array[:half], array[half:]]), first_line=11)


def test_floats_are_numbers_in_their_range():
    read = column([1, 2.5, None]).floats(0, 5, missing=np.nan)
    np.testing.assert_array_equal(read, np.array([1, 2.5, np.nan], np.float32), strict=True)


@pytest.mark.parametrize("number", [2**63, 2**64 - 1])
def test_integers_beyond_int64_are_refused(number: int):
    for minimum in (-5, 0):
        with pytest.raises(UserError) as error:
            column([1, number], pa.uint64()).integers(minimum, 7)
        assert str(error.value) == f"f:12, column 'x': {number}; expected an integer from {minimum} to 7"
    with pytest.raises(UserError) as error:
        column([1, number], pa.uint64()).floats(0, 7)
    assert str(error.value) == f"f:12, column 'x': {number}; expected a number from 0 to 7"


def test_steps_are_kept():
    assert column([0.5, 5.0, None]).floats(0.5, 5, step=0.5, missing=-1).tolist() == [0.5, 5, -1]
    for bad, text in ((0.7, "0.7"), (float("nan"), "nan"), (float("inf"), "inf"), (5.5, "5.5")):
        with pytest.raises(UserError) as error:
            column([1.0, bad]).floats(0.5, 5, step=0.5)
        assert str(error.value) == f"f:12, column 'x': {text}; expected a number from 0.5 to 5 in steps of 0.5"


def test_a_value_that_was_there_before_is_refused():
    column([1, 2, 3]).check_distinct(np.array([1, 2, 3]))
    with pytest.raises(UserError) as error:
        column([1, 2, 2, 1]).check_distinct(np.array([1, 2, 2, 1]))
    assert str(error.value) == "f:13, column 'x': 2; expected each once"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, float("nan")], "f:12, column 'x': nan; expected a number from 0 to 5"),
        ([1.0, 2.0, float("inf")], "f:13, column 'x': inf; expected a number from 0 to 5"),
        ([-0.5, 9.0], "f:11, column 'x': -0.5; expected a number from 0 to 5"),
        ([1.0, None], "f:12, column 'x': nothing; expected a number from 0 to 5"),
    ],
)
def test_other_floats_are_refused(values: list, message: str):
    with pytest.raises(UserError) as error:
        column(values).floats(0, 5)
    assert str(error.value) == message


def test_ids_are_integers_or_strings():
    codes, table = column([7, 3, 7]).ids()
    assert (codes.tolist(), table.tolist(), table.dtype) == ([1, 0, 1], [3, 7], np.int64)
    codes, table = column(["B00", "007", "é", "B00"]).ids()
    assert (codes.tolist(), table.tolist(), table.dtype) == ([1, 0, 2, 1], ["007", "B00", "é"], object)


def test_ids_that_are_empty_are_refused():
    with pytest.raises(UserError, match=r"^f:12, column 'x': ''; expected an id$"):
        column(["a", "", "b"]).ids()
    with pytest.raises(UserError, match=r"^f:13, column 'x': nothing; expected an id$"):
        column(["a", "b", None]).ids()


@given(st.lists(st.integers(0, 50), min_size=1), st.sampled_from([10, 1 << 26]))
def test_encoded_integers_are_those_of_numpy(ids: list[int], most_by_flags: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typed_column, "_MOST_IDS_BY_FLAGS", most_by_flags)
        codes, table = encode_integers(np.array(ids))
    expected_table, expected_codes = np.unique(ids, return_inverse=True)
    np.testing.assert_array_equal(table, expected_table, strict=True)
    np.testing.assert_array_equal(codes, expected_codes.astype(np.int32), strict=True)


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=3), min_size=1))
def test_encoded_strings_are_those_of_python(ids: list[str]):
    codes, table = encode_strings(pa.chunked_array([ids[:3], ids[3:]], pa.string()))
    assert table.tolist() == sorted(set(ids))
    assert [table[code] for code in codes] == ids


def test_rows_of_finds_the_first_row_of_each_id():
    found, row = rows_of(np.array([1, 4, 9]), np.array([9, 1, 9]))
    assert (found.tolist(), row.tolist()) == ([True, False, True], [1, 0, 0])
    found, row = rows_of(np.array([1, 4]), np.zeros(0, np.int64))
    assert (found.tolist(), row.tolist()) == ([False, False], [0, 0])
