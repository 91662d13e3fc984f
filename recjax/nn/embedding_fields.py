"""One embedding of every categorical field of a labelled batch.

Shapes: B batch, F categorical fields, T the fields' bag lengths summed, D embedding dim.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from recjax.data.features import LabelledSchema
from recjax.nn.embedding import Embedding


class FieldEmbeddings(nn.Module):
    """A table a field, named `{prefix}_{field}`; bags are combined as their field says."""

    schema: LabelledSchema
    embedding_dim: int
    dtype: Any = jnp.float32
    table_init: Callable | None = None
    prefix: str = "table"

    @nn.compact
    def __call__(self, sparse_ids_BT: Int[Array, "B T"]) -> Float[Array, "B F D"]:
        """Returns each field's vector, in the order of the schema."""
        vectors = []
        for field, ids_BL in self.schema.split_fields(sparse_ids_BT):
            table = Embedding(
                field.vocab_size,
                self.embedding_dim,
                field.combiner,
                self.dtype,
                self.table_init,
                name=f"{self.prefix}_{field.name}",
            )
            vectors.append(table(ids_BL))
        return jnp.stack(vectors, 1)
