"""Matrix factorisation of explicit ratings, with the biases of users and items.

Source: Koren, Bell and Volinsky, Matrix Factorization Techniques for Recommender Systems (Computer 2009),
equations 4 and 5. Departure: Adam on batches in the place of SGD on single ratings.

Shapes: B batch, D embedding dim.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from recjax.config import ModelConfig, Samples, check, config
from recjax.data.rating import RatingSchema
from recjax.losses import masked_mean
from recjax.models.contract import Batch
from recjax.models.sharding import TABLES, Rules
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.embedding import Embedding


@config
class MatrixFactorizationConfig(ModelConfig):
    """Sizes of a biased matrix factorisation."""

    task: ClassVar[str] = "rating"

    embedding_dim: int = 32  # D; of users and items
    l2: float = 0.1  # of the two vectors that a rating looks up, times their squared norm; >= 0
    bias_l2: float = 0.01  # of the two biases, likewise; >= 0
    table_deviation: float = 0.1  # of the normal that initial vectors are drawn from

    def __post_init__(self) -> None:
        check(self.embedding_dim >= 1, "MatrixFactorizationConfig.embedding_dim", self.embedding_dim, ">= 1")
        check(self.l2 >= 0, "MatrixFactorizationConfig.l2", self.l2, ">= 0")
        check(self.bias_l2 >= 0, "MatrixFactorizationConfig.bias_l2", self.bias_l2, ">= 0")
        check(self.table_deviation > 0, "MatrixFactorizationConfig.table_deviation", self.table_deviation, "> 0")

    def build(self, schema: RatingSchema) -> "MatrixFactorization":
        """Returns the module for a set of users and items."""
        return MatrixFactorization(config=self, schema=schema)

    def sharding_rules(self) -> Rules:
        """Returns rules that split nothing: it has tables alone."""
        return TABLES

    def samples(self) -> Samples:
        """Returns single ratings."""
        return Samples()


class MatrixFactorization(nn.Module):
    """The module; batches as recjax.data.rating makes them."""

    config: MatrixFactorizationConfig
    schema: RatingSchema
    dots: Dots = FLOAT

    def setup(self) -> None:
        """Creates the tables."""
        c, init = self.config, nn.initializers.normal(self.config.table_deviation)
        self.users = Embedding(self.schema.n_users, c.embedding_dim, table_init=init)
        self.items = Embedding(self.schema.n_items, c.embedding_dim, table_init=init)
        self.user_biases = Embedding(self.schema.n_users, 1, table_init=nn.initializers.zeros)
        self.item_biases = Embedding(self.schema.n_items, 1, table_init=nn.initializers.zeros)

    def loss(self, batch: Batch, *, train: bool) -> Float[Array, ""]:
        """Returns the mean of squared error plus L2 penalty; `rating` is [B] float32."""
        del train
        user_BD, item_BD, bias_B2 = self._rows(batch)
        error_B = self._predict(user_BD, item_BD, bias_B2) - batch["rating"]
        penalty_B = self.config.l2 * (jnp.sum(user_BD**2, 1) + jnp.sum(item_BD**2, 1))
        penalty_B += self.config.bias_l2 * jnp.sum(bias_B2**2, 1)
        return masked_mean(error_B**2 + penalty_B, batch["weight"] > 0)

    def __call__(self, batch: Batch) -> Float[Array, "B"]:
        """Returns the rating of each (user, item): training mean + user bias + item bias + product of vectors."""
        return self._predict(*self._rows(batch))

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `rating` [B] float32, clipped to the data's scale; `top_k` has no meaning here."""
        del top_k
        return {"rating": jnp.clip(self(batch), self.schema.min_rating, self.schema.max_rating)}

    def _rows(self, batch: Batch) -> tuple[Float[Array, "B D"], Float[Array, "B D"], Float[Array, "B 2"]]:
        user_B, item_B = batch["user"], batch["item"]
        biases = self.user_biases.rows(user_B), self.item_biases.rows(item_B)
        return self.users.rows(user_B), self.items.rows(item_B), jnp.concatenate(biases, 1)

    def _predict(self, user_BD: Array, item_BD: Array, bias_B2: Array) -> Float[Array, "B"]:
        return self.schema.mean_rating + jnp.sum(bias_B2, 1) + jnp.sum(user_BD * item_BD, 1)
