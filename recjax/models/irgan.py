"""IRGAN: a generator draws items for a user, a discriminator rewards the ones that look like the user's own.

Source: Wang et al., IRGAN: A Minimax Game for Unifying Generative and Discriminative Information Retrieval Models
(SIGIR 2017), its item recommendation: both players are matrix factorisations, and the generator learns by policy
gradient. Departures: the generator is pretrained within the run, by the softmax likelihood of each user's items, for
`pretraining_steps` (the paper loads one that was pretrained before), and the likelihood stays beside the rewards: on
rewards alone, at Adam's step, it forgets what it knew. The discriminator learns from its draws all along, and from all
of a user's items in the place of a sample of them.

Shapes: B batch, L history length, K items drawn (or returned in `serve`), D embedding dim, V catalogue.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from recjax.config import ModelConfig, Samples, check, config
from recjax.data.top_n import TopNSchema
from recjax.losses import masked_mean, multinomial_cross_entropy
from recjax.models.contract import Batch
from recjax.models.sharding import TABLES, Rules
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.embedding import Embedding
from recjax.nn.retrieval import top_unseen
from recjax.nn.rows import multi_hot


@config
class IRGANConfig(ModelConfig):
    """Sizes of an IRGAN."""

    task: ClassVar[str] = "top_n"

    embedding_dim: int = 64  # D; of users and items of both players
    draws: int = 64  # K; items drawn for each user and player in a step
    pretraining_steps: int = 200  # of the generator, before it learns from rewards too; >= 0
    policy_weight: float = 1.0  # of the policy's loss from then on, beside the likelihood's; >= 0
    own_items_share: float = 0.2  # [0, 1); of the generator's draws that are forced onto the user's own items
    temperature: float = 0.2  # > 0; of the distribution that the discriminator's negatives are drawn from
    l2: float = 0.0  # of the looked-up users and all items of both players, times their squared norm; >= 0
    table_deviation: float = 0.05  # of the normal that initial embeddings are drawn from

    def __post_init__(self) -> None:
        for name in ("embedding_dim", "draws"):
            check(getattr(self, name) >= 1, f"IRGANConfig.{name}", getattr(self, name), ">= 1")
        check(self.pretraining_steps >= 0, "IRGANConfig.pretraining_steps", self.pretraining_steps, ">= 0")
        check(self.policy_weight >= 0, "IRGANConfig.policy_weight", self.policy_weight, ">= 0")
        check(0 <= self.own_items_share < 1, "IRGANConfig.own_items_share", self.own_items_share, "[0, 1)")
        check(self.temperature > 0, "IRGANConfig.temperature", self.temperature, "> 0")
        check(self.l2 >= 0, "IRGANConfig.l2", self.l2, ">= 0")
        check(self.table_deviation > 0, "IRGANConfig.table_deviation", self.table_deviation, "> 0")

    def build(self, schema: TopNSchema) -> "IRGAN":
        """Returns the module for a set of users and items."""
        return IRGAN(config=self, schema=schema)

    def sharding_rules(self) -> Rules:
        """Returns rules that split nothing: it has tables alone."""
        return TABLES

    def samples(self) -> Samples:
        """Returns users with all their items; a score comes from the user's vector alone."""
        return Samples(unit="users", known_users_only=True)


def draw_items(key: Key[Array, ""], probability_BV: Float[Array, "B V"], n: int) -> Int[Array, "B K"]:
    """Returns n items a row, drawn independently; one search in a cumulative sum each, not V random numbers."""
    cumulative_BV = jnp.cumsum(probability_BV, axis=1)
    drawn_BK = jax.random.uniform(key, (probability_BV.shape[0], n)) * cumulative_BV[:, -1:]
    items_BK = jax.vmap(lambda row_V, drawn_K: jnp.searchsorted(row_V, drawn_K, side="right"))(cumulative_BV, drawn_BK)
    return jnp.minimum(items_BK, probability_BV.shape[1] - 1).astype(jnp.int32)


class Player(nn.Module):
    """A matrix factorisation with an item bias."""

    n_users: int
    n_items: int
    embedding_dim: int
    table_deviation: float

    def setup(self) -> None:
        """Creates the tables."""
        init = nn.initializers.normal(self.table_deviation)
        self.users = Embedding(self.n_users, self.embedding_dim, table_init=init)
        self.items = Embedding(self.n_items, self.embedding_dim, table_init=init)
        self.item_biases = Embedding(self.n_items, 1, table_init=nn.initializers.zeros)

    def __call__(self, user_B: Int[Array, "B"]) -> Float[Array, "B V"]:
        """Returns each user's score of every item."""
        return self.users.rows(user_B) @ self.items.table.T + self.item_biases.table[None, :, 0]

    def penalty(self, user_B: Int[Array, "B"], real_B: Float[Array, "B"]) -> Float[Array, ""]:
        """Returns the squared norm of the rows in use, as a mean over users and over items."""
        of_user_B = jnp.sum(self.users.rows(user_B) ** 2, axis=1)
        return masked_mean(of_user_B, real_B > 0) + jnp.mean(jnp.sum(self.items.table**2, axis=1))


