"""SASRec: a causal transformer over a user's history that predicts the next item.

Source: Kang and McAuley, Self-Attentive Sequential Recommendation (ICDM 2018). Departures: full-softmax
cross-entropy over the catalogue instead of one sampled negative (Petrov and Macdonald, RecSys 2023, show
that it closes the gap to BERT4Rec), keys and values normed like the queries (the authors' code norms queries alone),
MLPs with a hidden width of their own (the paper's is the embedding's), and padding at the end of the history.

Shapes: B batch, L history length, D embedding dim, V catalogue, K items returned.
"""

from typing import ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from recjax.config import ModelConfig, check, config, follows_from_others
from recjax.data.next_item import NextItemSchema
from recjax.losses import next_item_cross_entropy
from recjax.models.contract import (
    AttentionHeads,
    Batch,
    HiddenUnits,
    RemovableLayers,
    block_attention_heads,
    block_hidden_units,
    removable_blocks,
)
from recjax.models.sharding import TABLES, Rules, block_rules
from recjax.nn.attention import TransformerBlock
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.embedding import Embedding
from recjax.nn.retrieval import top_next


@config
class SASRecConfig(ModelConfig):
    """Sizes of a SASRec."""

    task: ClassVar[str] = "next_item"

    embedding_dim: int = 64  # D; items, positions and blocks
    heads: int = 2  # must divide embedding_dim where head_dim is 0
    head_dim: int = follows_from_others(default=0)  # of each head; 0 is embedding_dim / heads
    mlp_dims: tuple[int, ...] = (256, 256)  # hidden width of each block's MLP; its length is the depth
    dropout_rate: float = 0.2  # [0, 1)
    loss_chunk: int = 512  # positions whose logits are held at once
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation

    def __post_init__(self) -> None:
        check(self.embedding_dim >= 1, "SASRecConfig.embedding_dim", self.embedding_dim, ">= 1")
        check(self.heads >= 1, "SASRecConfig.heads", self.heads, ">= 1")
        check(self.head_dim >= 0, "SASRecConfig.head_dim", self.head_dim, ">= 0")
        divides = self.head_dim > 0 or self.embedding_dim % self.heads == 0
        check(divides, "SASRecConfig.heads", self.heads, "a divisor of embedding_dim")
        check(min(self.mlp_dims, default=0) >= 1, "SASRecConfig.mlp_dims", self.mlp_dims, "one width >= 1 a block")
        check(0 <= self.dropout_rate < 1, "SASRecConfig.dropout_rate", self.dropout_rate, "[0, 1)")
        check(self.loss_chunk >= 1, "SASRecConfig.loss_chunk", self.loss_chunk, ">= 1")

    def build(self, schema: NextItemSchema) -> "SASRec":
        """Returns the module for a catalogue and history length."""
        return SASRec(config=self, schema=schema)

    def sharding_rules(self) -> Rules:
        """Returns the rules that split the blocks."""
        return (*block_rules(), *TABLES)

    def hidden_units(self) -> tuple[HiddenUnits, ...]:
        """Returns the MLP of every block."""
        return block_hidden_units(len(self.mlp_dims))

    def attention_heads(self) -> tuple[AttentionHeads, ...]:
        """Returns the attention of every block."""
        return block_attention_heads(len(self.mlp_dims), self.heads, self.head_dim or self.embedding_dim // self.heads)

    def removable_layers(self) -> tuple[RemovableLayers, ...]:
        """Returns the blocks."""
        return removable_blocks(len(self.mlp_dims), "mlp_dims")


class SASRec(nn.Module):
    """The module; batches hold `history` [B, L] int32 and `lengths` [B] int32 (see recjax.data.next_item)."""

    config: SASRecConfig
    schema: NextItemSchema
    dots: Dots = FLOAT

    def setup(self) -> None:
        """Creates item and position tables and the blocks."""
        c = self.config
        self.items = Embedding(self.schema.n_items, c.embedding_dim, dtype=c.dtype)
        self.positions = Embedding(self.schema.max_history, c.embedding_dim, dtype=c.dtype)
        self.dropout = nn.Dropout(c.dropout_rate)
        self.blocks = [
            TransformerBlock(
                heads=c.heads,
                head_dim=c.head_dim,
                mlp_dim=mlp_dim,
                dropout_rate=c.dropout_rate,
                dtype=c.dtype,
                dots=self.dots,
                name=f"block_{i}",
            )
            for i, mlp_dim in enumerate(c.mlp_dims)
        ]
        self.norm = nn.LayerNorm(dtype=c.dtype)

    def encode(self, history_BL: Int[Array, "B L"], *, train: bool = False) -> Float[Array, "B L D"]:
        """Returns the hidden state after each position of the history."""
        x_BLD = self.items.rows(history_BL) * self.config.embedding_dim**0.5
        x_BLD = self.dropout(
            x_BLD + self.positions.rows(jnp.arange(history_BL.shape[1]))[None], deterministic=not train
        )
        for block in self.blocks:
            x_BLD = block(x_BLD, train=train)
        return self.norm(x_BLD)

    def loss(self, batch: Batch, *, train: bool) -> Float[Array, ""]:
        """Returns the mean cross-entropy of every position's next item; `labels` is [B, L] int32."""
        hidden_BLD = self.encode(batch["history"], train=train)
        return next_item_cross_entropy(
            hidden_BLD, self.items.table, batch["labels"], batch["lengths"], self.config.loss_chunk
        )

    def __call__(self, batch: Batch) -> Float[Array, "B V"]:
        """Returns the float32 score of every item after each history."""
        hidden_BLD = self.encode(batch["history"])
        last_BD = jnp.take_along_axis(hidden_BLD, (batch["lengths"] - 1)[:, None, None], 1)[:, 0]
        return self.items.scores(last_BD)

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `items` [B, K] int32 and `scores` [B, K] float32, best first, without the history's own items."""
        return top_next(self(batch), batch["history"], batch["lengths"], top_k)
