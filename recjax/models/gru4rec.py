"""GRU4Rec: a recurrent network over a user's history that predicts the next item.

Source: Hidasi et al., Session-based Recommendations with Recurrent Neural Networks (ICLR 2016), and Hidasi and
Karatzoglou, Recurrent Neural Networks with Top-k Gains (CIKM 2018), which brought item embeddings shared with the
output. Departures: full-softmax cross-entropy over the catalogue in the place of in-batch negatives, a dense layer
from the states to the embeddings that items are scored by, no output bias, histories padded to one length in the place
of parallel sessions, and AdamW.

Shapes: B batch, L history length, D embedding dim, H units, V catalogue, K items returned.
"""

from typing import Any, ClassVar, Literal

import flax.linen as nn
from jaxtyping import Array, Float, Int

from recjax.config import ModelConfig, check, config
from recjax.data.next_item import NextItemSchema
from recjax.losses import next_item_cross_entropy
from recjax.models.contract import Batch
from recjax.models.sharding import TABLES, WHOLE, Rules, dense_rules
from recjax.nn.dense import Dense
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.embedding import Embedding
from recjax.nn.recurrent import Recurrent, last_state
from recjax.nn.retrieval import top_next


@config
class GRU4RecConfig(ModelConfig):
    """Sizes of a GRU4Rec."""

    task: ClassVar[str] = "next_item"

    embedding_dim: int = 64  # D; of items, going in and coming out
    units: tuple[int, ...] = (128,)  # H of each recurrent layer; its length is the depth
    cell: Literal["gru", "lstm"] = "gru"
    tied: bool = True  # whether the output table is the input table
    dropout_rate: float = 0.2  # [0, 1); of the item embeddings and of each layer's states
    loss_chunk: int = 512  # positions whose logits are held at once
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation

    def __post_init__(self) -> None:
        check(self.embedding_dim >= 1, "GRU4RecConfig.embedding_dim", self.embedding_dim, ">= 1")
        check(min(self.units, default=0) >= 1, "GRU4RecConfig.units", self.units, "one width >= 1 a layer")
        check(0 <= self.dropout_rate < 1, "GRU4RecConfig.dropout_rate", self.dropout_rate, "[0, 1)")
        check(self.loss_chunk >= 1, "GRU4RecConfig.loss_chunk", self.loss_chunk, ">= 1")

    def build(self, schema: NextItemSchema) -> "GRU4Rec":
        """Returns the module for a catalogue and history length."""
        return GRU4Rec(config=self, schema=schema)

    def sharding_rules(self) -> Rules:
        """Returns the rules that split what no step of a layer waits for: the input's products."""
        return (
            *dense_rules(r"layer_\d+/input", split="input"),
            (r"state_(kernel|bias)$", WHOLE),
            *dense_rules("project", split="input"),
            *TABLES,
        )


class GRU4Rec(nn.Module):
    """The module; batches hold `history` [B, L] int32 and `lengths` [B] int32 (see recjax.data.next_item)."""

    config: GRU4RecConfig
    schema: NextItemSchema
    dots: Dots = FLOAT

    def setup(self) -> None:
        """Creates the tables and layers."""
        c = self.config
        common: dict[str, Any] = {"dtype": c.dtype, "dots": self.dots}
        self.items = Embedding(self.schema.n_items, c.embedding_dim, dtype=c.dtype)
        self.dropout = nn.Dropout(c.dropout_rate)
        self.layers = [Recurrent(units=h, cell=c.cell, name=f"layer_{i}", **common) for i, h in enumerate(c.units)]
        self.project = Dense(c.embedding_dim, **common)
        if not c.tied:
            self.outputs = Embedding(self.schema.n_items, c.embedding_dim, dtype=c.dtype)

    def encode(self, history_BL: Int[Array, "B L"], *, train: bool = False) -> Float[Array, "B L D"]:
        """Returns the vector that each position's next item is scored with."""
        # Rows have norm 1 at the start: scaled as in SASRec, so that the gates see inputs of deviation 1.
        x_BLD = self.items.rows(history_BL) * self.config.embedding_dim**0.5
        x_BLD = self.dropout(x_BLD, deterministic=not train)
        for layer in self.layers:
            x_BLD = self.dropout(layer(x_BLD), deterministic=not train)
        return self.project(x_BLD)

    def loss(self, batch: Batch, *, train: bool) -> Float[Array, ""]:
        """Returns the mean cross-entropy of every position's next item; `labels` is [B, L] int32."""
        hidden_BLD = self.encode(batch["history"], train=train)
        return next_item_cross_entropy(
            hidden_BLD, self._outputs().table, batch["labels"], batch["lengths"], self.config.loss_chunk
        )

    def __call__(self, batch: Batch) -> Float[Array, "B V"]:
        """Returns the float32 score of every item after each history."""
        last_BD = last_state(self.encode(batch["history"]), batch["lengths"])
        return self._outputs().scores(last_BD)

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `items` [B, K] int32 and `scores` [B, K] float32, best first, without the history's own items."""
        return top_next(self(batch), batch["history"], batch["lengths"], top_k)

    def _outputs(self) -> Embedding:
        """Returns the embedding whose rows score items."""
        return self.items if self.config.tied else self.outputs
