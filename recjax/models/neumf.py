"""NeuMF: a generalised matrix factorisation and an MLP, each with its own embeddings, in one logit.

Source: He et al., Neural Collaborative Filtering (WWW 2017), trained from scratch, without pretrained halves, and with
dropout in the MLP.

Shapes: B batch, K items scored, D embedding dim, V catalogue, W hidden width.
"""

from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from recjax.config import ModelConfig, Samples, check, config
from recjax.data.top_n import TopNSchema
from recjax.losses import sigmoid_cross_entropy
from recjax.models.contract import Batch, HiddenUnits, mlp_hidden_units
from recjax.models.sharding import TABLES, Rules, dense_rules, mlp_rules
from recjax.nn.dense import Dense
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.embedding import Embedding
from recjax.nn.mlp import MLP
from recjax.nn.retrieval import top_unseen


@config
class NeuMFConfig(ModelConfig):
    """Sizes of a NeuMF."""

    task: ClassVar[str] = "top_n"

    factors: int = 64  # of the matrix factorisation
    embedding_dim: int = 64  # D; of users and of items before the MLP
    mlp: tuple[int, ...] = (128, 64)  # hidden widths
    negatives: int = 4  # drawn uniformly for each interaction
    dropout_rate: float = 0.1  # [0, 1); of the MLP
    embedding_dropout_rate: float = 0.0  # [0, 1); of all embeddings
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the MLP

    def __post_init__(self) -> None:
        for name in ("factors", "embedding_dim", "negatives"):
            check(getattr(self, name) >= 1, f"NeuMFConfig.{name}", getattr(self, name), ">= 1")
        check(min(self.mlp, default=0) >= 1, "NeuMFConfig.mlp", self.mlp, "one or more widths >= 1")
        for name in ("dropout_rate", "embedding_dropout_rate"):
            check(0 <= getattr(self, name) < 1, f"NeuMFConfig.{name}", getattr(self, name), "[0, 1)")

    def build(self, schema: TopNSchema) -> "NeuMF":
        """Returns the module for a set of users and items."""
        return NeuMF(config=self, schema=schema)

    def sharding_rules(self) -> Rules:
        """Returns the rules that split the MLP."""
        return (*mlp_rules("mlp"), *dense_rules("(mf|mlp)_logit"), *TABLES)

    def samples(self) -> Samples:
        """Returns interactions with their negatives."""
        return Samples(negatives=self.negatives)

    def hidden_units(self) -> tuple[HiddenUnits, ...]:
        """Returns the hidden layers of the MLP."""
        return mlp_hidden_units(self.mlp, "mlp", "mlp", "mlp_logit")


class NeuMF(nn.Module):
    """The module; batches as recjax.data.top_n makes them."""

    config: NeuMFConfig
    schema: TopNSchema
    dots: Dots = FLOAT

    def setup(self) -> None:
        """Creates the four tables, the MLP and the logits of both halves."""
        c, init = self.config, nn.initializers.normal(0.05)
        self.mf_users = Embedding(self.schema.n_users, c.factors, table_init=init)
        self.mf_items = Embedding(self.schema.n_items, c.factors, table_init=init)
        self.mlp_users = Embedding(self.schema.n_users, c.embedding_dim, table_init=init)
        self.mlp_items = Embedding(self.schema.n_items, c.embedding_dim, table_init=init)
        common: dict[str, Any] = {"dtype": c.dtype, "dots": self.dots}
        self.mlp = MLP(widths=c.mlp, dropout_rate=c.dropout_rate, **common)
        self.mf_logit = Dense(1, use_bias=False, kernel_init=nn.initializers.ones, dots=self.dots)
        self.mlp_logit = Dense(1, dots=self.dots)
        self.dropout = nn.Dropout(c.embedding_dropout_rate)

    def logits(
        self, user_B: Int[Array, "B"], items_BK: Int[Array, "B K"], *, train: bool = False
    ) -> Float[Array, "B K"]:
        """Returns the logit of each user for each of K items of its own."""

        def rows(users: Embedding, items: Embedding) -> tuple[Array, Array]:
            user_BKD = jnp.broadcast_to(users.rows(user_B)[:, None], (*items_BK.shape, users.embedding_dim))
            return tuple(self.dropout(x, deterministic=not train) for x in (user_BKD, items.rows(items_BK)))

        mf_user_BKD, mf_item_BKD = rows(self.mf_users, self.mf_items)
        hidden_BKW = self.mlp(jnp.concatenate(rows(self.mlp_users, self.mlp_items), -1), train=train)
        return (self.mf_logit(mf_user_BKD * mf_item_BKD) + self.mlp_logit(hidden_BKW.astype(jnp.float32)))[..., 0]

    def loss(self, batch: Batch, *, train: bool) -> Float[Array, ""]:
        """Returns the mean logloss over each interaction (label 1) and its negatives (label 0)."""
        items_BK = jnp.concatenate([batch["item"][:, None], batch["negatives"]], 1)
        logits_BK = self.logits(batch["user"], items_BK, train=train)
        labels_BK = jnp.zeros_like(logits_BK).at[:, 0].set(1.0)
        where_BK = jnp.broadcast_to(batch["weight"][:, None] > 0, logits_BK.shape)
        return sigmoid_cross_entropy(logits_BK.ravel(), labels_BK.ravel(), where_BK.ravel())

    def __call__(self, batch: Batch) -> Float[Array, "B V"]:
        """Returns each user's logit of every item; one user at a time, as the MLP's input is [V, 2 D] for each."""
        items_1V = jnp.arange(self.schema.n_items)[None]
        return jax.lax.map(lambda user: self.logits(user[None], items_1V)[0], batch["user"])

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `items` [B, K] int32 and `scores` [B, K] float32, best first, without the user's own items."""
        return top_unseen(self(batch), batch["history"], top_k)
