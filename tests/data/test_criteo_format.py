import math
import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from plain_hashes import bucket

from recjax.data.criteo_format import (
    COLUMN_NAMES,
    MISSING_ID,
    TSV,
    X1,
    Format,
    UnreadableBlockError,
    decode,
    dense_of,
    find_error,
    hex_to_uint32,
    ids_of,
    labels_of,
)
from recjax.data.hashing import hash_tokens

SIZES = tuple(range(2, 28))


def tsv_line(label: str = "0", dense: dict[int, str] | None = None, tokens: dict[int, str] | None = None) -> str:
    """Returns a line of zeros, but for the given columns (from 1)."""
    fields = [label] + [(dense or {}).get(i, "0") for i in range(1, 14)]
    return "\t".join(fields + [(tokens or {}).get(i, "00000000") for i in range(1, 27)])


def x1_line(label: str = "0", dense: dict[int, str] | None = None, tokens: dict[int, str] | None = None) -> str:
    fields = [label] + [(dense or {}).get(i, "0.5") for i in range(1, 14)]
    return ",".join(fields + [(tokens or {}).get(i, str(i)) for i in range(1, 27)])


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_hexadecimal_digits_become_their_number(numbers: list[int]):
    lower = np.frombuffer("".join(f"{n:08x}" for n in numbers).encode(), np.uint8).reshape(-1, 8)
    upper = np.frombuffer("".join(f"{n:08X}" for n in numbers).encode(), np.uint8).reshape(-1, 8)
    np.testing.assert_array_equal(hex_to_uint32(lower), np.array(numbers, np.uint32), strict=True)
    np.testing.assert_array_equal(hex_to_uint32(upper), np.array(numbers, np.uint32), strict=True)


def test_a_dash_is_no_digit():
    with pytest.raises(UnreadableBlockError):
        hex_to_uint32(np.frombuffer(b"0000-000", np.uint8).reshape(1, 8))


ROWS = st.lists(
    st.tuples(
        st.booleans(),
        st.lists(st.none() | st.integers(-10, 10**9), min_size=13, max_size=13),
        st.lists(st.none() | st.integers(0, 2**32 - 1), min_size=26, max_size=26),
    ),
    min_size=1,
    max_size=8,
)


@given(rows=ROWS, end=st.sampled_from(["\n", "\r\n"]), last=st.booleans())
def test_tsv_agrees_with_plain_python(rows, end: str, last: bool):
    def text(value: int | None, pattern: str) -> str:
        return "" if value is None else pattern.format(value)

    lines = [
        "\t".join([str(int(label)), *(text(x, "{}") for x in dense), *(text(t, "{:08x}") for t in tokens)])
        for label, dense, tokens in rows
    ]
    block = end.join(lines) + (end if last else "")
    decoded = decode(block.encode(), TSV, SIZES)
    assert labels_of(decoded).tolist() == [float(label) for label, _, _ in rows]
    expected = [[math.log1p(max(x or 0, 0)) for x in dense] for _, dense, _ in rows]
    np.testing.assert_allclose(dense_of(decoded), np.array(expected, np.float32), rtol=1e-6)
    assert ids_of(decoded).tolist() == [
        [MISSING_ID if t is None else bucket(t, size) for t, size in zip(tokens, SIZES, strict=True)]
        for _, _, tokens in rows
    ]


def test_tsv_by_hand():
    line = tsv_line("1", {1: "", 2: "-2", 3: "1", 4: "999999999999999999"}, {1: "", 2: "00000001", 3: "FFFFFFFF"})
    decoded = decode(line.encode(), TSV, [1_000] * 26)
    assert labels_of(decoded).tolist() == [1]
    np.testing.assert_allclose(dense_of(decoded)[0, :4], [0, 0, math.log(2), math.log(1e18)], rtol=1e-6)
    assert ids_of(decoded)[0, :4].tolist() == [0, bucket(1, 1_000), bucket(0xFFFFFFFF, 1_000), bucket(0, 1_000)]


