from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recjax.data.text_column import TextColumn, reject_repeats
from recjax.errors import UserError


def column(*text: str, name: str = "c") -> TextColumn:
    """Returns a column whose first row stands on line 2 of the file f, in two chunks as a large file has them."""
    chunks = pa.chunked_array([pa.array(text[:1], pa.string()), pa.array(text[1:], pa.string())])
    return TextColumn(path=Path("f"), name=name, first_line=2, text=chunks)


def same(actual: np.ndarray, expected: list, dtype: type) -> None:
    np.testing.assert_array_equal(actual, np.array(expected, dtype), strict=True)


def test_texts_lose_the_blanks_around_them():
    same(column("b", " a b ", "", "b").texts(), ["b", "a b", "", "b"], object)


def test_ids_are_integers_if_all_are():
    codes, table = column("10", "9", " 10").ids()
    same(codes, [1, 0, 1], np.int32)
    same(table, [9, 10], np.int64)
    codes, table = column("10", "9", "x").ids()
    same(codes, [0, 1, 2], np.int32)
    same(table, ["10", "9", "x"], object)


def test_keys_give_the_row_of_every_id():
    table, row = column("7", "30", "5").keys()
    same(table, [5, 7, 30], np.int64)
    same(row, [2, 0, 1], np.int64)
    table, row = column("b", "a").keys(integers=False)
    assert (table.tolist(), row.tolist()) == (["a", "b"], [1, 0])


@pytest.mark.parametrize(
    ("ids", "text"), [(np.array([3, 7]), ("7", "3", "7")), (np.array(["a", "b"]), ("b", "a", "b"))]
)
def test_lookup_and_find_index_the_ids(ids: np.ndarray, text: tuple[str, ...]):
    same(column(*text).lookup(ids, "one"), [1, 0, 1], np.int32)
    same(column(*text, "x", "03").find(ids), [1, 0, 1, -1, -1], np.int32)


def test_choices_index_what_is_allowed():
    same(column("M", "F", "M").choices(("F", "M")), [1, 0, 1], np.int32)


def test_integers_and_timestamps():
    same(column("-3", "7", "007").integers(-3, 7), [-3, 7, 7], np.int64)
    same(column("0", " 1700000000 ", "9" * 10).timestamps(), [0, 1_700_000_000, 10**10 - 1], np.int64)


def test_floats():
    same(column("1", "2.5", ".5", "1e1").floats(), [1, 2.5, 0.5, 10], np.float32)
    same(column("1", "?", "2").floats(1, 2, step=1, unknown=("?",)), [1, np.nan, 2], np.float32)
    same(column("0.1").floats(), [0.1], np.float32)


INTEGER_ID = "a non-negative integer id of at most 18 digits without leading zeros"


@pytest.mark.parametrize(
    ("text", "method", "options", "message"),
    [
        (("a", " "), "texts", {"empty": False}, "f:3, column 'c': ''; expected some text"),
        (("a", ""), "ids", {}, "f:3, column 'c': ''; expected an id"),
        (("1", "a"), "ids", {"integers": True}, f"f:3, column 'c': 'a'; expected {INTEGER_ID}"),
        (
            ("1", "-1"),
            "ids",
            {},
            f"f:3, column 'c': '-1'; expected {INTEGER_ID} (-1 often means a missing id; drop such rows)",
        ),
        (("1", "2", "1"), "keys", {}, "f:4, column 'c': '1' stands already on line 2; expected each once"),
        (("1", "01"), "keys", {}, f"f:3, column 'c': '01'; expected {INTEGER_ID}"),
        (("1", "4"), "lookup", {"ids": np.array([1]), "expected": "a key"}, "f:3, column 'c': '4'; expected a key"),
        (("a", "B"), "choices", {"allowed": ("a", "b")}, "f:3, column 'c': 'B'; expected one of a, b"),
        (("1", "9"), "integers", {"minimum": 1, "maximum": 8}, "f:3, column 'c': '9'; expected an integer from 1 to 8"),
        (
            ("1", "2."),
            "integers",
            {"minimum": 1, "maximum": 8},
            "f:3, column 'c': '2.'; expected an integer from 1 to 8",
        ),
        (
            ("1", "9" * 19),
            "integers",
            {"minimum": 1, "maximum": 8},
            f"f:3, column 'c': '{'9' * 19}'; expected an integer from 1 to 8",
        ),
        (("1", "nan"), "floats", {}, "f:3, column 'c': 'nan'; expected a finite number"),
        (("1", "1e39"), "floats", {}, "f:3, column 'c': '1e39'; expected a finite number in the range of float32"),
        (("1", "-1"), "floats", {"minimum": 0}, "f:3, column 'c': '-1'; expected a finite number from 0"),
        (("1", "3"), "floats", {"maximum": 2}, "f:3, column 'c': '3'; expected a finite number up to 2"),
        (
            ("1", "1.1"),
            "floats",
            {"minimum": 0, "maximum": 2, "step": 0.5, "unknown": ("NA",)},
            "f:3, column 'c': '1.1'; expected a finite number from 0 to 2 in steps of 0.5, or 'NA'",
        ),
        (("1", "-1"), "timestamps", {}, "f:3, column 'c': '-1'; expected non-negative integer Unix seconds"),
        (
            ("1", "1" * 19),
            "timestamps",
            {},
            f"f:3, column 'c': '{'1' * 19}'; expected Unix seconds up to 9999999999; divide milliseconds by 1000",
        ),
        (("1", "1.0"), "timestamps", {}, "f:3, column 'c': '1.0'; expected non-negative integer Unix seconds"),
        (("1", "z" * 99), "floats", {}, f"f:3, column 'c': '{'z' * 57}...'; expected a finite number"),
    ],
)
def test_bad_value_is_refused_with_its_line(text: tuple[str, ...], method: str, options: dict, message: str):
    with pytest.raises(UserError) as error:
        getattr(column(*text), method)(**options)
    assert str(error.value) == message


def test_check_rows_tells_the_first_bad_row():
    column("a", "b").check_rows(np.array([True, True]), "anything")
    with pytest.raises(UserError) as error:
        column("a", "b", "c").check_rows(np.array([True, False, False]), "an a")
    assert str(error.value) == "f:3, column 'c': 'b'; expected an a"


def test_repeats_are_told_in_the_order_of_the_file():
    user, item = column("1", "2", "2", "1", "2", name="user"), column("a", "b", "c", "a", "b", name="item")
    reject_repeats([user, item], np.array([1, 2, 3, 4, 5]))
    with pytest.raises(UserError) as error:
        reject_repeats([user, item], np.array([9, 2, 3, 9, 2]), "; mend it")
    assert str(error.value) == "f:5: user '1' and item 'a' stand already on line 2; expected each pair once; mend it"
