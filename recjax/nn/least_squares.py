"""Weighted ridge regressions, one an owner, against the rows of one table: a half step of alternating least squares.

An owner o (a user or an item) with the ids S_o solves, over all N rows h of the other side's table,
  min_w sum_{S_o} (w.h - 1)^2 + unobserved * sum_N (w.h)^2 + l2_o |w|^2,
whose normal equations (sum_{S_o} h h^T + unobserved * H^T H + l2_o I) w = sum_{S_o} h share H^T H.

Source: Hu, Koren and Volinsky, Collaborative Filtering for Implicit Feedback Datasets (ICDM 2008), section 4;
in the form of Rendle et al., Revisiting the Performance of iALS on Item Recommendation Benchmarks (RecSys 2022).

Shapes: O owners, C owners of a chunk, K pieces of a block, L ids of a piece, B histories, N rows of the table,
D embedding dim.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from recjax.data.batches import PADDING_ID
from recjax.nn.pieces import LENGTH, Pieces, fold_pieces

_PRECISION = jax.lax.Precision.HIGHEST  # bfloat16 products of an accelerator would spoil the normal equations
_CHUNK_VALUES = 2**22  # of the [C, D, D] matrices that are held at once, 16 MB


def solve_pieces(
    table_ND: Float[Array, "N D"], pieces: Pieces, unobserved: float, l2_O: Float[Array, "O"]
) -> tuple[Float[Array, "O D"], Float[Array, ""]]:
    """Returns every owner's solution, zeros for one without ids, and the sum of the objectives at them.

    Owners are solved in chunks, so that their D x D matrices take 16 MB (or one matrix) at a time.

    Args:
      table_ND: the other side's table.
      pieces: the ids of each owner.
      unobserved: weight of the pull to 0 at every row of the table; > 0.
      l2_O: of each owner; > 0.
    """
    dim, n_owners = table_ND.shape[1], len(pieces.counts)
    chunk = min(n_owners, max(1, _CHUNK_VALUES // dim**2))
    n_chunks = -(-n_owners // chunk)
    padded_l2 = jnp.pad(l2_O, (0, n_chunks * chunk - n_owners), constant_values=1.0)
    shared_DD = unobserved * gram(table_ND)
    table_ND = _with_zero_row(table_ND)

    def add(total: tuple[Array, Array], ids_KL: Array, row_K: Array) -> tuple[Array, Array]:
        squares_KDD, sums_KD = _moments(table_ND, ids_KL)
        return total[0].at[row_K].add(squares_KDD, mode="drop"), total[1].at[row_K].add(sums_KD, mode="drop")

    def solve_chunk(index: Array) -> tuple[Array, Array]:
        first = index * chunk
        start = jnp.zeros((chunk, dim, dim)), jnp.zeros((chunk, dim))
        squares_CDD, sums_CD = fold_pieces(pieces, first, chunk, add, start)
        l2_C = jax.lax.dynamic_slice_in_dim(padded_l2, first, chunk)
        solved_CD = _solve(squares_CDD + shared_DD[None], sums_CD, l2_C)
        return solved_CD, jnp.sum(sums_CD * solved_CD)

    solved, explained = jax.lax.map(solve_chunk, jnp.arange(n_chunks))
    # At A w = b the objective n - 2 b.w + w.A w is n - b.w: no pass over the interactions is needed for it.
    return solved.reshape(-1, dim)[:n_owners], jnp.sum(pieces.counts) - jnp.sum(explained)


def solve_histories(
    table_ND: Float[Array, "N D"],
    gram_DD: Float[Array, "D D"],
    history_BL: Int[Array, "B L"],
    unobserved: float,
    l2_B: Float[Array, "B"],
) -> Float[Array, "B D"]:
    """Returns the solution of owners whose ids stand in padded rows, as an unseen user's do; `gram_DD` is H^T H."""
    n_histories, width = history_BL.shape
    padding = -width % LENGTH
    pieces = jnp.pad(history_BL, ((0, 0), (0, padding)), constant_values=PADDING_ID).reshape(n_histories, -1, LENGTH)
    table = _with_zero_row(table_ND)

    def add(total: tuple[Array, Array], ids_BL: Array) -> tuple[tuple[Array, Array], None]:
        squares_BDD, sums_BD = _moments(table, ids_BL)
        return (total[0] + squares_BDD, total[1] + sums_BD), None

    dim = table_ND.shape[1]
    start = jnp.zeros((n_histories, dim, dim)), jnp.zeros((n_histories, dim))
    (squares_BDD, sums_BD), _ = jax.lax.scan(add, start, pieces.swapaxes(0, 1))
    return _solve(squares_BDD + unobserved * gram_DD[None], sums_BD, l2_B)


def gram(table_ND: Float[Array, "N D"]) -> Float[Array, "D D"]:
    """Returns H^T H."""
    return jnp.matmul(table_ND.T, table_ND, precision=_PRECISION)


def _with_zero_row(table_ND: Array) -> Array:
    """Returns the table with a row of zeros after the last, for padding."""
    return jnp.concatenate([table_ND, jnp.zeros((1, table_ND.shape[1]))])


def _moments(padded_table: Array, ids_KL: Array) -> tuple[Array, Array]:
    """Returns sum h h^T [K, D, D] and sum h [K, D] over each row of ids."""
    last = padded_table.shape[0] - 1
    rows_KLD = padded_table.at[jnp.where(ids_KL < 0, last, ids_KL)].get(mode="promise_in_bounds")
    return jnp.einsum("kld,kle->kde", rows_KLD, rows_KLD, precision=_PRECISION), rows_KLD.sum(1)


def _solve(squares_CDD: Array, sums_CD: Array, l2_C: Array) -> Array:
    regularised_CDD = squares_CDD + l2_C[:, None, None] * jnp.eye(squares_CDD.shape[1])[None]
    factor_CDD = jnp.linalg.cholesky(regularised_CDD)
    return jax.scipy.linalg.cho_solve((factor_CDD, True), sums_CD[..., None])[..., 0]
