"""BPR: matrix factorisation that learns to rank a user's item above one that the user has not.

Source: Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback (UAI 2009). Departures: Adam in
the place of plain SGD, an item bias, dropout of the user's vector, and the mean over several negatives.

Shapes: B batch, K negatives (items returned in `serve`), D embedding dim, V catalogue.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from recjax.config import ModelConfig, Samples, check, config
from recjax.data.top_n import TopNSchema
from recjax.losses import bpr_loss, masked_mean
from recjax.models.contract import Batch
from recjax.models.sharding import TABLES, Rules
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.embedding import Embedding
from recjax.nn.retrieval import top_unseen


@config
class BPRConfig(ModelConfig):
    """Sizes of a BPR matrix factorisation."""

    task: ClassVar[str] = "top_n"

    embedding_dim: int = 64  # D; of users and items
    negatives: int = 1  # drawn uniformly for each interaction
    l2: float = 0.0  # of the rows that a batch looks up, times their squared norm; >= 0
    dropout_rate: float = 0.0  # [0, 1); of the user's vector
    table_deviation: float = 0.01  # of the normal that initial embeddings are drawn from

    def __post_init__(self) -> None:
        check(self.embedding_dim >= 1, "BPRConfig.embedding_dim", self.embedding_dim, ">= 1")
        check(self.negatives >= 1, "BPRConfig.negatives", self.negatives, ">= 1")
        check(self.l2 >= 0, "BPRConfig.l2", self.l2, ">= 0")
        check(0 <= self.dropout_rate < 1, "BPRConfig.dropout_rate", self.dropout_rate, "[0, 1)")
        check(self.table_deviation > 0, "BPRConfig.table_deviation", self.table_deviation, "> 0")

    def build(self, schema: TopNSchema) -> "BPR":
        """Returns the module for a set of users and items."""
        return BPR(config=self, schema=schema)

    def sharding_rules(self) -> Rules:
        """Returns rules that split nothing: it has tables alone."""
        return TABLES

    def samples(self) -> Samples:
        """Returns interactions with their negatives."""
        return Samples(negatives=self.negatives)


class BPR(nn.Module):
    """The module; batches as recjax.data.top_n makes them."""

    config: BPRConfig
    schema: TopNSchema
    dots: Dots = FLOAT

    def setup(self) -> None:
        """Creates the tables."""
        c, init = self.config, nn.initializers.normal(self.config.table_deviation)
        self.users = Embedding(self.schema.n_users, c.embedding_dim, table_init=init)
        self.items = Embedding(self.schema.n_items, c.embedding_dim, table_init=init)
        self.item_biases = Embedding(self.schema.n_items, 1, table_init=nn.initializers.zeros)
        self.dropout = nn.Dropout(c.dropout_rate)

    def loss(self, batch: Batch, *, train: bool) -> Float[Array, ""]:
        """Returns the mean of -log sigmoid(score of the item - score of a negative), plus the L2 penalty."""
        items_BK = jnp.concatenate([batch["item"][:, None], batch["negatives"]], 1)
        user_BD, item_BKD = self.users.rows(batch["user"]), self.items.rows(items_BK)
        penalty_B = jnp.sum(user_BD**2, 1) + jnp.sum(item_BKD**2, (1, 2))
        user_BD = self.dropout(user_BD, deterministic=not train)
        score_BK = jnp.einsum("bd,bkd->bk", user_BD, item_BKD) + self.item_biases.rows(items_BK)[..., 0]
        return masked_mean(bpr_loss(score_BK) + self.config.l2 * penalty_B, batch["weight"] > 0)

    def __call__(self, batch: Batch) -> Float[Array, "B V"]:
        """Returns each user's score of every item."""
        return self.users.rows(batch["user"]) @ self.items.table.T + self.item_biases.table[None, :, 0]

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `items` [B, K] int32 and `scores` [B, K] float32, best first, without the user's own items."""
        return top_unseen(self(batch), batch["history"], top_k)
