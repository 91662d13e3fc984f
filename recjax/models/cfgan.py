"""CFGAN: a generator writes a user's whole purchase vector and a discriminator tells it from the real one.

Source: Chae et al., CFGAN: A Generic Collaborative Filtering Framework based on Generative Adversarial Networks
(CIKM 2018), user-based, with zero reconstruction and partial masking (CFGAN_ZP). Departures: both players
take each step at once, in the place of alternating runs of steps; the generator lowers -log D in the place of
log(1 - D), whose gradient vanishes where D is sure (Goodfellow et al., Generative Adversarial Nets, 2014, section 3);
zero reconstruction sums over all unpurchased items, which is what sampling them does in expectation; what the
generator writes passes a sigmoid; and its input may have items missing, as in a denoising autoencoder.

Shapes: B batch, L history length, V catalogue, K items returned.
"""

from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from recjax.config import ModelConfig, Samples, check, config
from recjax.data.top_n import TopNSchema
from recjax.losses import masked_mean
from recjax.models.contract import Batch, HiddenUnits, mlp_hidden_units
from recjax.models.sharding import Rules, mlp_rules
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.mlp import MLP
from recjax.nn.penalty import squared_kernels
from recjax.nn.retrieval import top_unseen
from recjax.nn.rows import multi_hot

ACTIVATIONS = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh, "relu": jax.nn.relu}


@config
class CFGANConfig(ModelConfig):
    """Sizes of a CFGAN."""

    task: ClassVar[str] = "top_n"

    generator_dims: tuple[int, ...] = (400,)  # hidden widths
    discriminator_dims: tuple[int, ...] = (125,)  # hidden widths
    activation: Literal["sigmoid", "tanh", "relu"] = "sigmoid"  # of the hidden layers of both
    zero_reconstruction: float = 0.05  # weight of the squared values of unpurchased items; >= 0
    partial_masking: float = 0.1  # [0, 1]; share of unpurchased items that the discriminator sees as generated
    dropout_rate: float = 0.0  # [0, 1); of the generator's input
    l2: float = 0.0  # of all kernels, times their squared norm; >= 0

    def __post_init__(self) -> None:
        for name in ("generator_dims", "discriminator_dims"):
            widths = getattr(self, name)
            check(min(widths, default=0) >= 1, f"CFGANConfig.{name}", widths, "one or more widths >= 1")
        check(self.zero_reconstruction >= 0, "CFGANConfig.zero_reconstruction", self.zero_reconstruction, ">= 0")
        check(0 <= self.partial_masking <= 1, "CFGANConfig.partial_masking", self.partial_masking, "[0, 1]")
        check(0 <= self.dropout_rate < 1, "CFGANConfig.dropout_rate", self.dropout_rate, "[0, 1)")
        check(self.l2 >= 0, "CFGANConfig.l2", self.l2, ">= 0")

    def build(self, schema: TopNSchema) -> "CFGAN":
        """Returns the module for a catalogue."""
        return CFGAN(config=self, schema=schema)

    def sharding_rules(self) -> Rules:
        """Returns the rules that split both networks by their hidden units."""
        return (*mlp_rules("generator"), *mlp_rules("discriminator"))

    def samples(self) -> Samples:
        """Returns users with all their items."""
        return Samples(unit="users")

    def logit_layers(self) -> tuple[str, ...]:
        """Returns the layer that scores the catalogue."""
        return (f"generator/dense_{len(self.generator_dims)}",)

    def hidden_units(self) -> tuple[HiddenUnits, ...]:
        """Returns the generator's hidden layers; the discriminator only trains it."""
        following = f"generator/dense_{len(self.generator_dims)}"
        return mlp_hidden_units(self.generator_dims, "generator_dims", "generator", following)


def discriminate(
    discriminator: MLP, vectors_BV: Float[Array, "B V"], purchased_BV: Float[Array, "B V"]
) -> Float[Array, "B"]:
    """Returns the logit of each vector being real, given the user's purchases."""
    return discriminator(jnp.concatenate([vectors_BV, purchased_BV], axis=1))[:, 0]


class CFGAN(nn.Module):
    """The module; batches hold `history` [B, L] int32 (see recjax.data.top_n)."""

    config: CFGANConfig
    schema: TopNSchema
    dots: Dots = FLOAT

    def setup(self) -> None:
        """Creates both players."""
        c = self.config
        common: dict[str, Any] = {"linear_end": True, "activation": ACTIVATIONS[c.activation]}
        self.generator = MLP(widths=(*c.generator_dims, self.schema.n_items), dots=self.dots, **common)
        self.discriminator = MLP(widths=(*c.discriminator_dims, 1), **common)  # float: it is never served
        self.noise = nn.Dropout(c.dropout_rate)

    def generate(self, history_BL: Int[Array, "B L"], *, train: bool = False) -> Float[Array, "B V"]:
        """Returns the logit of every coordinate of the purchase vectors that the generator writes."""
        x_BV = self.noise(multi_hot(history_BL, self.schema.n_items), deterministic=not train)
        return self.generator(x_BV, train=train)

    def loss(self, batch: Batch, *, train: bool) -> Float[Array, ""]:
        """Returns the mean losses of both players, with zero reconstruction, plus the L2 penalty.

        No gradient passes from one player's loss to the other. Without `train`, no unpurchased item is unmasked.
        """
        purchased_BV = multi_hot(batch["history"], self.schema.n_items)
        written_BV = jax.nn.sigmoid(self.generate(batch["history"], train=train))
        seen_BV = purchased_BV > 0
        if train:
            seen_BV |= jax.random.bernoulli(self.make_rng("dropout"), self.config.partial_masking, seen_BV.shape)
        fake_BV = written_BV * seen_BV
        # The discriminator: label 1 on the real vector, 0 on the generated one.
        both_BV = jnp.concatenate([purchased_BV, jax.lax.stop_gradient(fake_BV)])
        real_B, fake_B = jnp.split(discriminate(self.discriminator, both_BV, jnp.tile(purchased_BV, (2, 1))), 2)
        discriminator_B = jax.nn.softplus(-real_B) + jax.nn.softplus(fake_B)
        # The generator, judged by a copy of the discriminator that does not learn from it.
        judge = self.discriminator.clone(parent=None)
        judge = judge.bind({"params": jax.lax.stop_gradient(self.discriminator.variables["params"])})
        generator_B = jax.nn.softplus(-discriminate(judge, fake_BV, purchased_BV))
        generator_B += self.config.zero_reconstruction * jnp.sum(written_BV**2 * (1 - purchased_BV), axis=1)
        mean = masked_mean(discriminator_B + generator_B, batch["weight"] > 0)
        return mean + self.config.l2 * squared_kernels(self.variables["params"])

    def __call__(self, batch: Batch) -> Float[Array, "B V"]:
        """Returns the generator's logit of every item given each history."""
        return self.generate(batch["history"])

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `items` [B, K] int32 and `scores` [B, K] float32, best first, without the history's own items."""
        return top_unseen(self(batch), batch["history"], top_k)
