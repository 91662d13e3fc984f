"""DLRM: dense and categorical features meet in all dot products of their vectors.

Source: Naumov et al., Deep Learning Recommendation Model for Personalization and Recommendation Systems (arXiv
1906.00091).

Shapes: B batch, N dense features, F categorical fields, D embedding dim, V = F + 1 vectors,
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
from recjax.models.sharding import TABLES, Rules, dense_rules, mlp_rules
from recjax.nn.dense import Dense
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.embedding_fields import FieldEmbeddings
from recjax.nn.interaction import pairwise_dots
from recjax.nn.mlp import MLP


@config
class DLRMConfig(ModelConfig):
    """Sizes of a DLRM."""

    task: ClassVar[str] = "labelled"

    embedding_dim: int = 16  # D; of every categorical field and of the bottom MLP's output
    bottom_mlp: tuple[int, ...] = (64,)  # hidden widths before the final D
    top_mlp: tuple[int, ...] = (128, 64)  # hidden widths before the logit
    dropout_rate: float = 0.0  # [0, 1); of the top MLP
    embedding_dropout_rate: float = 0.0  # [0, 1); of the vectors before they interact
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation

    def __post_init__(self) -> None:
        check(self.embedding_dim >= 1, "DLRMConfig.embedding_dim", self.embedding_dim, ">= 1")
        for name in ("bottom_mlp", "top_mlp"):
            widths = getattr(self, name)
            check(min(widths, default=0) >= 1, f"DLRMConfig.{name}", widths, "one or more widths >= 1")
        for name in ("dropout_rate", "embedding_dropout_rate"):
            check(0 <= getattr(self, name) < 1, f"DLRMConfig.{name}", getattr(self, name), "[0, 1)")

    def build(self, schema: LabelledSchema) -> "DLRM":
        """Returns the module for a set of features."""
        return DLRM(config=self, schema=schema)

    def sharding_rules(self) -> Rules:
        """Returns the rules that split both MLPs."""
        return (*mlp_rules("(bottom|top)_mlp"), *dense_rules("logit"), *TABLES)

    def hidden_units(self) -> tuple[HiddenUnits, ...]:
        """Returns the hidden layers of both MLPs."""
        bottom_end = f"bottom_mlp/dense_{len(self.bottom_mlp)}"
        return (
            *mlp_hidden_units(self.bottom_mlp, "bottom_mlp", "bottom_mlp", bottom_end),
            *mlp_hidden_units(self.top_mlp, "top_mlp", "top_mlp", "logit"),
        )


class DLRM(nn.Module):
    """The module; batches hold `dense` [B, N] float32 and `sparse_ids` [B, T] int32 (see recjax.data.labelled)."""

    config: DLRMConfig
    schema: LabelledSchema
    dots: Dots = FLOAT

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool = False) -> Float[Array, "B"]:
        """Returns the float32 logit of each example."""
        c = self.config
        common: dict[str, Any] = {"dtype": c.dtype, "dots": self.dots}
        bottom = MLP(widths=(*c.bottom_mlp, c.embedding_dim), name="bottom_mlp", **common)
        dense_BD = bottom(batch["dense"].astype(c.dtype), train=train)
        fields_BFD = FieldEmbeddings(self.schema, c.embedding_dim, c.dtype, name="fields")(batch["sparse_ids"])
        vectors_BVD = jnp.concatenate([dense_BD[:, None], fields_BFD], 1)
        vectors_BVD = nn.Dropout(c.embedding_dropout_rate, deterministic=not train)(vectors_BVD)
        x_BW = jnp.concatenate([dense_BD, pairwise_dots(vectors_BVD)], 1)
        x_BW = MLP(widths=c.top_mlp, dropout_rate=c.dropout_rate, name="top_mlp", **common)(x_BW, train=train)
        return Dense(1, name="logit", dots=self.dots)(x_BW.astype(jnp.float32))[:, 0]

    def loss(self, batch: Batch, *, train: bool) -> Float[Array, ""]:
        """Returns the mean logloss; `labels` is [B] float32 in {0, 1}, `weight` [B] 0 on padding rows."""
        return sigmoid_cross_entropy(self(batch, train=train), batch["labels"], batch["weight"] > 0)

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `probability` [B] float32; `top_k` has no meaning for one candidate a sample."""
        del top_k
        return {"probability": jax.nn.sigmoid(self(batch))}
