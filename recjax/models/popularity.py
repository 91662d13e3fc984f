"""Popularity: every user gets the items with the most training interactions.

Shapes: B batch, V catalogue, K items returned, E training interactions.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from recjax.config import ModelConfig, Samples, config
from recjax.data.top_n import TopNSchema
from recjax.models.contract import Batch
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.retrieval import top_unseen


@config
class PopularityConfig(ModelConfig):
    """It has no sizes: one count per item."""

    task: ClassVar[str] = "top_n"

    def build(self, schema: TopNSchema) -> "Popularity":
        """Returns the module for a catalogue."""
        return Popularity(config=self, schema=schema)

    def samples(self) -> Samples:
        """Returns that it is solved from all interactions at once; a user it has never seen is like any other."""
        return Samples(unit="everything", history=True)


class Popularity(nn.Module):
    """The module; batches as recjax.data.top_n makes them."""

    config: PopularityConfig
    schema: TopNSchema
    dots: Dots = FLOAT

    def setup(self) -> None:
        """Creates the counts."""
        self.counts = self.param("counts", nn.initializers.zeros, (self.schema.n_items,))

    def update(self, batch: Batch) -> tuple[dict[str, Array], Float[Array, ""]]:
        """Returns how many interactions each item has; there is no loss to speak of."""
        return {"counts": jnp.zeros(self.schema.n_items).at[batch["item"]].add(1.0)}, jnp.zeros([])

    def __call__(self, batch: Batch) -> Float[Array, "B V"]:
        """Returns each item's count, the same for all users."""
        return jnp.broadcast_to(self.counts, (batch["history"].shape[0], self.schema.n_items))

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `items` [B, K] int32 and `scores` [B, K] float32, best first, without the user's own items."""
        return top_unseen(self(batch), batch["history"], top_k)
