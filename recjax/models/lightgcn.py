"""LightGCN: embeddings of users and items, smoothed over the graph of who has what, learned by BPR.

Source: He et al., LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation (SIGIR 2020),
equations 3 to 8.

Shapes: B batch, K negatives (items returned in `serve`), D embedding dim, U users, V catalogue, E training edges.
"""

from collections.abc import Mapping
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
from recjax.nn.propagation import Propagation, propagation, symmetric_weights
from recjax.nn.retrieval import top_unseen


@config
class LightGCNConfig(ModelConfig):
    """Sizes of a LightGCN."""

    task: ClassVar[str] = "top_n"

    embedding_dim: int = 64  # D; of users and items
    layers: int = 3  # steps of propagation; 0 is BPR without item biases
    negatives: int = 1  # drawn uniformly for each interaction
    l2: float = 1e-4  # of the rows that a batch looks up before propagation, times their squared norm; >= 0
    table_deviation: float = 0.1  # of the normal that initial embeddings are drawn from

    def __post_init__(self) -> None:
        name = type(self).__name__  # also of the configs that extend it
        check(self.embedding_dim >= 1, f"{name}.embedding_dim", self.embedding_dim, ">= 1")
        check(self.layers >= 0, f"{name}.layers", self.layers, ">= 0")
        check(self.negatives >= 1, f"{name}.negatives", self.negatives, ">= 1")
        check(self.l2 >= 0, f"{name}.l2", self.l2, ">= 0")
        check(self.table_deviation > 0, f"{name}.table_deviation", self.table_deviation, "> 0")

    def build(self, schema: TopNSchema) -> "LightGCN":
        """Returns the module for a set of users and items."""
        return LightGCN(config=self, schema=schema)

    def sharding_rules(self) -> Rules:
        """Returns rules that split nothing: it has tables alone."""
        return TABLES

    def samples(self) -> Samples:
        """Returns interactions with their negatives, and the graph of all of them."""
        return Samples(negatives=self.negatives, context=("interactions",))


class LightGCN(nn.Module):
    """The module; batches as recjax.data.top_n makes them."""

    config: LightGCNConfig
    schema: TopNSchema
    dots: Dots = FLOAT

    def setup(self) -> None:
        """Creates the tables."""
        c, init = self.config, nn.initializers.normal(self.config.table_deviation)
        self.users = Embedding(self.schema.n_users, c.embedding_dim, table_init=init)
        self.items = Embedding(self.schema.n_items, c.embedding_dim, table_init=init)

    def precompute(self, context: Mapping[str, Array]) -> dict[str, Array]:
        """Returns `users` [U, D] and `items` [V, D]: the mean over 0 to `layers` steps of propagation."""
        return self.propagate(context)

    def propagate(
        self, context: Mapping[str, Array], trust: tuple[Propagation, Array] | None = None
    ) -> dict[str, Array]:
        """Returns what `precompute` does; with trust, a share of each user's new vector comes from other users.

        Args:
          context: the graph of who has what, `train_user` and `train_item` [E].
          trust: from the users who are trusted (columns) to those who trust (rows), and the share [U, 1].
        """
        user_E, item_E, sizes = context["train_user"], context["train_item"], (self.schema.n_users, self.schema.n_items)
        graph = propagation(user_E, item_E, symmetric_weights(user_E, item_E, *sizes), *sizes)
        user_UD, item_VD = self.users.table, self.items.table
        user_sum_UD, item_sum_VD = user_UD, item_VD
        for _ in range(self.config.layers):
            new_user_UD, item_VD = graph.to_rows(item_VD), graph.to_columns(user_UD)
            if trust is not None:
                graph_of_trust, share_U1 = trust
                new_user_UD += share_U1 * (graph_of_trust.to_rows(user_UD) - new_user_UD)
            user_UD = new_user_UD
            user_sum_UD, item_sum_VD = user_sum_UD + user_UD, item_sum_VD + item_VD
        n_terms = self.config.layers + 1
        return {"users": user_sum_UD / n_terms, "items": item_sum_VD / n_terms}

    def loss(self, batch: Batch, *, train: bool) -> Float[Array, ""]:
        """Returns the mean of -log sigmoid(score of the item - score of a negative), plus the L2 penalty."""
        del train
        items_BK = jnp.concatenate([batch["item"][:, None], batch["negatives"]], 1)
        vectors = self.precompute(batch["context"])
        score_BK = jnp.einsum("bd,bkd->bk", vectors["users"][batch["user"]], vectors["items"][items_BK])
        penalty_B = jnp.sum(self.users.rows(batch["user"]) ** 2, 1) + jnp.sum(self.items.rows(items_BK) ** 2, (1, 2))
        return masked_mean(bpr_loss(score_BK) + self.config.l2 * penalty_B, batch["weight"] > 0)

    def __call__(self, batch: Batch) -> Float[Array, "B V"]:
        """Returns each user's score of every item, from the propagated vectors."""
        vectors = batch["precomputed"] if "precomputed" in batch else self.precompute(batch["context"])
        return vectors["users"][batch["user"]] @ vectors["items"].T

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `items` [B, K] int32 and `scores` [B, K] float32, best first, without the user's own items."""
        return top_unseen(self(batch), batch["history"], top_k)
