"""MultDAE: a denoising autoencoder of a user's items with a multinomial likelihood.

Source: Liang et al., Variational Autoencoders for Collaborative Filtering (WWW 2018), section 2.2 and "Mult-DAE".

Shapes: B batch, L history length, V catalogue, K items returned.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from recjax.config import ModelConfig, Samples, check, config
from recjax.data.top_n import TopNSchema
from recjax.losses import multinomial_cross_entropy
from recjax.models.contract import Batch, HiddenUnits, mlp_hidden_units
from recjax.models.sharding import Rules, dense_rules, mlp_rules
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.mlp import MLP
from recjax.nn.penalty import squared_kernels
from recjax.nn.retrieval import top_unseen
from recjax.nn.rows import multi_hot, unit_length


@config
class MultDAEConfig(ModelConfig):
    """Sizes of a MultDAE."""

    task: ClassVar[str] = "top_n"

    hidden_dims: tuple[int, ...] = (200,)  # widths between the catalogue and itself, tanh
    dropout_rate: float = 0.5  # [0, 1); of the input, which is what denoising takes away
    l2: float = 0.0  # of all kernels, times their squared norm; >= 0

    def __post_init__(self) -> None:
        check(
            min(self.hidden_dims, default=0) >= 1,
            "MultDAEConfig.hidden_dims",
            self.hidden_dims,
            "one or more widths >= 1",
        )
        check(0 <= self.dropout_rate < 1, "MultDAEConfig.dropout_rate", self.dropout_rate, "[0, 1)")
        check(self.l2 >= 0, "MultDAEConfig.l2", self.l2, ">= 0")

    def build(self, schema: TopNSchema) -> "MultDAE":
        """Returns the module for a catalogue."""
        return MultDAE(config=self, schema=schema)

    def sharding_rules(self) -> Rules:
        """Returns the rules that split every second layer; the catalogue stays whole."""
        return (*dense_rules(f"mlp/dense_{len(self.hidden_dims)}", split="input"), *mlp_rules("mlp"))

    def samples(self) -> Samples:
        """Returns users with all their items."""
        return Samples(unit="users")

    def logit_layers(self) -> tuple[str, ...]:
        """Returns the layer that scores the catalogue."""
        return (f"mlp/dense_{len(self.hidden_dims)}",)

    def hidden_units(self) -> tuple[HiddenUnits, ...]:
        """Returns the hidden layers."""
        return mlp_hidden_units(self.hidden_dims, "hidden_dims", "mlp", f"mlp/dense_{len(self.hidden_dims)}")


class MultDAE(nn.Module):
    """The module; batches hold `history` [B, L] int32 (see recjax.data.top_n)."""

    config: MultDAEConfig
    schema: TopNSchema
    dots: Dots = FLOAT

    def setup(self) -> None:
        """Creates the layers."""
        widths = (*self.config.hidden_dims, self.schema.n_items)
        self.mlp = MLP(widths=widths, linear_end=True, activation=jnp.tanh, dots=self.dots)
        self.noise = nn.Dropout(self.config.dropout_rate)

    def logits(self, history_BL: Int[Array, "B L"], *, train: bool = False) -> Float[Array, "B V"]:
        """Returns the logit of every item; in training, of a history with items missing."""
        x_BV = self.noise(unit_length(multi_hot(history_BL, self.schema.n_items)), deterministic=not train)
        return self.mlp(x_BV, train=train)

    def loss(self, batch: Batch, *, train: bool) -> Float[Array, ""]:
        """Returns the mean multinomial negative log-likelihood of the histories, plus the L2 penalty."""
        logits_BV = self.logits(batch["history"], train=train)
        counts_BV = multi_hot(batch["history"], self.schema.n_items)
        loss = multinomial_cross_entropy(logits_BV, counts_BV, batch["weight"] > 0)
        return loss + self.config.l2 * squared_kernels(self.variables["params"])

    def __call__(self, batch: Batch) -> Float[Array, "B V"]:
        """Returns the logit of every item given each history."""
        return self.logits(batch["history"])

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `items` [B, K] int32 and `scores` [B, K] float32, best first, without the history's own items."""
        return top_unseen(self(batch), batch["history"], top_k)
