"""BERT4Rec: a bidirectional transformer that fills in masked items of a user's sequence.

Source: Sun et al., BERT4Rec (CIKM 2019). A training sequence is a history and its last label. Departures: as many
items of every sequence are masked as `mask_rate` says, not a random number of them, so that logits of the masked
positions alone are computed; some sequences have just their last item masked, as at evaluation (the paper does so
for a copy of the data); a sequence is trained on for many more epochs than the authors' code did (Petrov and
Macdonald, RecSys 2022, show that this is what its results hang on); scores are products with the item table,
without an output layer and bias of their own; pre-norm blocks; ReLU in the place of GELU; padding at the end.

Shapes: B batch, L history length, T = L + 1 sequence length, M masked items a sequence, D embedding dim,
V catalogue, K items returned.
"""

import math
from typing import ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from recjax.config import ModelConfig, check, config, follows_from_others
from recjax.data.next_item import NextItemSchema
from recjax.losses import chunked_softmax_cross_entropy
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
class BERT4RecConfig(ModelConfig):
    """Sizes of a BERT4Rec."""

    task: ClassVar[str] = "next_item"

    embedding_dim: int = 64  # D; items, positions and blocks
    heads: int = 2  # must divide embedding_dim where head_dim is 0
    head_dim: int = follows_from_others(default=0)  # of each head; 0 is embedding_dim / heads
    mlp_dims: tuple[int, ...] = (256, 256)  # hidden width of each block's MLP; its length is the depth
    dropout_rate: float = 0.2  # [0, 1)
    mask_rate: float = 0.2  # (0, 1]; share of a sequence's items that are masked, at least one
    last_only_rate: float = 0.1  # [0, 1]; share of sequences of which only the last item is masked
    loss_chunk: int = 512  # positions whose logits are held at once
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation

    def __post_init__(self) -> None:
        check(self.embedding_dim >= 1, "BERT4RecConfig.embedding_dim", self.embedding_dim, ">= 1")
        check(self.heads >= 1, "BERT4RecConfig.heads", self.heads, ">= 1")
        check(self.head_dim >= 0, "BERT4RecConfig.head_dim", self.head_dim, ">= 0")
        divides = self.head_dim > 0 or self.embedding_dim % self.heads == 0
        check(divides, "BERT4RecConfig.heads", self.heads, "a divisor of embedding_dim")
        check(min(self.mlp_dims, default=0) >= 1, "BERT4RecConfig.mlp_dims", self.mlp_dims, "one width >= 1 a block")
        check(0 <= self.dropout_rate < 1, "BERT4RecConfig.dropout_rate", self.dropout_rate, "[0, 1)")
        check(0 < self.mask_rate <= 1, "BERT4RecConfig.mask_rate", self.mask_rate, "(0, 1]")
        check(0 <= self.last_only_rate <= 1, "BERT4RecConfig.last_only_rate", self.last_only_rate, "[0, 1]")
        check(self.loss_chunk >= 1, "BERT4RecConfig.loss_chunk", self.loss_chunk, ">= 1")

    def build(self, schema: NextItemSchema) -> "BERT4Rec":
        """Returns the module for a catalogue and history length."""
        return BERT4Rec(config=self, schema=schema)

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


def draw_masked(
    key: Array, lengths_B: Int[Array, "B"], width: int, mask_rate: float, last_only_rate: float
) -> tuple[Int[Array, "B M"], Bool[Array, "B M"]]:
    """Returns the positions to mask in each sequence, and which of them count.

    Of a sequence of n items, max(1, round(mask_rate n)) positions count, drawn uniformly without repetition; with
    probability `last_only_rate` only the last does. M is what the longest sequence needs, so shapes never change.
    An empty sequence has none.

    Args:
      key: randomness.
      lengths_B: n of each sequence, in [0, width].
      width: T, positions of a padded sequence.
      mask_rate: (0, 1].
      last_only_rate: [0, 1].
    """
    position_BT = jnp.arange(width)[None]
    key_order, key_last = jax.random.split(key)
    last_only_B1 = jax.random.uniform(key_last, (lengths_B.shape[0], 1)) < last_only_rate
    order_BT = jax.random.uniform(key_order, (lengths_B.shape[0], width))
    order_BT = jnp.where(last_only_B1 & (position_BT == lengths_B[:, None] - 1), 2.0, order_BT)
    order_BT = jnp.where(position_BT < lengths_B[:, None], order_BT, -1.0)
    _, positions_BM = jax.lax.top_k(order_BT, max(1, math.floor(mask_rate * width + 0.5)))
    wanted_B1 = jnp.maximum(1, jnp.floor(mask_rate * lengths_B[:, None] + 0.5))
    wanted_B1 = jnp.where(last_only_B1, 1, wanted_B1) * (lengths_B[:, None] > 0)
    return positions_BM, jnp.arange(positions_BM.shape[1])[None] < wanted_B1


