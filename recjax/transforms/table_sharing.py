"""Tables with fewer rows than ids: before training by hashing, after it by merging rare rows.

Shapes: V vocabulary, D embedding dim, M rows, K rows kept.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from recjax.errors import UserError


def hashed(table_VD: Float[Array, "V D"], ratio: float) -> dict[str, Array]:
    """Returns ratio x V of the drawn rows, which ids will share; each is as likely as any other."""
    return {"hashed": table_VD[: max(1, round(ratio * len(table_VD)))]}


def composed_rows(vocab_size: int, ratio: float) -> tuple[int, int] | None:
    """Returns the numbers of quotient and of remainder rows, together about ratio x V; None if there are none so few.

    M remainders need V / M quotients, at least 2 sqrt(V) rows in all. Of the two solutions the one with more remainders
    is taken; the other mirrors it.
    """
    wanted = ratio * vocab_size
    if (under_root := wanted**2 - 4 * vocab_size) < 0:
        return None
    n_remainders = max(1, math.floor((wanted + math.sqrt(under_root)) / 2))
    return -(-vocab_size // n_remainders), n_remainders


def composed(table_VD: Float[Array, "V D"], sizes: tuple[int, int], seed: int) -> dict[str, Array]:
    """Returns drawn quotient and remainder rows whose products have the deviation of the drawn table.

    Of a table that is drawn as zeros the remainders are zeros and the quotients ones, so that it can be learned.
    """
    dim, dtype, deviation = table_VD.shape[1], table_VD.dtype, float(table_VD.std())
    if deviation == 0:
        return {"quotient": jnp.ones((sizes[0], dim), dtype), "remainder": jnp.zeros((sizes[1], dim), dtype)}
    keys = jax.random.split(jax.random.key(seed))
    drawn = (jax.random.normal(key, (n, dim), dtype) for key, n in zip(keys, sizes, strict=True))
    quotient, remainder = (math.sqrt(deviation) * rows for rows in drawn)
    return {"quotient": quotient, "remainder": remainder}


def pruned(
    table_VD: Float[Array, "V D"], counts_V: NDArray[np.int32], is_kept_V: NDArray[np.bool_]
) -> dict[str, Array]:
    """Returns the rows kept and behind them the mean of the others, weighted by their counts."""
    n_kept = int(is_kept_V.sum())
    row_of_V = np.where(is_kept_V, np.cumsum(is_kept_V) - 1, n_kept).astype(np.int32)
    others = np.asarray(table_VD, np.float32)[~is_kept_V]
    mean_D = np.average(others, axis=0, weights=counts_V[~is_kept_V] + 1e-6)
    kept = jnp.concatenate([table_VD[np.flatnonzero(is_kept_V)], jnp.asarray(mean_D[None], table_VD.dtype)])
    return {"kept": kept, "row_of": jnp.asarray(row_of_V)}


def rows_kept(counts_V: NDArray[np.int32], min_count: int, share: float) -> NDArray[np.bool_]:
    """Returns which rows are kept: those looked up `min_count` times, or all but the `share` that are looked up least.

    Of rows that are looked up equally often the later ones go first.
    """
    if min_count:
        return counts_V >= min_count
    is_kept_V = np.zeros(len(counts_V), bool)
    n_kept = len(counts_V) - math.floor(share * len(counts_V) + 1e-9)
    is_kept_V[np.argsort(-counts_V.astype(np.int64), kind="stable")[:n_kept]] = True
    return is_kept_V


def check_counted(counts_V: NDArray[np.int32], path: str, label: str) -> NDArray[np.int32]:
    """Returns the counts; raises UserError if there are none."""
    if not counts_V.any():
        raise UserError(
            f"{label} needs to know which rows of {path} are popular, and the training loss looks none of them up by "
            "id; leave that table out, or use a method that counts nothing"
        )
    return counts_V
