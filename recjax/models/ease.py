"""EASE: a linear autoencoder of users' rows whose weights from item to item are had in closed form.

Source: Steck, Embarrassingly Shallow Autoencoders for Sparse Data (WWW 2019), equation 8.

Solving inverts a V x V matrix: about 2 V^3 operations and three or four matrices of 4 V^2 bytes at once. It stores
4 V^2 bytes (11 MB for 1,682 items, 2.9 GB for 27,000), a quarter of it as int8: beyond some tens of thousands of
items, use iALS.

Shapes: B batch, V catalogue, K items returned.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recjax.config import ModelConfig, Samples, check, config
from recjax.data.top_n import TopNSchema
from recjax.models.contract import Batch
from recjax.nn.dense import Dense
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.pieces import co_occurrence
from recjax.nn.retrieval import top_unseen
from recjax.nn.rows import multi_hot


@config
class EASEConfig(ModelConfig):
    """Its one number."""

    task: ClassVar[str] = "top_n"

    l2: float = 250.0  # lambda, in interactions: what is added to every item's count; > 0

    def __post_init__(self) -> None:
        check(self.l2 > 0, "EASEConfig.l2", self.l2, "> 0")

    def build(self, schema: TopNSchema) -> "EASE":
        """Returns the module for a catalogue."""
        return EASE(config=self, schema=schema)

    def samples(self) -> Samples:
        """Returns that it is solved from all interactions at once, and reads histories."""
        return Samples(unit="everything", history=True)


class EASE(nn.Module):
    """The module; batches as recjax.data.top_n makes them.

    A row of the catalogue times the dense matrix, not the sum of the rows of the user's items: for 1,682 items that is
    as fast at 1 to 64 users and 1.8 times as fast at 256 (2 cores of a CPU), and its dots can be int8.
    """

    config: EASEConfig
    schema: TopNSchema
    dots: Dots = FLOAT

    def setup(self) -> None:
        """Creates the weights."""
        self.weights = Dense(
            self.schema.n_items,
            use_bias=False,
            kernel_init=nn.initializers.zeros,
            dots=self.dots,
        )

    def update(self, batch: Batch) -> tuple[dict[str, Any], Float[Array, ""]]:
        """Returns the weights that minimise |X - X B|^2 + l2 |B|^2 with a zero diagonal, and the mean square error."""
        if self.is_initializing():
            self.weights(jnp.zeros((1, self.schema.n_items)))  # a Dense layer's kernel is made by its first call
        gram_VV = co_occurrence(batch["user"], batch["item"], self.schema.n_users, self.schema.n_items)
        weights_VV = solve(gram_VV, self.config.l2)
        # |X - X B|^2 from the gram alone: tr G - 2 tr(G B) + tr(B^T G B), G being symmetric.
        error = jnp.trace(gram_VV) - jnp.sum((2 * gram_VV - gram_VV @ weights_VV) * weights_VV)
        return {"weights": {"kernel": weights_VV}}, error / float(self.schema.n_users * self.schema.n_items)

    def __call__(self, batch: Batch) -> Float[Array, "B V"]:
        """Returns each user's score of every item."""
        return self.weights(multi_hot(batch["history"], self.schema.n_items))

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `items` [B, K] int32 and `scores` [B, K] float32, best first, without the user's own items."""
        return top_unseen(self(batch), batch["history"], top_k)


def solve(gram_VV: Float[Array, "V V"], l2: float) -> Float[Array, "V V"]:
    """Returns B = I - P diag(1 / P), P being the inverse of the gram matrix plus l2 on its diagonal."""
    eye_VV = jnp.eye(len(gram_VV))
    factor_VV = jnp.linalg.cholesky(gram_VV + l2 * eye_VV)
    inverse_VV = jax.scipy.linalg.cho_solve((factor_VV, True), eye_VV)
    return jnp.where(eye_VV > 0, 0.0, -inverse_VV / jnp.diag(inverse_VV)[None])
