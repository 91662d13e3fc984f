"""Logistic regression on the features of the labelled task: the row that a deep model must beat.

Shapes: B batch, N dense features, F categorical fields, L ids of a field.
"""

from typing import ClassVar

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from recjax.config import ModelConfig, config
from recjax.data.features import LabelledSchema
from recjax.losses import sigmoid_cross_entropy
from recjax.models.contract import Batch, HiddenUnits
from recjax.models.sharding import TABLES, Rules, dense_rules
from recjax.nn.dense import Dense
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.embedding import Embedding


@config
class LogisticRegressionConfig(ModelConfig):
    """It has no sizes: one weight per dense feature and per categorical id."""

    task: ClassVar[str] = "labelled"

    def build(self, schema: LabelledSchema) -> "LogisticRegression":
        """Returns the module for a set of features."""
        return LogisticRegression(config=self, schema=schema)

    def sharding_rules(self) -> Rules:
        """Returns rules that split nothing: it is small."""
        return (*dense_rules("dense"), *TABLES)

    def hidden_units(self) -> tuple[HiddenUnits, ...]:
        """Returns nothing: there is no hidden layer."""
        return ()


class LogisticRegression(nn.Module):
    """The module; batches as for DLRM-DCNv2."""

    config: LogisticRegressionConfig
    schema: LabelledSchema
    dots: Dots = FLOAT

    @nn.compact
    def __call__(self, batch: Batch) -> Float[Array, "B"]:
        """Returns the float32 logit of each example."""
        logit_B1 = Dense(1, name="dense", dots=self.dots)(batch["dense"])
        for field, ids_BL in self.schema.split_fields(batch["sparse_ids"]):
            weight = Embedding(
                field.vocab_size, 1, field.combiner, table_init=nn.initializers.zeros, name=f"weight_{field.name}"
            )
            logit_B1 += weight(ids_BL)
        return logit_B1[:, 0]

    def loss(self, batch: Batch, *, train: bool) -> Float[Array, ""]:
        """Returns the mean logloss; `labels` is [B] float32 in {0, 1}, `weight` [B] 0 on padding rows."""
        del train
        return sigmoid_cross_entropy(self(batch), batch["labels"], batch["weight"] > 0)

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `probability` [B] float32."""
        del top_k
        return {"probability": jax.nn.sigmoid(self(batch))}
