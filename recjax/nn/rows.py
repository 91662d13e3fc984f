"""Padded lists of ids as rows of a matrix.

Shapes: B batch, L list length, V vocabulary.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def multi_hot(ids_BL: Int[Array, "B L"], n: int, values_BL: Float[Array, "B L"] | None = None) -> Float[Array, "B V"]:
    """Returns rows of width n that hold `values_BL` (1 where None) at the ids and 0 elsewhere.

    Ids outside [0, n), such as padding, are left out. An id must not stand twice in a row.
    """
    dropped_BL = jnp.where(ids_BL < 0, n, ids_BL)  # a negative index would count from the end
    values = 1.0 if values_BL is None else values_BL
    rows_B1 = jnp.arange(ids_BL.shape[0])[:, None]
    return jnp.zeros((ids_BL.shape[0], n)).at[rows_B1, dropped_BL].set(values, mode="drop")


def unit_length(rows_BV: Float[Array, "B V"]) -> Float[Array, "B V"]:
    """Returns the rows divided by their L2 norm; rows of zeros stay zeros."""
    squared_B1 = jnp.sum(rows_BV**2, axis=1, keepdims=True)
    return rows_BV * jnp.where(squared_B1 > 0, jax.lax.rsqrt(jnp.where(squared_B1 > 0, squared_B1, 1.0)), 0.0)
