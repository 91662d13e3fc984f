"""MultVAE: a variational autoencoder of a user's items with a multinomial likelihood.

Source: Liang et al., Variational Autoencoders for Collaborative Filtering (WWW 2018). Departure: the KL divergence is
annealed in a line to a cap given in advance, where the paper finds the cap on validation within a run.

Shapes: B batch, L history length, D code width, V catalogue, K items returned.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from recjax.config import ModelConfig, Samples, check, config
from recjax.data.top_n import TopNSchema
from recjax.losses import exposure_gap, masked_mean, multinomial_cross_entropy
from recjax.models.contract import Batch, HiddenUnits, mlp_hidden_units
from recjax.models.sharding import Rules, dense_rules, mlp_rules
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.mlp import MLP
from recjax.nn.retrieval import top_unseen
from recjax.nn.rows import multi_hot, unit_length


@config
class MultVAEConfig(ModelConfig):
    """Sizes of a MultVAE."""

    task: ClassVar[str] = "top_n"

    encoder_dims: tuple[int, ...] = (600,)  # widths between the catalogue and the code, tanh; () for none
    latent_dim: int = 200  # D; of the code
    decoder_dims: tuple[int, ...] = (600,)  # widths between the code and the catalogue, tanh; () for none
    dropout_rate: float = 0.5  # [0, 1); of the input
    kl_cap: float = 0.2  # weight of the KL divergence once annealing is over; >= 0
    annealing_steps: int = 400  # over which that weight rises from 0; 0 starts at the cap
    exposure_weight: float = 0.0  # of the squared exposure gap of popular items among unseen ones; 0 is off
    exposure_temperature: float = 0.3  # of the softmax that stands for a list in that gap; > 0

    def __post_init__(self) -> None:
        for name in ("encoder_dims", "decoder_dims"):
            widths = getattr(self, name)
            check(min(widths, default=1) >= 1, f"MultVAEConfig.{name}", widths, "widths >= 1, or none")
        check(self.latent_dim >= 1, "MultVAEConfig.latent_dim", self.latent_dim, ">= 1")
        check(0 <= self.dropout_rate < 1, "MultVAEConfig.dropout_rate", self.dropout_rate, "[0, 1)")
        check(self.kl_cap >= 0, "MultVAEConfig.kl_cap", self.kl_cap, ">= 0")
        check(self.annealing_steps >= 0, "MultVAEConfig.annealing_steps", self.annealing_steps, ">= 0")
        check(self.exposure_weight >= 0, "MultVAEConfig.exposure_weight", self.exposure_weight, ">= 0")
        temperature = self.exposure_temperature
        check(temperature > 0, "MultVAEConfig.exposure_temperature", temperature, "> 0")

    def build(self, schema: TopNSchema) -> "MultVAE":
        """Returns the module for a catalogue."""
        return MultVAE(config=self, schema=schema)

    def sharding_rules(self) -> Rules:
        """Returns the rules that split encoder and decoder by their hidden units; the catalogue stays whole."""
        return (
            *dense_rules(f"decoder/dense_{len(self.decoder_dims)}", split="input"),
            *mlp_rules("encoder"),
            *mlp_rules("decoder"),
        )

    def samples(self) -> Samples:
        """Returns users with all their items."""
        return Samples(unit="users")

    def logit_layers(self) -> tuple[str, ...]:
        """Returns the layer that scores the catalogue."""
        return (f"decoder/dense_{len(self.decoder_dims)}",)

    def hidden_units(self) -> tuple[HiddenUnits, ...]:
        """Returns the hidden layers on both sides of the code."""
        layers: list[HiddenUnits] = []
        for field, module, widths in (
            ("encoder_dims", "encoder", self.encoder_dims),
            ("decoder_dims", "decoder", self.decoder_dims),
        ):
            if widths:
                layers += mlp_hidden_units(widths, field, module, f"{module}/dense_{len(widths)}")
        return tuple(layers)


class MultVAE(nn.Module):
    """The module; batches hold `history` [B, L] int32 (see recjax.data.top_n)."""

    config: MultVAEConfig
    schema: TopNSchema
    dots: Dots = FLOAT

    def setup(self) -> None:
        """Creates encoder and decoder."""
        c = self.config
        common: dict[str, Any] = {
            "linear_end": True,
            "activation": jnp.tanh,
            "dots": self.dots,
        }
        self.encoder = MLP(widths=(*c.encoder_dims, 2 * c.latent_dim), **common)
        self.decoder = MLP(widths=(*c.decoder_dims, self.schema.n_items), **common)
        self.noise = nn.Dropout(c.dropout_rate)

    def encode(
        self, history_BL: Int[Array, "B L"], *, train: bool = False
    ) -> tuple[Float[Array, "B D"], Float[Array, "B D"]]:
        """Returns mean and log variance of each history's code."""
        x_BV = self.noise(unit_length(multi_hot(history_BL, self.schema.n_items)), deterministic=not train)
        mean_BD, log_variance_BD = jnp.split(self.encoder(x_BV, train=train), 2, axis=1)
        return mean_BD, log_variance_BD

    def kl_weight(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """Returns the weight of the KL divergence after so many steps: a line from 0 up to its cap."""
        return self.config.kl_cap * jnp.minimum((step + 1) / max(self.config.annealing_steps, 1), 1.0)

    def loss(self, batch: Batch, *, train: bool) -> Float[Array, ""]:
        """Returns the mean negative ELBO of the histories; without `train`, of the mean code, at the KL's cap.

        With an exposure weight, that times the squared exposure gap (recjax.losses) of the unseen items is added.
        """
        code_BD, log_variance_BD = self.encode(batch["history"], train=train)
        # KL(N(mean, variance) || N(0, 1)), summed over the code.
        kl_B = 0.5 * jnp.sum(code_BD**2 + jnp.exp(log_variance_BD) - 1 - log_variance_BD, axis=1)
        if train:
            noise_BD = jax.random.normal(self.make_rng("dropout"), code_BD.shape)
            code_BD += jnp.exp(log_variance_BD / 2) * noise_BD
        counts_BV, real_B = multi_hot(batch["history"], self.schema.n_items), batch["weight"] > 0
        logits_BV = self.decoder(code_BD, train=train)
        kl_weight = self.kl_weight(batch["step"]) if train else self.config.kl_cap
        loss = multinomial_cross_entropy(logits_BV, counts_BV, real_B) + kl_weight * masked_mean(kl_B, real_B)
        if not self.config.exposure_weight:
            return loss
        unseen_BV, item_counts_V = (counts_BV == 0) & real_B[:, None], batch["context"]["item_counts"]
        gap = exposure_gap(logits_BV, unseen_BV, item_counts_V, self.config.exposure_temperature)
        return loss + self.config.exposure_weight * gap**2

    def __call__(self, batch: Batch) -> Float[Array, "B V"]:
        """Returns the logit of every item given each history's mean code."""
        return self.decoder(self.encode(batch["history"])[0])

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `items` [B, K] int32 and `scores` [B, K] float32, best first, without the history's own items."""
        return top_unseen(self(batch), batch["history"], top_k)
