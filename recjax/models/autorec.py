"""AutoRec: an autoencoder of one item's (or user's) ratings that fills in the missing ones.

Source: Sedhain et al., AutoRec: Autoencoders Meet Collaborative Filtering (WWW 2015). Departures: Adam in the place
of L-BFGS, and outputs start at the training mean: the output layer's kernel begins at zero, so that a user or item
without a training rating is predicted the mean, where the paper says 3.

Shapes: B batch, L ratings of the longest row, C columns: users in a row of an item, items in a row of a user.
"""

from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recjax.config import ModelConfig, Samples, check, config
from recjax.data.rating import RatingSchema
from recjax.losses import masked_mean
from recjax.models.contract import Batch, HiddenUnits, mlp_hidden_units
from recjax.models.sharding import Rules, dense_rules, mlp_rules
from recjax.nn.dense import Dense
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.mlp import MLP
from recjax.nn.penalty import squared_kernels
from recjax.nn.rows import multi_hot


@config
class AutoRecConfig(ModelConfig):
    """Sizes of an AutoRec."""

    task: ClassVar[str] = "rating"

    by: Literal["items", "users"] = "items"  # whose rows are reconstructed: I-AutoRec or U-AutoRec
    hidden_dims: tuple[int, ...] = (500,)  # widths of the sigmoid layers
    l2: float = 1e-4  # of all kernels, times their squared norm, beside the mean squared error; >= 0
    dropout_rate: float = 0.0  # [0, 1); of the hidden layers

    def __post_init__(self) -> None:
        check(
            min(self.hidden_dims, default=0) >= 1,
            "AutoRecConfig.hidden_dims",
            self.hidden_dims,
            "one or more widths >= 1",
        )
        check(self.l2 >= 0, "AutoRecConfig.l2", self.l2, ">= 0")
        check(0 <= self.dropout_rate < 1, "AutoRecConfig.dropout_rate", self.dropout_rate, "[0, 1)")

    def build(self, schema: RatingSchema) -> "AutoRec":
        """Returns the module for a set of users and items."""
        return AutoRec(config=self, schema=schema)

    def sharding_rules(self) -> Rules:
        """Returns the rules that split the encoder by its units."""
        return (*mlp_rules("encoder"), *dense_rules("decoder", split="input"))

    def samples(self) -> Samples:
        """Returns whole rows of ratings."""
        return Samples(unit=self.by)

    def logit_layers(self) -> tuple[str, ...]:
        """Returns the layer that gives a whole row of ratings."""
        return ("decoder",)

    def hidden_units(self) -> tuple[HiddenUnits, ...]:
        """Returns the sigmoid layers."""
        return mlp_hidden_units(self.hidden_dims, "hidden_dims", "encoder", "decoder")


class AutoRec(nn.Module):
    """The module; batches hold `row_ids` [B, L] int32 and `row_ratings` [B, L] float32 (see recjax.data.rating)."""

    config: AutoRecConfig
    schema: RatingSchema
    dots: Dots = FLOAT

    @property
    def n_columns(self) -> int:
        """Returns the length C of a whole row."""
        return self.schema.n_users if self.config.by == "items" else self.schema.n_items

    def setup(self) -> None:
        """Creates the layers on both sides of the code."""
        c = self.config
        common: dict[str, Any] = {"dots": self.dots}
        self.encoder = MLP(widths=c.hidden_dims, dropout_rate=c.dropout_rate, activation=jax.nn.sigmoid, **common)
        self.decoder = Dense(self.n_columns, kernel_init=nn.initializers.zeros, **common)

    def reconstruct(self, batch: Batch, *, train: bool = False) -> Float[Array, "B C"]:
        """Returns every rating of each row, known or not; a row without any gives the training mean."""
        ratings_BC = multi_hot(batch["row_ids"], self.n_columns, batch["row_ratings"])
        deviation_BC = self.decoder(self.encoder(ratings_BC, train=train))
        has_any_B1 = jnp.any(batch["row_ids"] >= 0, axis=1, keepdims=True)
        return self.schema.mean_rating + deviation_BC * has_any_B1

    def loss(self, batch: Batch, *, train: bool) -> Float[Array, ""]:
        """Returns the mean squared error over the known ratings of the batch, plus the L2 penalty."""
        known_BC = multi_hot(batch["row_ids"], self.n_columns) * batch["weight"][:, None] > 0
        ratings_BC = multi_hot(batch["row_ids"], self.n_columns, batch["row_ratings"])
        error_BC = self.reconstruct(batch, train=train) - ratings_BC
        mean_square = masked_mean(error_BC**2, known_BC)
        return mean_square + self.config.l2 * squared_kernels(self.variables["params"])

    def __call__(self, batch: Batch) -> Float[Array, "B"]:
        """Returns the rating at `column` [B] of each row."""
        return jnp.take_along_axis(self.reconstruct(batch), batch["column"][:, None], axis=1)[:, 0]

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `rating` [B] float32, clipped to the scale; `top_k` has no meaning for one candidate a sample."""
        del top_k
        return {"rating": jnp.clip(self(batch), self.schema.min_rating, self.schema.max_rating)}