class IRGAN(nn.Module):
    """The module; batches hold `user` [B] int32 and `history` [B, L] int32 (see recjax.data.top_n)."""

    config: IRGANConfig
    schema: TopNSchema
    dots: Dots = FLOAT

    def setup(self) -> None:
        """Creates both players."""
        sizes = (self.schema.n_users, self.schema.n_items, self.config.embedding_dim, self.config.table_deviation)
        self.generator = Player(*sizes)
        self.discriminator = Player(*sizes)

    def loss(self, batch: Batch, *, train: bool) -> Float[Array, ""]:
        """Returns the mean losses of both players; without `train`, the parts of them that draw no items."""
        own_BV, real_B = multi_hot(batch["history"], self.schema.n_items), batch["weight"] > 0
        generator_BV, discriminator_BV = self.generator(batch["user"]), self.discriminator(batch["user"])
        n_own_B = jnp.maximum(jnp.sum(own_BV, axis=1), 1)
        likelihood = multinomial_cross_entropy(generator_BV, own_BV / n_own_B[:, None], real_B)
        own_B = jnp.sum(jax.nn.softplus(-discriminator_BV) * own_BV, axis=1) / n_own_B
        players = (self.generator, self.discriminator)
        penalty = self.config.l2 * sum(player.penalty(batch["user"], batch["weight"]) for player in players)
        if not train:
            return likelihood + masked_mean(own_B, real_B) + penalty
        drawn_B = self.drawn_loss(generator_BV, discriminator_BV)
        policy_B = self.policy_loss(generator_BV, discriminator_BV, own_BV)
        policy_weight = jnp.where(batch["step"] < self.config.pretraining_steps, 0.0, self.config.policy_weight)
        return likelihood + masked_mean(policy_weight * policy_B + own_B + drawn_B, real_B) + penalty

    def drawn_loss(self, generator_BV: Float[Array, "B V"], discriminator_BV: Float[Array, "B V"]) -> Float[Array, "B"]:
        """Returns the discriminator's mean loss on items that the generator draws: their label is 0."""
        probability_BV = jax.nn.softmax(jax.lax.stop_gradient(generator_BV) / self.config.temperature, axis=1)
        drawn_BK = draw_items(self.make_rng("dropout"), probability_BV, self.config.draws)
        return jax.nn.softplus(jnp.take_along_axis(discriminator_BV, drawn_BK, axis=1)).mean(axis=1)

    def policy_loss(
        self, generator_BV: Float[Array, "B V"], discriminator_BV: Float[Array, "B V"], own_BV: Float[Array, "B V"]
    ) -> Float[Array, "B"]:
        """Returns -mean(reward x log p) over drawn items, whose gradient is the policy's; only the generator has one.

        Items are drawn from a mixture of the policy and the user's own items, and weighed by p / mixture. The reward is
        2 (sigmoid(discriminator) - 1/2), in (-1, 1).
        """
        log_p_BV = jax.nn.log_softmax(generator_BV, axis=1)
        p_BV = jax.lax.stop_gradient(jnp.exp(log_p_BV))
        uniform_BV = own_BV / jnp.maximum(jnp.sum(own_BV, axis=1, keepdims=True), 1)
        mixture_BV = (1 - self.config.own_items_share) * p_BV + self.config.own_items_share * uniform_BV
        drawn_BK = draw_items(self.make_rng("dropout"), mixture_BV, self.config.draws)
        of_drawn = [jnp.take_along_axis(x, drawn_BK, axis=1) for x in (p_BV, mixture_BV, log_p_BV)]
        weight_BK = of_drawn[0] / jnp.maximum(of_drawn[1], 1e-12)
        logit_BK = jax.lax.stop_gradient(jnp.take_along_axis(discriminator_BV, drawn_BK, axis=1))
        reward_BK = 2 * jax.nn.sigmoid(logit_BK) - 1
        return -jnp.mean(reward_BK * weight_BK * of_drawn[2], axis=1)

    def __call__(self, batch: Batch) -> Float[Array, "B V"]:
        """Returns the generator's score of every item for each user."""
        return self.generator(batch["user"])

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `items` [B, K] int32 and `scores` [B, K] float32, best first, without the user's own items."""
        return top_unseen(self(batch), batch["history"], top_k)
