"""Two towers: one MLP for the user and one for the item, which meet in an inner product only.

Trained with a softmax over the items of the batch, corrected for how often the sampling of batches brings each of
them. Item vectors depend on nothing else and are computed once.

Source: Yi et al., Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations (RecSys 2019),
equations 3 to 5. Departures: an item's probability is its share of the training interactions, counted where the
paper estimates it in a stream; items that the user has are no negatives, because the batch is full of popular ones.

Shapes: B batch, L history length, D dim of embeddings and vectors, V catalogue, K items returned.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recjax.config import ModelConfig, Samples, check, config
from recjax.data.top_n import TopNSchema
from recjax.losses import masked_mean
from recjax.models.contract import Batch, HiddenUnits, mlp_hidden_units
from recjax.models.sharding import TABLES, Rules, mlp_rules
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.embedding import Embedding
from recjax.nn.mlp import MLP
from recjax.nn.retrieval import top_unseen
from recjax.nn.rows import multi_hot


@config
class TwoTowerConfig(ModelConfig):
    """Sizes of a two-tower model."""

    task: ClassVar[str] = "top_n"
    samples_apart: ClassVar[bool] = False  # the others are its negatives

    embedding_dim: int = 64  # D; of user ids, item ids and the towers' outputs
    user_mlp: tuple[int, ...] = (128,)  # hidden widths of the user's tower
    item_mlp: tuple[int, ...] = (128,)  # hidden widths of the item's tower
    normalize: bool = True  # whether vectors have length 1, so that scores are cosines
    temperature: float = 0.1  # that scores are divided by, > 0
    correction: float = 1.0  # share of log popularity that is taken from a score in training, [0, 1]
    mask_known: bool = True  # whether a user's other items in the batch are no negatives
    dropout_rate: float = 0.0  # [0, 1); of hidden layers and of the towers' inputs
    table_deviation: float = 0.1  # of the normal that initial embeddings are drawn from

    def __post_init__(self) -> None:
        check(self.embedding_dim >= 1, "TwoTowerConfig.embedding_dim", self.embedding_dim, ">= 1")
        for name in ("user_mlp", "item_mlp"):
            widths = getattr(self, name)
            check(min(widths, default=0) >= 1, f"TwoTowerConfig.{name}", widths, "one or more widths >= 1")
        check(self.temperature > 0, "TwoTowerConfig.temperature", self.temperature, "> 0")
        check(0 <= self.correction <= 1, "TwoTowerConfig.correction", self.correction, "[0, 1]")
        check(0 <= self.dropout_rate < 1, "TwoTowerConfig.dropout_rate", self.dropout_rate, "[0, 1)")
        check(self.table_deviation > 0, "TwoTowerConfig.table_deviation", self.table_deviation, "> 0")

    def build(self, schema: TopNSchema) -> "TwoTower":
        """Returns the module for a set of users and items."""
        return TwoTower(config=self, schema=schema)

    def sharding_rules(self) -> Rules:
        """Returns the rules that split both towers."""
        return (*mlp_rules("(user|item)_tower"), *TABLES)

    def samples(self) -> Samples:
        """Returns interactions with the user's history; the other items of a batch are the negatives."""
        return Samples(history=True)

    def hidden_units(self) -> tuple[HiddenUnits, ...]:
        """Returns the hidden layers of both towers."""
        return (
            *mlp_hidden_units(self.user_mlp, "user_mlp", "user_tower", f"user_tower/dense_{len(self.user_mlp)}"),
            *mlp_hidden_units(self.item_mlp, "item_mlp", "item_tower", f"item_tower/dense_{len(self.item_mlp)}"),
        )


