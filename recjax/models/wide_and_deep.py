"""Wide & Deep: a linear model of the features beside an MLP of their embeddings.

Source: Cheng et al., Wide & Deep Learning for Recommender Systems (DLRS 2016). Departures: no hand-made crosses in the
wide part, and AdamW for both parts, in the place of FTRL for the wide and AdaGrad for the deep one.

Shapes: B batch, N dense features, F categorical fields, D embedding dim, W width of the MLP.
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
from recjax.nn.mlp import MLP


@config
class WideAndDeepConfig(ModelConfig):
    """Sizes of a Wide & Deep."""

    task: ClassVar[str] = "labelled"

    embedding_dim: int = 16  # D; of every categorical field
    deep_mlp: tuple[int, ...] = (128, 64)  # hidden widths before the logit
    dropout_rate: float = 0.0  # [0, 1); of the MLP
    embedding_dropout_rate: float = 0.0  # [0, 1); of the MLP's input
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the MLP

    def __post_init__(self) -> None:
        check(self.embedding_dim >= 1, "WideAndDeepConfig.embedding_dim", self.embedding_dim, ">= 1")
        widths = self.deep_mlp
        check(min(widths, default=0) >= 1, "WideAndDeepConfig.deep_mlp", widths, "one or more widths >= 1")
        for name in ("dropout_rate", "embedding_dropout_rate"):
            check(0 <= getattr(self, name) < 1, f"WideAndDeepConfig.{name}", getattr(self, name), "[0, 1)")

    def build(self, schema: LabelledSchema) -> "WideAndDeep":
        """Returns the module for a set of features."""
        return WideAndDeep(config=self, schema=schema)

    def sharding_rules(self) -> Rules:
        """Returns the rules that split the MLP."""
        return (*mlp_rules("deep_mlp"), *dense_rules("(wide_dense|logit)"), *TABLES)

    def hidden_units(self) -> tuple[HiddenUnits, ...]:
        """Returns the hidden layers of the MLP."""
        return mlp_hidden_units(self.deep_mlp, "deep_mlp", "deep_mlp", "logit")


class WideAndDeep(nn.Module):
    """The module; batches hold `dense` [B, N] float32 and `sparse_ids` [B, T] int32 (see recjax.data.labelled)."""

    config: WideAndDeepConfig
    schema: LabelledSchema
    dots: Dots = FLOAT

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool = False) -> Float[Array, "B"]:
        """Returns the float32 logit of each example."""
        c = self.config
        wide_init = nn.initializers.zeros
        wide_BF1 = FieldEmbeddings(self.schema, 1, table_init=wide_init, prefix="weight", name="wide")(
            batch["sparse_ids"]
        )
        wide_B = wide_BF1.sum((1, 2)) + Dense(1, name="wide_dense", dots=self.dots)(batch["dense"])[:, 0]
        fields_BFD = FieldEmbeddings(self.schema, c.embedding_dim, c.dtype, name="fields")(batch["sparse_ids"])
        x_BW = jnp.concatenate([batch["dense"].astype(c.dtype), fields_BFD.reshape(len(fields_BFD), -1)], 1)
        x_BW = nn.Dropout(c.embedding_dropout_rate, deterministic=not train)(x_BW)
        common: dict[str, Any] = {"dtype": c.dtype, "dots": self.dots}
        x_BW = MLP(widths=c.deep_mlp, dropout_rate=c.dropout_rate, name="deep_mlp", **common)(x_BW, train=train)
        return wide_B + Dense(1, name="logit", dots=self.dots)(x_BW.astype(jnp.float32))[:, 0]

    def loss(self, batch: Batch, *, train: bool) -> Float[Array, ""]:
        """Returns the mean logloss; `labels` is [B] float32 in {0, 1}, `weight` [B] 0 on padding rows."""
        return sigmoid_cross_entropy(self(batch, train=train), batch["labels"], batch["weight"] > 0)

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `probability` [B] float32; `top_k` has no meaning for one candidate a sample."""
        del top_k
        return {"probability": jax.nn.sigmoid(self(batch))}
