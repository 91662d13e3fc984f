"""DLRM-DCNv2: dense and categorical features in, probability of a positive label out.

Source: Naumov et al., DLRM (arXiv 1906.00091), with its dot interaction replaced by the low-rank cross
network of Wang et al., DCN V2 (WWW 2021), as in MLCommons' DLRM-DCNv2.

Shapes: B batch, N dense features, F categorical fields, D embedding dim, L ids of a field.
"""

from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recjax.config import ModelConfig, check, config
from recjax.data.features import LabelledSchema
from recjax.losses import sigmoid_cross_entropy
from recjax.models.contract import Batch, HiddenUnits, RemovableLayers, mlp_hidden_units
from recjax.models.sharding import TABLES, Rules, dense_rules, mlp_rules
from recjax.nn.dense import Dense
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.embedding import Embedding
from recjax.nn.interaction import LowRankCrossNetwork
from recjax.nn.mlp import MLP


@config
class DLRMDCNv2Config(ModelConfig):
    """Sizes of a DLRM-DCNv2."""

    task: ClassVar[str] = "labelled"

    embedding_dim: int = 16  # D; of every categorical field and of the bottom MLP's output
    bottom_mlp: tuple[int, ...] = (64,)  # hidden widths before the final D
    cross_ranks: tuple[int, ...] = (64, 64, 64)  # rank of each cross layer
    top_mlp: tuple[int, ...] = (512, 256)  # hidden widths before the logit
    dropout_rate: float = 0.0  # [0, 1); of the top MLP
    embedding_dropout_rate: float = 0.0  # [0, 1); of the concatenated embeddings
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation

    def __post_init__(self) -> None:
        check(self.embedding_dim >= 1, "DLRMDCNv2Config.embedding_dim", self.embedding_dim, ">= 1")
        for name in ("bottom_mlp", "cross_ranks", "top_mlp"):
            widths = getattr(self, name)
            check(min(widths, default=0) >= 1, f"DLRMDCNv2Config.{name}", widths, "one or more widths >= 1")
        for name in ("dropout_rate", "embedding_dropout_rate"):
            check(0 <= getattr(self, name) < 1, f"DLRMDCNv2Config.{name}", getattr(self, name), "[0, 1)")

    def build(self, schema: LabelledSchema) -> "DLRMDCNv2":
        """Returns the module for a set of features."""
        return DLRMDCNv2(config=self, schema=schema)

    def sharding_rules(self) -> Rules:
        """Returns the rules that split both MLPs and the ranks of the cross network."""
        return (
            *mlp_rules("(bottom|top)_mlp"),
            *dense_rules(r"cross/down_\d+", split="output"),
            *dense_rules(r"cross/up_\d+", split="input"),
            *dense_rules("logit"),
            *TABLES,
        )

    def hidden_units(self) -> tuple[HiddenUnits, ...]:
        """Returns the hidden layers of both MLPs and the ranks of the cross network."""
        ranks = [
            HiddenUnits(
                field="cross_ranks", index=i, slices=((f"cross/down_{i}/kernel", 1), (f"cross/up_{i}/kernel", 0))
            )
            for i in range(len(self.cross_ranks))
        ]
        bottom_end = f"bottom_mlp/dense_{len(self.bottom_mlp)}"
        return (
            *mlp_hidden_units(self.bottom_mlp, "bottom_mlp", "bottom_mlp", bottom_end),
            *ranks,
            *mlp_hidden_units(self.top_mlp, "top_mlp", "top_mlp", "logit"),
        )

    def removable_layers(self) -> tuple[RemovableLayers, ...]:
        """Returns the layers of the cross network."""
        paths = ("cross/down_{}", "cross/up_{}")
        return (RemovableLayers(field="cross_ranks", count=len(self.cross_ranks), name="cross_{}", paths=paths),)


class DLRMDCNv2(nn.Module):
    """The module; batches hold `dense` [B, N] float32 and `sparse_ids` [B, T] int32 (see recjax.data.labelled)."""

    config: DLRMDCNv2Config
    schema: LabelledSchema
    dots: Dots = FLOAT

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool = False) -> Float[Array, "B"]:
        """Returns the float32 logit of each example."""
        c = self.config
        common: dict[str, Any] = {"dtype": c.dtype, "dots": self.dots}
        bottom = MLP(widths=(*c.bottom_mlp, c.embedding_dim), name="bottom_mlp", **common)
        features = [bottom(batch["dense"].astype(c.dtype), train=train)]
        for field, ids_BL in self.schema.split_fields(batch["sparse_ids"]):
            table = Embedding(field.vocab_size, c.embedding_dim, field.combiner, c.dtype, name=f"table_{field.name}")
            features.append(table(ids_BL))
        x_BD = jnp.concatenate(features, axis=1)
        x_BD = nn.Dropout(c.embedding_dropout_rate, deterministic=not train)(x_BD)
        x_BD = LowRankCrossNetwork(ranks=c.cross_ranks, name="cross", **common)(x_BD)
        x_BD = MLP(widths=c.top_mlp, dropout_rate=c.dropout_rate, name="top_mlp", **common)(x_BD, train=train)
        return Dense(1, name="logit", dots=self.dots)(x_BD.astype(jnp.float32))[
            :, 0
        ]  # float32: one column, and it is the answer

    def loss(self, batch: Batch, *, train: bool) -> Float[Array, ""]:
        """Returns the mean logloss; `labels` is [B] float32 in {0, 1}, `weight` [B] 0 on padding rows."""
        return sigmoid_cross_entropy(self(batch, train=train), batch["labels"], batch["weight"] > 0)

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `probability` [B] float32; `top_k` has no meaning for one candidate a sample."""
        del top_k
        return {"probability": jax.nn.sigmoid(self(batch))}