class TwoTower(nn.Module):
    """The module; batches as recjax.data.top_n makes them."""

    config: TwoTowerConfig
    schema: TopNSchema
    dots: Dots = FLOAT

    def setup(self) -> None:
        """Creates the tables and the towers."""
        c, init = self.config, nn.initializers.normal(self.config.table_deviation)
        self.users = Embedding(self.schema.n_users, c.embedding_dim, table_init=init)
        self.items = Embedding(self.schema.n_items, c.embedding_dim, table_init=init)
        common: dict[str, Any] = {
            "dropout_rate": c.dropout_rate,
            "linear_end": True,
            "dots": self.dots,
        }
        self.user_tower = MLP(widths=(*c.user_mlp, c.embedding_dim), **common)
        self.item_tower = MLP(widths=(*c.item_mlp, c.embedding_dim), **common)
        self.dropout = nn.Dropout(c.dropout_rate)

    def user_vectors(self, user_B: Array, known_BV: Float[Array, "B V"], *, train: bool = False) -> Float[Array, "B D"]:
        """Returns the user tower's output from the user's id and the mean embedding of the items marked with 1."""
        n_known_B1 = known_BV.sum(1, keepdims=True)
        history_BD = known_BV @ self.items.table / jnp.maximum(n_known_B1, 1)
        x_BD = jnp.concatenate([self.users.rows(user_B), history_BD], 1)
        return self._finish(self.user_tower(self.dropout(x_BD, deterministic=not train), train=train))

    def item_vectors(self, item_embeddings: Float[Array, "B D"], *, train: bool = False) -> Float[Array, "B D"]:
        """Returns the item tower's output for those rows of the item table."""
        x_BD = self.dropout(item_embeddings, deterministic=not train)
        return self._finish(self.item_tower(x_BD, train=train))

    def _finish(self, vector_BD: Array) -> Array:
        if not self.config.normalize:
            return vector_BD
        # The square root has no gradient at 0, and a tower whose last ReLU layer is dead gives exactly 0.
        return vector_BD * jax.lax.rsqrt(jnp.sum(vector_BD**2, 1, keepdims=True) + 1e-12)

    def precompute(self, context: Mapping[str, Array]) -> dict[str, Array]:
        """Returns `items` [V, D], the vectors of the catalogue."""
        del context
        if self.is_initializing():  # who asks for the parameters' shapes wants the other tower's too
            self.user_vectors(jnp.zeros(1, jnp.int32), jnp.zeros((1, self.schema.n_items)))
        return {"items": self.item_vectors(self.items.table)}

    def loss(self, batch: Batch, *, train: bool) -> Float[Array, ""]:
        """Returns the mean cross-entropy of each row's item among the items of the batch.

        The user's tower does not see the row's own item in the history, which it would learn to copy.
        """
        c, item_B, rows_B = self.config, batch["item"], jnp.arange(batch["item"].shape[0])
        known_BV = multi_hot(batch["history"], self.schema.n_items)
        user_BD = self.user_vectors(batch["user"], known_BV.at[rows_B, item_B].set(0.0), train=train)
        item_BD = self.item_vectors(self.items.rows(item_B), train=train)
        counts_V = batch["context"]["item_counts"]
        log_share_B = jnp.log(jnp.maximum(counts_V[item_B], 1) / jnp.maximum(counts_V.sum(), 1))
        logit_BB = user_BD @ item_BD.T / c.temperature - c.correction * log_share_B[None]
        is_negative_BB = (item_B[None] != item_B[:, None]) & (batch["weight"] > 0)[None]
        if c.mask_known:
            is_negative_BB &= known_BV[:, item_B] == 0
        own_BB = jnp.eye(len(rows_B), dtype=bool)
        kept_BB = jnp.where(is_negative_BB | own_BB, logit_BB, -jnp.inf)
        loss_B = jax.nn.logsumexp(kept_BB, axis=1) - jnp.diagonal(logit_BB)
        return masked_mean(loss_B, batch["weight"] > 0)

    def __call__(self, batch: Batch) -> Float[Array, "B V"]:
        """Returns each user's score of every item, the inner product of their vectors."""
        known_BV = multi_hot(batch["history"], self.schema.n_items)
        item_VD = (batch["precomputed"] if "precomputed" in batch else self.precompute({}))["items"]
        if self.is_initializing() and "precomputed" in batch:
            self.precompute({})
        return self.user_vectors(batch["user"], known_BV) @ item_VD.T

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `items` [B, K] int32 and `scores` [B, K] float32, best first, without the user's own items."""
        return top_unseen(self(batch), batch["history"], top_k)
