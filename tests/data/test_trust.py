from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.data.interactions import Interactions
from recjax.data.text_column import TextColumn
from recjax.data.trust import distinct_edges, join_trust
from recjax.errors import UserError


def columns(**texts: str) -> dict[str, TextColumn]:
    """Returns a column of blank-separated values for each name."""
    return {
        name: TextColumn(path=Path("toy.txt"), name=name, first_line=1, text=pa.chunked_array([text.split()]))
        for name, text in texts.items()
    }


def joined(ratings: dict[str, TextColumn], edges: dict[str, TextColumn]) -> Interactions:
    """Returns the set in which row i is rated i."""
    return join_trust("toy", ratings, np.arange(len(ratings["user"]), dtype=np.float32), edges)


def test_joins_ratings_and_edges_by_hand():
    read = joined(
        columns(user="7 2 2 7 2 9", item="30 10 30 20 10 10"),
        columns(truster="7 2 7 5 9 2", trustee="2 9 5 7 9 9", trust="1 1 1.0 1 1 1"),
    )
    assert read.name == "toy"
    assert read.timestamp is None
    np.testing.assert_array_equal(read.user_ids, np.array([2, 7, 9], np.int64), strict=True)
    np.testing.assert_array_equal(read.item_ids, np.array([10, 20, 30], np.int64), strict=True)
    # User 2 rates item 10 in rows 1 and 4, of which the last counts; within a user, rows stand as in the file.
    assert list(zip(read.user.tolist(), read.item.tolist(), read.rating.tolist(), strict=True)) == [
        (0, 2, 2),
        (0, 0, 4),
        (1, 2, 0),
        (1, 1, 3),
        (2, 0, 5),
    ]
    # 7 trusts 2, 2 trusts 9 (said twice); 5 rated nothing, and 9 trusting 9 says nothing.
    np.testing.assert_array_equal(read.trust, np.array([[0, 1], [2, 0]], np.int32), strict=True)


def test_edges_among_nobody_who_rates_are_none():
    read = joined(columns(user="1 2", item="1 1"), columns(truster="3 1", trustee="4 3", trust="1 1"))
    np.testing.assert_array_equal(read.trust, np.zeros((2, 0), np.int32), strict=True)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ({"truster": "1 x", "trustee": "2 2", "trust": "1 1"}, "toy.txt:2, column 'truster': 'x'; expected a non-neg"),
        ({"truster": "1 1", "trustee": "-2 2", "trust": "1 1"}, "toy.txt:1, column 'trustee': '-2'; expected a non"),
        ({"truster": "1 1", "trustee": "2 9", "trust": "1 0"}, "toy.txt:2, column 'trust': '0'; expected one of 1, 1"),
    ],
)
def test_an_edge_that_cannot_be_read_is_refused_whoever_it_touches(edges: dict[str, str], message: str):
    with pytest.raises(UserError) as error:
        joined(columns(user="1 2", item="1 1"), columns(**edges))
    assert str(error.value).startswith(message)


def test_distinct_edges_by_hand():
    edges = np.array([[4, 1, 4, 2, -1, 3, 1], [1, 4, 1, 2, 3, -1, 0]], np.int32)
    np.testing.assert_array_equal(distinct_edges(edges), np.array([[1, 1, 4], [0, 4, 1]], np.int32), strict=True)


@given(st.lists(st.tuples(st.integers(-1, 4), st.integers(-1, 4)), max_size=20))
def test_distinct_edges_agree_with_a_set(pairs: list[tuple[int, int]]):
    expected = sorted({(a, b) for a, b in pairs if a >= 0 and b >= 0 and a != b})
    edges = distinct_edges(np.array(pairs, np.int32).reshape(-1, 2).T)
    assert list(map(tuple, edges.T.tolist())) == expected
    assert edges.dtype == np.int32
