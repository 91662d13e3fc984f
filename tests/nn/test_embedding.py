from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.data.batches import PADDING_ID
from recjax.nn.embedding import Embedding

TABLE = np.array([[1, 2], [10, 20], [100, 200]], np.float32)


@pytest.fixture(scope="module")
def variables() -> Any:
    return {"params": {"table": jnp.asarray(TABLE)}}


def test_rows_are_looked_up(variables: Any):
    ids = jnp.array([[2, 0], [1, 1]])
    rows = Embedding(3, 2).apply(variables, ids, method="rows")
    np.testing.assert_array_equal(rows, TABLE[np.asarray(ids)])


@pytest.mark.parametrize(
    ("combiner", "expected"),
    [
        ("sum", [[111, 222], [20, 40], [100, 200], [0, 0]]),
        ("mean", [[111 / 3, 222 / 3], [20 / 2, 40 / 2], [100, 200], [0, 0]]),
    ],
)
def test_bags_are_combined_over_their_used_ids(
    variables: Any, combiner: Literal["sum", "mean"], expected: list[list[float]]
):
    P = PADDING_ID
    ids = jnp.array([[0, 1, 2], [1, 1, P], [P, 2, P], [P, P, P]])
    np.testing.assert_allclose(Embedding(3, 2, combiner).apply(variables, ids), expected, rtol=1e-6)


def test_a_single_id_is_its_row(variables: Any):
    np.testing.assert_array_equal(Embedding(3, 2).apply(variables, jnp.array([[2], [0]])), TABLE[[2, 0]])


def test_an_empty_bag_of_length_one_gives_zeros(variables: Any):
    combined = Embedding(3, 2).apply(variables, jnp.array([[PADDING_ID], [1]]))
    np.testing.assert_array_equal(combined, [[0, 0], [10, 20]])


def test_padding_takes_no_gradient():
    def total(table: jax.Array) -> jax.Array:
        ids = jnp.array([[1, PADDING_ID], [PADDING_ID, PADDING_ID]])
        return Embedding(3, 2, "sum").apply({"params": {"table": table}}, ids).sum()

    np.testing.assert_array_equal(jax.grad(total)(jnp.asarray(TABLE)), [[0, 0], [1, 1], [0, 0]])


def test_table_starts_with_deviation_one_over_root_d():
    table = Embedding(2000, 16).init(jax.random.key(0), jnp.zeros((1, 1), int))["params"]["table"]
    assert float(table.std()) == pytest.approx(16**-0.5, rel=0.02)
