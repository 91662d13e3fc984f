"""CDAE: a denoising autoencoder of a user's items with one more input node, the user.

Source: Wu et al., Collaborative Denoising Auto-Encoders for Top-N Recommender Systems (WSDM 2016), with its logistic
loss. Departure: sampled negatives are replaced by their expectation, each unobserved item with the probability
that it would be drawn as its weight: the row is dense on the device anyway, and the gradient has less noise.

Shapes: B batch, L history length, V catalogue, D hidden width, K items returned.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recjax.config import ModelConfig, Samples, check, config
from recjax.data.top_n import TopNSchema
from recjax.losses import masked_mean
from recjax.models.contract import Batch, HiddenUnits
from recjax.models.sharding import TABLES, Rules, dense_rules
from recjax.nn.dense import Dense
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.embedding import Embedding
from recjax.nn.penalty import squared_kernels
from recjax.nn.retrieval import top_unseen
from recjax.nn.rows import multi_hot

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "identity": lambda x: x,
}


@config
class CDAEConfig(ModelConfig):
    """Sizes of a CDAE."""

    task: ClassVar[str] = "top_n"

    hidden_dims: tuple[int, ...] = (200,)  # (D,); one hidden layer
    activation: Literal["sigmoid", "tanh", "identity"] = "sigmoid"  # of the hidden layer
    dropout_rate: float = 0.5  # [0, 1); of the input
    negatives: int = 5  # unobserved items that count for each observed one, in expectation; 0 counts all
    l2: float = 0.0  # of kernels and user nodes, times their squared norm; >= 0

    def __post_init__(self) -> None:
        one_width = len(self.hidden_dims) == 1 and self.hidden_dims[0] >= 1
        check(one_width, "CDAEConfig.hidden_dims", self.hidden_dims, "one width >= 1")
        check(0 <= self.dropout_rate < 1, "CDAEConfig.dropout_rate", self.dropout_rate, "[0, 1)")
        check(self.negatives >= 0, "CDAEConfig.negatives", self.negatives, ">= 0")
        check(self.l2 >= 0, "CDAEConfig.l2", self.l2, ">= 0")

    def build(self, schema: TopNSchema) -> "CDAE":
        """Returns the module for a set of users and items."""
        return CDAE(config=self, schema=schema)

    def sharding_rules(self) -> Rules:
        """Returns the rules that split the code."""
        return (*dense_rules("encoder", split="output"), *dense_rules("decoder", split="input"), *TABLES)

    def samples(self) -> Samples:
        """Returns users with all their items."""
        return Samples(unit="users")

    def logit_layers(self) -> tuple[str, ...]:
        """Returns the layer that scores the catalogue."""
        return ("decoder",)

    def hidden_units(self) -> tuple[HiddenUnits, ...]:
        """Returns the hidden layer; its units own a column of the user nodes too."""
        slices = (("encoder/kernel", 1), ("encoder/bias", 0), ("users/table", 1), ("decoder/kernel", 0))
        return (HiddenUnits(field="hidden_dims", index=0, slices=slices),)


class CDAE(nn.Module):
    """The module; batches hold `user` [B] int32 and `history` [B, L] int32 (see recjax.data.top_n)."""

    config: CDAEConfig
    schema: TopNSchema
    dots: Dots = FLOAT

    def setup(self) -> None:
        """Creates both layers and the user nodes."""
        common: dict[str, Any] = {"dots": self.dots}
        (width,) = self.config.hidden_dims
        self.encoder = Dense(width, **common)
        # Nodes start at zero and users outside the training part keep it: for them this is a denoising autoencoder.
        self.users = Embedding(self.schema.n_users, width, table_init=nn.initializers.zeros)
        self.decoder = Dense(self.schema.n_items, **common)
        self.noise = nn.Dropout(self.config.dropout_rate)

    def logits(self, batch: Batch, *, train: bool = False) -> Float[Array, "B V"]:
        """Returns the logit of every item; in training, of a history with items missing."""
        x_BV = self.noise(multi_hot(batch["history"], self.schema.n_items), deterministic=not train)
        hidden_BD = ACTIVATIONS[self.config.activation](self.encoder(x_BV) + self.users.rows(batch["user"]))
        return self.decoder(hidden_BD)

    def entry_weights(self, observed_BV: Float[Array, "B V"]) -> Float[Array, "B V"]:
        """Returns how much each entry counts: 1 if observed, else the probability of being drawn as a negative."""
        n_observed_B1 = jnp.sum(observed_BV, axis=1, keepdims=True)
        share_B1 = jnp.ones_like(n_observed_B1)
        if self.config.negatives:
            n_unobserved_B1 = jnp.maximum(self.schema.n_items - n_observed_B1, 1)
            share_B1 = jnp.minimum(self.config.negatives * n_observed_B1 / n_unobserved_B1, 1.0)
        return jnp.where(observed_BV > 0, 1.0, share_B1)

    def loss(self, batch: Batch, *, train: bool) -> Float[Array, ""]:
        """Returns the mean over users of their summed logistic loss, plus the L2 penalty."""
        observed_BV = multi_hot(batch["history"], self.schema.n_items)
        logits_BV = self.logits(batch, train=train)
        entry_BV = jnp.logaddexp(logits_BV, 0.0) - logits_BV * observed_BV
        loss_B = jnp.sum(self.entry_weights(observed_BV) * entry_BV, axis=1)
        penalty = squared_kernels(self.variables["params"]) + jnp.sum(self.users.table**2)
        return masked_mean(loss_B, batch["weight"] > 0) + self.config.l2 * penalty

    def __call__(self, batch: Batch) -> Float[Array, "B V"]:
        """Returns the logit of every item for each user."""
        return self.logits(batch)

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `items` [B, K] int32 and `scores` [B, K] float32, best first, without the user's own items."""
        return top_unseen(self(batch), batch["history"], top_k)
