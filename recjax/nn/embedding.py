"""Embedding lookups: one row per id, or the sum or mean of a bag of rows.

Shapes: B batch, L bag length, D embedding dim, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from recjax.data.batches import PADDING_ID
from recjax.nn import integer_rows
from recjax.nn.dense import stored_weight
from recjax.nn.tables import all_rows, holds_integers, read_rows, scores


class Embedding(nn.Module):
    """A table of V rows; ids must lie in [0, V), and in bags may be PADDING_ID, which adds nothing.

    It may be stored in any form of recjax.nn.tables.

    The gathers promise their bounds to XLA, which on a CPU halves a lookup's time against the default fill
    mode. recjax.data numbers ids densely, so its batches keep the promise; nothing checks it here.
    """

    vocab_size: int
    embedding_dim: int
    combiner: Literal["sum", "mean"] = "mean"
    dtype: Any = jnp.float32
    table_init: Callable | None = None  # None draws from a normal of deviation 1/sqrt(D)

    def setup(self) -> None:
        """Creates the table."""
        init = self.table_init or nn.initializers.normal(self.embedding_dim**-0.5)
        self.stored = stored_weight(self, "table", init, (self.vocab_size, self.embedding_dim))

    @property
    def table(self) -> Float[Array, "V D"]:
        """Returns all rows."""
        return all_rows(self.stored, self.vocab_size, self.dtype)

    def rows(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
        """Returns the row of each id."""
        return read_rows(self.stored, ids, self.dtype)

    def scores(self, x_BD: Float[Array, "B D"]) -> Float[Array, "B V"]:
        """Returns the float32 inner product of each vector with every row."""
        return scores(self.stored, x_BD, self.vocab_size)

    def __call__(self, ids_BL: Int[Array, "B L"]) -> Float[Array, "B D"]:
        """Returns each bag's combined row; an empty bag gives zeros."""
        used_BL = ids_BL != PADDING_ID
        ids_BL = jnp.where(used_BL, ids_BL, 0)
        bag_BD = jnp.zeros((ids_BL.shape[0], self.embedding_dim), self.dtype)
        if holds_integers(self.stored):
            bag_BD += integer_rows.sum_rows(self.stored, ids_BL, used_BL.astype(jnp.float32), self.dtype)
        else:
            for position in range(ids_BL.shape[1]):  # 3x faster on a CPU than gathering [B, L, D]
                bag_BD += self.rows(ids_BL[:, position]) * used_BL[:, position, None].astype(self.dtype)
        return self._averaged(bag_BD, used_BL)

    def pool(self, rows_BLD: Float[Array, "B L D"], used_BL: Bool[Array, "B L"]) -> Float[Array, "B D"]:
        """Returns each bag's combined row, given all of its rows; those that are not used count for nothing."""
        return self._averaged(jnp.sum(rows_BLD * used_BL[..., None].astype(self.dtype), axis=1), used_BL)

    def _averaged(self, sum_BD: Array, used_BL: Array) -> Array:
        if self.combiner == "mean":
            sum_BD /= jnp.maximum(used_BL.sum(1, keepdims=True), 1).astype(self.dtype)
        return sum_BD