class BERT4Rec(nn.Module):
    """The module; batches hold `history` [B, L] int32 and `lengths` [B] int32 (see recjax.data.next_item)."""

    config: BERT4RecConfig
    schema: NextItemSchema
    dots: Dots = FLOAT

    def setup(self) -> None:
        """Creates item and position tables and the blocks; the item table's last row is the mask's."""
        c = self.config
        self.items = Embedding(self.schema.n_items + 1, c.embedding_dim, dtype=c.dtype)
        self.positions = Embedding(self.schema.max_history + 1, c.embedding_dim, dtype=c.dtype)
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

    def encode(
        self, sequence_BT: Int[Array, "B T"], lengths_B: Int[Array, "B"], *, train: bool = False
    ) -> Float[Array, "B T D"]:
        """Returns the hidden state of each position, which sees the first `lengths_B` items of its sequence."""
        x_BTD = self.items.rows(sequence_BT) * self.config.embedding_dim**0.5
        x_BTD = self.dropout(
            x_BTD + self.positions.rows(jnp.arange(sequence_BT.shape[1]))[None], deterministic=not train
        )
        used_BT = jnp.arange(sequence_BT.shape[1])[None] < lengths_B[:, None]
        for block in self.blocks:
            x_BTD = block(x_BTD, used_BT[:, None], train=train)
        return self.norm(x_BTD)

    def loss(self, batch: Batch, *, train: bool) -> Float[Array, ""]:
        """Returns the mean cross-entropy of the masked items; `labels` is [B, L] int32.

        Masks are drawn anew at every call in training; without a random key always the same ones are.
        """
        c, lengths_B = self.config, batch["lengths"]
        last_label_B = jnp.take_along_axis(batch["labels"], jnp.maximum(lengths_B - 1, 0)[:, None], 1)[:, 0]
        sequence_BT = _with_last(batch["history"], lengths_B, last_label_B)
        items_B = jnp.where(lengths_B > 0, lengths_B + 1, 0)  # a padding row of the batch has no item to mask
        key = self.make_rng("dropout") if train else jax.random.key(0)
        masked_BM, where_BM = draw_masked(key, items_B, sequence_BT.shape[1], c.mask_rate, c.last_only_rate)
        labels_BM = jnp.take_along_axis(sequence_BT, masked_BM, 1)
        rows_B1 = jnp.arange(len(sequence_BT))[:, None]
        dropped_BM = jnp.where(where_BM, masked_BM, sequence_BT.shape[1])
        sequence_BT = sequence_BT.at[rows_B1, dropped_BM].set(self.schema.n_items, mode="drop")
        hidden_BTD = self.encode(sequence_BT, items_B, train=train)
        hidden_BMD = jnp.take_along_axis(hidden_BTD, masked_BM[..., None], 1)
        return chunked_softmax_cross_entropy(
            hidden_BMD.reshape(-1, hidden_BMD.shape[-1]),
            self._output_table(),
            labels_BM.reshape(-1),
            where_BM.reshape(-1),
            c.loss_chunk,
        )

    def __call__(self, batch: Batch) -> Float[Array, "B V"]:
        """Returns the float32 score of every item for a mask that stands after each history's last item."""
        lengths_B = batch["lengths"]
        sequence_BT = _with_last(batch["history"], lengths_B, jnp.full_like(lengths_B, self.schema.n_items))
        hidden_BTD = self.encode(sequence_BT, lengths_B + 1)
        last_BD = jnp.take_along_axis(hidden_BTD, lengths_B[:, None, None], 1)[:, 0]
        return jnp.dot(last_BD, self._output_table().T, preferred_element_type=jnp.float32)

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `items` [B, K] int32 and `scores` [B, K] float32, best first, without the history's own items."""
        return top_next(self(batch), batch["history"], batch["lengths"], top_k)

    def _output_table(self) -> Float[Array, "V D"]:
        return self.items.table[: self.schema.n_items]


def _with_last(history_BL: Int[Array, "B L"], lengths_B: Int[Array, "B"], last_B: Int[Array, "B"]) -> Int[Array, "B T"]:
    """Returns the sequences with one more item after their last, and so one position more."""
    sequence_BT = jnp.pad(history_BL, ((0, 0), (0, 1)))
    return jnp.where(jnp.arange(sequence_BT.shape[1])[None] == lengths_B[:, None], last_B[:, None], sequence_BT)
