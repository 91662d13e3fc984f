import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.nn import least_squares
from recjax.nn.least_squares import gram, solve_histories, solve_pieces
from recjax.nn.pieces import make_pieces

N_OWNERS, N_ROWS, D, UNOBSERVED = 7, 50, 4, 0.3
L2 = np.linspace(0.5, 2.0, N_OWNERS).astype(np.float32)


@pytest.fixture(scope="module")
def table() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal((N_ROWS, D)), jnp.float32)


@pytest.fixture(scope="module")
def has() -> np.ndarray:
    """Returns a 0/1 matrix [O, N]; owner 2 has nothing, owner 4 everything, which is more than a piece holds."""
    has = np.random.default_rng(1).random((N_OWNERS, N_ROWS)) < 0.3
    has[2], has[4] = False, True
    return has


def expected(table: np.ndarray, has: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns solutions and objective in float64, by the weighted design matrix, owner by owner."""
    table, solved, objective = np.asarray(table, np.float64), [], 0.0
    for mask, l2 in zip(has, L2.astype(np.float64), strict=True):
        design = np.concatenate([table[mask], UNOBSERVED**0.5 * table, l2**0.5 * np.eye(D)])
        target = np.concatenate([np.ones(mask.sum()), np.zeros(N_ROWS + D)])
        solved.append(np.linalg.lstsq(design, target, rcond=None)[0])
        objective += ((design @ solved[-1] - target) ** 2).sum()
    return np.stack(solved), objective


@pytest.mark.parametrize("owners_at_once", [1, 3, 1000])
def test_pieces_are_solved_as_separate_regressions(
    monkeypatch: pytest.MonkeyPatch, table: jax.Array, has: np.ndarray, owners_at_once: int
):
    monkeypatch.setattr(least_squares, "_CHUNK_VALUES", owners_at_once * D**2)
    owner, ids = (jnp.asarray(column, jnp.int32) for column in np.nonzero(has))
    pieces = make_pieces(owner, ids, N_OWNERS)
    solved, objective = jax.jit(lambda *a: solve_pieces(a[0], a[1], UNOBSERVED, a[2]))(table, pieces, jnp.asarray(L2))
    reference, reference_objective = expected(table, has)
    np.testing.assert_allclose(solved, reference, rtol=1e-4, atol=1e-5)
    assert not np.asarray(solved[2]).any()
    assert float(objective) == pytest.approx(reference_objective, rel=1e-5)


@pytest.mark.parametrize("width", [N_ROWS, N_ROWS + 1, 64])
def test_histories_are_solved_as_separate_regressions_whatever_their_padding(
    table: jax.Array, has: np.ndarray, width: int
):
    history = np.full((N_OWNERS, width), -1, np.int32)
    for row, mask in zip(history, has, strict=True):
        row[: mask.sum()] = np.random.default_rng(2).permutation(np.nonzero(mask)[0])
    solved = solve_histories(table, gram(table), jnp.asarray(history), UNOBSERVED, jnp.asarray(L2))
    np.testing.assert_allclose(solved, expected(table, has)[0], rtol=1e-4, atol=1e-5)
