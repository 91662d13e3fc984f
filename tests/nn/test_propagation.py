import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.nn import propagation as module
from recjax.nn.propagation import propagation, symmetric_weights

ROW = np.array([0, 0, 2, 1, 2, 2], np.int32)
COLUMN = np.array([1, 3, 0, 1, 3, 4], np.int32)
N_ROWS, N_COLUMNS = 4, 5  # row 3 and column 2 have no edge


def dense_matrix(weight: np.ndarray) -> np.ndarray:
    matrix = np.zeros((N_ROWS, N_COLUMNS), np.float32)
    for row, column, value in zip(ROW, COLUMN, weight, strict=True):
        matrix[row, column] += value
    return matrix


def test_weights_by_hand():
    weight = symmetric_weights(jnp.asarray(ROW), jnp.asarray(COLUMN), N_ROWS, N_COLUMNS)
    # Rows have 2, 1, 3 edges; columns 1, 2, -, 2, 1.
    expected = [(2 * 2) ** -0.5, (2 * 2) ** -0.5, (3 * 1) ** -0.5, (1 * 2) ** -0.5, (3 * 2) ** -0.5, (3 * 1) ** -0.5]
    np.testing.assert_allclose(weight, expected, rtol=1e-6)


@pytest.mark.parametrize("dense", [True, False])
def test_both_forms_are_the_matrix(dense: bool):
    rng = np.random.default_rng(0)
    weight = rng.random(len(ROW)).astype(np.float32)
    x, y = (rng.standard_normal((n, 3)).astype(np.float32) for n in (N_COLUMNS, N_ROWS))
    graph = propagation(*map(jnp.asarray, (ROW, COLUMN, weight)), N_ROWS, N_COLUMNS, dense=dense)
    assert (graph.matrix is not None) == dense
    np.testing.assert_allclose(graph.to_rows(jnp.asarray(x)), dense_matrix(weight) @ x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(graph.to_columns(jnp.asarray(y)), dense_matrix(weight).T @ y, rtol=1e-5, atol=1e-6)


def test_both_forms_have_the_same_gradient():
    weight = np.random.default_rng(1).random(len(ROW)).astype(np.float32)

    def total(x: jax.Array, dense: bool) -> jax.Array:
        graph = propagation(*map(jnp.asarray, (ROW, COLUMN, weight)), N_ROWS, N_COLUMNS, dense=dense)
        return jnp.sum(graph.to_columns(graph.to_rows(x)) ** 2)

    x = jnp.asarray(np.random.default_rng(2).standard_normal((N_COLUMNS, 3)), jnp.float32)
    np.testing.assert_allclose(jax.grad(total)(x, True), jax.grad(total)(x, False), rtol=1e-5, atol=1e-6)


def test_repeated_edges_add_up():
    for dense in (True, False):
        twice = jnp.array([0, 0])
        graph = propagation(twice, twice, jnp.array([1.0, 2.0]), 1, 1, dense=dense)
        assert graph.to_rows(jnp.ones((1, 1))).tolist() == [[3.0]]


@pytest.mark.parametrize(
    ("n_rows", "n_columns", "n_edges", "dense"),
    [(10, 28, 10, True), (10, 29, 10, False), (2**13, 2**13 + 1, 2**22, False)],
)
def test_the_form_follows_the_shape(n_rows: int, n_columns: int, n_edges: int, dense: bool):
    assert module._MOST_CELLS_AN_EDGE == 28

    def form(edge: jax.Array) -> jax.Array:
        graph = propagation(edge, edge, edge.astype(jnp.float32), n_rows, n_columns)
        return jnp.zeros([]) if graph.matrix is None else graph.matrix

    shape = jax.eval_shape(form, jax.ShapeDtypeStruct((n_edges,), jnp.int32)).shape
    assert shape == ((n_rows, n_columns) if dense else ())
