"""DeepFM: a factorisation machine and an MLP that share one embedding of every categorical field.

Source: Guo et al., DeepFM (IJCAI 2017). A dense feature takes part in the interactions as its value times a vector.

Shapes: B batch, N dense features, F categorical fields, D embedding dim, V = N + F vectors,
W width of an MLP.
"""

from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recjax.config import ModelConfig, check, config
from recjax.data.features import LabelledSchema
from recjax.losses import sigmoid_cross_entropy
from recjax.models.contract import Batch, HiddenUnits, mlp_hidden_units
from recjax.models.sharding import TABLES, WHOLE, Rules, dense_rules, mlp_rules
from recjax.nn.dense import Dense
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.embedding_fields import FieldEmbeddings
from recjax.nn.interaction import pairwise_sum
from recjax.nn.mlp import MLP


@config
class DeepFMConfig(ModelConfig):
    """Sizes of a DeepFM."""

    task: ClassVar[str] = "labelled"

    embedding_dim: int = 16  # D; of every field and dense feature
    deep_mlp: tuple[int, ...] = (128, 64)  # hidden widths before the logit
    dropout_rate: float = 0.0  # [0, 1); of the MLP
    embedding_dropout_rate: float = 0.0  # [0, 1); of the MLP's input
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the MLP

    def __post_init__(self) -> None:
        check(self.embedding_dim >= 1, "DeepFMConfig.embedding_dim", self.embedding_dim, ">= 1")
        check(min(self.deep_mlp, default=0) >= 1, "DeepFMConfig.deep_mlp", self.deep_mlp, "one or more widths >= 1")
        for name in ("dropout_rate", "embedding_dropout_rate"):
            check(0 <= getattr(self, name) < 1, f"DeepFMConfig.{name}", getattr(self, name), "[0, 1)")

    def build(self, schema: LabelledSchema) -> "DeepFM":
        """Returns the module for a set of features."""
        return DeepFM(config=self, schema=schema)

    def sharding_rules(self) -> Rules:
        """Returns the rules that split the MLP."""
        return (*mlp_rules("deep_mlp"), *dense_rules("(first_order_dense|logit)"), (r"^dense_vectors$", WHOLE), *TABLES)

    def hidden_units(self) -> tuple[HiddenUnits, ...]:
        """Returns the hidden layers of the MLP."""
        return mlp_hidden_units(self.deep_mlp, "deep_mlp", "deep_mlp", "logit")


class DeepFM(nn.Module):
    """The module; batches hold `dense` [B, N] float32 and `sparse_ids` [B, T] int32 (see recjax.data.labelled)."""

    config: DeepFMConfig
    schema: LabelledSchema
    dots: Dots = FLOAT

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool = False) -> Float[Array, "B"]:
        """Returns the float32 logit of each example."""
        c, dense_BN = self.config, batch["dense"]
        first_BF1 = FieldEmbeddings(
            self.schema, 1, table_init=nn.initializers.zeros, prefix="weight", name="first_order"
        )(batch["sparse_ids"])
        first_B = first_BF1.sum((1, 2)) + Dense(1, name="first_order_dense", dots=self.dots)(dense_BN)[:, 0]
        fields_BFD = FieldEmbeddings(self.schema, c.embedding_dim, name="fields")(batch["sparse_ids"])
        dense_init = nn.initializers.normal(c.embedding_dim**-0.5)
        vectors_ND = self.param("dense_vectors", dense_init, (self.schema.n_dense, c.embedding_dim))
        vectors_BVD = jnp.concatenate([fields_BFD, dense_BN[..., None] * vectors_ND[None]], 1)
        x_BW = vectors_BVD.reshape(len(vectors_BVD), -1).astype(c.dtype)
        x_BW = nn.Dropout(c.embedding_dropout_rate, deterministic=not train)(x_BW)
        common: dict[str, Any] = {"dtype": c.dtype, "dots": self.dots}
        x_BW = MLP(widths=c.deep_mlp, dropout_rate=c.dropout_rate, name="deep_mlp", **common)(x_BW, train=train)
        deep_B = Dense(1, name="logit", dots=self.dots)(x_BW.astype(jnp.float32))[:, 0]
        return first_B + pairwise_sum(vectors_BVD) + deep_B

    def loss(self, batch: Batch, *, train: bool) -> Float[Array, ""]:
        """Returns the mean logloss; `labels` is [B] float32 in {0, 1}, `weight` [B] 0 on padding rows."""
        return sigmoid_cross_entropy(self(batch, train=train), batch["labels"], batch["weight"] > 0)

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `probability` [B] float32; `top_k` has no meaning for one candidate a sample."""
        del top_k
        return {"probability": jax.nn.sigmoid(self(batch))}