def test_x1_by_hand():
    block = "\n".join([x1_line("1", {1: "-0.25", 13: "1e-3"}, {26: "4294967295"}), x1_line("0", {2: "7"}), ""])
    decoded = decode(block.encode(), X1, [1_000] * 26)
    assert labels_of(decoded).tolist() == [1, 0]
    expected = np.full((2, 13), 0.5, np.float32)
    expected[0, 0], expected[0, 12], expected[1, 1] = -0.25, 1e-3, 7  # as given: no logarithm
    np.testing.assert_array_equal(dense_of(decoded), expected)
    assert ids_of(decoded)[:, 0].tolist() == [bucket(1, 1_000)] * 2
    assert ids_of(decoded)[:, 25].tolist() == [bucket(4294967295, 1_000), bucket(26, 1_000)]


def test_a_block_of_many_arrow_blocks_is_decoded_in_order():
    lines = [tsv_line(tokens={1: f"{n:08x}"}) for n in range(8_000)]  # about 2 MB
    ids = ids_of(decode("\n".join(lines).encode(), TSV, [2**31 - 1] * 26))[:, 0]
    np.testing.assert_array_equal(ids, hash_tokens(np.arange(8_000, dtype=np.uint32), 2**31 - 1))


def refused(line: str, layout: Format) -> bool:
    try:
        decode(line.encode(), layout, SIZES)
    except UnreadableBlockError:
        return True
    return False


@given(st.text("0123456789-+ab.", max_size=20), st.sampled_from(["label", "dense", "token"]))
@example("-", "dense")
@example("--1", "dense")
@example("0" * 18, "dense")
@example("9" * 19, "dense")
@example("-0", "dense")
@example("00", "label")
@example("0000000", "token")
@example("000000000", "token")
@example("0x1", "dense")
@example(" 1", "dense")
@example('"1"', "dense")
@example("NA", "dense")
@example("0000000g", "token")
def test_what_tsv_refuses_is_explained(value: str, kind: str):
    line = tsv_line(value) if kind == "label" else tsv_line(**{f"{kind}s".replace("denses", "dense"): {3: value}})
    pattern = TSV.patterns[("label", "dense", "token").index(kind)][0]
    if refused(line, TSV):
        assert re.fullmatch(pattern, value) is None
        name = {"label": "label", "dense": "I3", "token": "C3"}[kind]
        assert find_error(line.encode(), TSV) == (
            0,
            f", column {name!r}: {value!r}; expected {TSV.patterns[('label', 'dense', 'token').index(kind)][1]}",
        )
    elif kind != "dense":
        assert re.fullmatch(pattern, value)  # of integers, Arrow takes a nineteenth digit that still fits


@given(st.text("0123456789-+eE.", max_size=20), st.sampled_from(["dense", "token"]))
@example("", "dense")
@example("", "token")
@example("1e39", "dense")
@example("-1e39", "dense")
@example("1e-99", "dense")
@example("nan", "dense")
@example("inf", "dense")
@example("4294967296", "token")
@example("0004294967295", "token")
@example("-1", "token")
@example("1.0", "token")
def test_what_x1_refuses_is_explained(value: str, kind: str):
    line = x1_line(**{"dense" if kind == "dense" else "tokens": {3: value}})
    if refused(line, X1):
        number, message = find_error(line.encode(), X1)
        name = {"dense": "I3", "token": "C3"}[kind]
        assert (number, message) == (
            0,
            f", column {name!r}: {value!r}; expected {X1.patterns[1 if kind == 'dense' else 2][1]}",
        )
    elif kind == "dense":
        assert math.isfinite(float(value))
    else:
        assert 0 <= int(value) < 2**32


def test_the_first_bad_line_is_the_one_reported():
    lines = [tsv_line(), tsv_line(), tsv_line("2"), tsv_line("3")]
    assert find_error("\n".join(lines).encode(), TSV) == (2, ", column 'label': '2'; expected 0 or 1")


def test_a_refusal_without_a_reason_still_has_a_place():
    assert find_error(tsv_line().encode(), TSV) == (
        0,
        ": one of the 1 lines from here on cannot be parsed; expected the format tsv",
    )


def test_column_names_are_those_of_the_header():
    assert X1.header == ",".join(COLUMN_NAMES)
    assert COLUMN_NAMES[:2] + COLUMN_NAMES[13:15] + COLUMN_NAMES[-1:] == ("label", "I1", "I13", "C1", "C26")
