"""DIN: the user's history is summed with weights that depend on the candidate item.

Source: Zhou et al., Deep Interest Network for Click-Through Rate Prediction (KDD 2018), equation 3. The activation unit
reads both vectors, their difference and their product, as in the authors' code (the paper: their outer product).
Departures: PReLU with one slope a layer, not Dice, no mini-batch-aware regulariser, and AdamW in the place of SGD.

Shapes: B batch, L history length, F other categorical fields, D embedding dim,
W width of what a layer reads.
"""

from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from recjax.config import ModelConfig, Samples, check, config
from recjax.data.batches import PADDING_ID
from recjax.data.features import LabelledSchema
from recjax.losses import sigmoid_cross_entropy
from recjax.models.contract import Batch, HiddenUnits, mlp_hidden_units
from recjax.models.sharding import TABLES, WHOLE, Rules, dense_rules, mlp_rules
from recjax.nn.dense import Dense
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.embedding import Embedding
from recjax.nn.mlp import MLP


@config
class DINConfig(ModelConfig):
    """Sizes of a DIN."""

    task: ClassVar[str] = "labelled"

    embedding_dim: int = 16  # D; of every categorical field
    attention_mlp: tuple[int, ...] = (64, 16)  # hidden widths of the activation unit
    top_mlp: tuple[int, ...] = (128, 64)  # hidden widths before the logit
    dropout_rate: float = 0.0  # [0, 1); of the top MLP
    embedding_dropout_rate: float = 0.0  # [0, 1); of the top MLP's input
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation

    def __post_init__(self) -> None:
        check(self.embedding_dim >= 1, "DINConfig.embedding_dim", self.embedding_dim, ">= 1")
        for name in ("attention_mlp", "top_mlp"):
            widths = getattr(self, name)
            check(min(widths, default=0) >= 1, f"DINConfig.{name}", widths, "one or more widths >= 1")
        for name in ("dropout_rate", "embedding_dropout_rate"):
            check(0 <= getattr(self, name) < 1, f"DINConfig.{name}", getattr(self, name), "[0, 1)")

    def build(self, schema: LabelledSchema) -> "DIN":
        """Returns the module for a set of features, `history` among them."""
        return DIN(config=self, schema=schema)

    def sharding_rules(self) -> Rules:
        """Returns the rules that split both MLPs."""
        return (
            *mlp_rules("(top|attention)_mlp"),
            *dense_rules("(attention|logit)"),
            ("negative_slope$", WHOLE),
            *TABLES,
        )

    def samples(self) -> Samples:
        """Returns interactions with the history before them."""
        return Samples(history=True)

    def hidden_units(self) -> tuple[HiddenUnits, ...]:
        """Returns the hidden layers of the activation unit and of the top MLP."""
        return (
            *mlp_hidden_units(self.attention_mlp, "attention_mlp", "attention_mlp", "attention"),
            *mlp_hidden_units(self.top_mlp, "top_mlp", "top_mlp", "logit"),
        )


class DIN(nn.Module):
    """The module; batches hold `dense` [B, N] float32 and `sparse_ids` [B, T] int32, the fields `item` and `history`.

    The history's items share the table of `item`.
    """

    config: DINConfig
    schema: LabelledSchema
    dots: Dots = FLOAT

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool = False) -> Float[Array, "B"]:
        """Returns the float32 logit of each example."""
        c = self.config
        common: dict[str, Any] = {"activation": None, "dtype": c.dtype, "dots": self.dots}
        ids = {field.name: (field, ids_BL) for field, ids_BL in self.schema.split_fields(batch["sparse_ids"])}
        items = Embedding(ids["item"][0].vocab_size, c.embedding_dim, dtype=c.dtype, name="table_item")
        candidate_BD, history_BL = items(ids["item"][1]), ids["history"][1]
        features = [batch["dense"].astype(c.dtype), candidate_BD]
        features.append(self._interest(items, candidate_BD, history_BL, train, common))
        for name, (field, ids_BL) in ids.items():
            if name not in ("item", "history"):
                table = Embedding(field.vocab_size, c.embedding_dim, field.combiner, c.dtype, name=f"table_{name}")
                features.append(table(ids_BL))
        x_BW = nn.Dropout(c.embedding_dropout_rate, deterministic=not train)(jnp.concatenate(features, 1))
        x_BW = MLP(widths=c.top_mlp, dropout_rate=c.dropout_rate, name="top_mlp", **common)(x_BW, train=train)
        return Dense(1, name="logit", dots=self.dots)(x_BW.astype(jnp.float32))[:, 0]

    def _interest(
        self, items: Embedding, candidate_BD: Array, history_BL: Int[Array, "B L"], train: bool, common: dict[str, Any]
    ) -> Float[Array, "B D"]:
        """Returns the sum of the history's vectors, each weighted by its activation for the candidate (equation 3)."""
        used_BL = history_BL != PADDING_ID
        history_BLD = items.rows(jnp.where(used_BL, history_BL, 0))
        query_BLD = jnp.broadcast_to(candidate_BD[:, None], history_BLD.shape)
        pair_BLW = jnp.concatenate([query_BLD, history_BLD, query_BLD - history_BLD, query_BLD * history_BLD], axis=-1)
        hidden_BLW = MLP(widths=self.config.attention_mlp, name="attention_mlp", **common)(pair_BLW, train=train)
        weight_BL = Dense(1, dtype=self.config.dtype, name="attention", dots=self.dots)(hidden_BLW)[..., 0]
        weight_BL = jnp.where(used_BL, weight_BL, 0)  # no softmax: the strength of an interest is kept
        return jnp.einsum("bl,bld->bd", weight_BL, history_BLD)

    def loss(self, batch: Batch, *, train: bool) -> Float[Array, ""]:
        """Returns the mean logloss; `labels` is [B] float32 in {0, 1}, `weight` [B] 0 on padding rows."""
        return sigmoid_cross_entropy(self(batch, train=train), batch["labels"], batch["weight"] > 0)

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `probability` [B] float32; `top_k` has no meaning for one candidate a sample."""
        del top_k
        return {"probability": jax.nn.sigmoid(self(batch))}
