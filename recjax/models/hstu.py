"""HSTU: gated attention without a softmax over a user's items and their times, which predicts the next item.

Source: Zhai et al., Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
Recommendations (ICML 2024, arXiv 2402.17152), and the authors' code, meta-recsys/generative-recommenders, for what
the paper leaves open. Departures: full-softmax cross-entropy over the catalogue in the place of 128 sampled
negatives, time buckets that are powers of 2 (the code's are of e^0.301), and by default scores by products with normed
states in the place of cosines over a temperature of 0.05, which learned slower on MovieLens 100K.

Time: the bias of item j in the prediction after item i is by (time of item i + 1) - (time of item j), as in the
authors' code: when the request comes is known when it is answered, what is watched then is not. `request_time=False`
takes the time of item i instead, which no later event can change.

Shapes: B batch, L history length, D embedding dim, V catalogue, K items returned.
"""

from typing import ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from recjax.config import ModelConfig, Samples, check, config, follows_from_others
from recjax.data.next_item import NextItemSchema
from recjax.losses import next_item_cross_entropy
from recjax.models.contract import AttentionHeads, Batch, RemovableLayers, removable_blocks
from recjax.models.hstu_heads import heads_of_blocks
from recjax.models.sharding import NORMS, TABLES, Rules, dense_rules
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.embedding import Embedding
from recjax.nn.pointwise_attention import MAX_DOUBLINGS, PointwiseAttentionBlock, time_buckets
from recjax.nn.retrieval import top_next


@config
class HSTUConfig(ModelConfig):
    """Sizes of an HSTU."""

    task: ClassVar[str] = "next_item"

    embedding_dim: int = 64  # D; items, positions and layers
    layers: int = 2
    heads: int = 2
    key_dim: int = 32  # of queries and keys, a head
    value_dim: int = 32  # of values and gates, a head
    normed_heads: int = follows_from_others(default=0)  # that norms of AV count, absent ones as zeros; 0 is heads
    buckets_per_doubling: int = 1  # time buckets from one power of 2 seconds to the next
    request_time: bool = True  # whether the time of the predicted item is read
    temperature: float = 0.0  # cosines are divided by it; 0 scores by products of normed states
    dropout_rate: float = 0.2  # [0, 1); of the embeddings and of each layer's gated values
    loss_chunk: int = 512  # positions whose logits are held at once
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation

    def __post_init__(self) -> None:
        check(self.embedding_dim >= 1, "HSTUConfig.embedding_dim", self.embedding_dim, ">= 1")
        check(self.layers >= 1, "HSTUConfig.layers", self.layers, ">= 1")
        check(self.heads >= 1, "HSTUConfig.heads", self.heads, ">= 1")
        check(self.key_dim >= 1, "HSTUConfig.key_dim", self.key_dim, ">= 1")
        check(self.value_dim >= 1, "HSTUConfig.value_dim", self.value_dim, ">= 1")
        counts_all = self.normed_heads == 0 or self.normed_heads >= self.heads
        check(counts_all, "HSTUConfig.normed_heads", self.normed_heads, "0, or at least heads")
        check(self.buckets_per_doubling >= 1, "HSTUConfig.buckets_per_doubling", self.buckets_per_doubling, ">= 1")
        check(self.temperature >= 0, "HSTUConfig.temperature", self.temperature, ">= 0")
        check(0 <= self.dropout_rate < 1, "HSTUConfig.dropout_rate", self.dropout_rate, "[0, 1)")
        check(self.loss_chunk >= 1, "HSTUConfig.loss_chunk", self.loss_chunk, ">= 1")

    def build(self, schema: NextItemSchema) -> "HSTU":
        """Returns the module for a catalogue and history length."""
        return HSTU(config=self, schema=schema)

    def sharding_rules(self) -> Rules:
        """Returns the rules that split the layers' kernels, but not attention by its heads.

        One kernel makes gates, values, queries and keys, each for all heads.
        """
        return (
            *dense_rules(r"block_\d+/uvqk", split="input"),
            *dense_rules(r"block_\d+/out", split="output"),
            *NORMS,
            *TABLES,
        )

    def samples(self) -> Samples:
        """Returns windows with their times."""
        return Samples(times=True)

    def attention_heads(self) -> tuple[AttentionHeads, ...]:
        """Returns the attention of every layer."""
        normed_heads = self.normed_heads or self.heads
        sizes = self.layers, self.heads, self.key_dim, self.value_dim, normed_heads
        return heads_of_blocks(*sizes, biased=False, out_parts=1)

    def removable_layers(self) -> tuple[RemovableLayers, ...]:
        """Returns the layers."""
        return removable_blocks(self.layers, "layers")


def query_times(batch: Batch, *, request_time: bool) -> Int[Array, "B L"]:
    """Returns the time in seconds at which each position's next item is asked for.

    In training that is `label_times`; outside it the next item's time, and `target_time` after the last item.
    Without `request_time` it is the position's own item's.
    """
    times_BL = batch["times"]
    if not request_time:
        return times_BL
    if "label_times" in batch:
        return batch["label_times"]
    is_last_BL = jnp.arange(times_BL.shape[1])[None] == batch["lengths"][:, None] - 1
    return jnp.where(is_last_BL, batch["target_time"][:, None], jnp.roll(times_BL, -1, axis=1))


class HSTU(nn.Module):
    """The module; batches hold `history`, `times` [B, L] and `lengths` [B] int32, and the times that are asked for."""

    config: HSTUConfig
    schema: NextItemSchema
    dots: Dots = FLOAT

    def setup(self) -> None:
        """Creates item and position tables and the layers."""
        c = self.config
        self.items = Embedding(self.schema.n_items, c.embedding_dim, dtype=c.dtype)
        self.positions = Embedding(self.schema.max_history, c.embedding_dim, dtype=c.dtype)
        self.dropout = nn.Dropout(c.dropout_rate)
        self.blocks = [
            PointwiseAttentionBlock(
                heads=c.heads,
                key_dim=c.key_dim,
                value_dim=c.value_dim,
                normed_heads=c.normed_heads,
                n_buckets=MAX_DOUBLINGS * c.buckets_per_doubling,
                dropout_rate=c.dropout_rate,
                dtype=c.dtype,
                dots=self.dots,
                name=f"block_{i}",
            )
            for i in range(c.layers)
        ]
        self.norm = nn.LayerNorm(dtype=c.dtype)

    def encode(self, batch: Batch, *, train: bool = False) -> Float[Array, "B L D"]:
        """Returns the vector that each position's next item is scored with."""
        c, history_BL = self.config, batch["history"]
        x_BLD = self.items.rows(history_BL) * c.embedding_dim**0.5
        x_BLD = self.dropout(
            x_BLD + self.positions.rows(jnp.arange(history_BL.shape[1]))[None], deterministic=not train
        )
        asked_BL = query_times(batch, request_time=c.request_time)
        buckets_BLL = time_buckets(asked_BL, batch["times"], c.buckets_per_doubling)
        for block in self.blocks:
            x_BLD = block(x_BLD, buckets_BLL, train=train)
        if not c.temperature:
            return self.norm(x_BLD)
        return _unit(x_BLD) / jnp.asarray(c.temperature, x_BLD.dtype)

    def loss(self, batch: Batch, *, train: bool) -> Float[Array, ""]:
        """Returns the mean cross-entropy of every position's next item; `labels` is [B, L] int32."""
        hidden_BLD = self.encode(batch, train=train)
        return next_item_cross_entropy(
            hidden_BLD, self._output_table(), batch["labels"], batch["lengths"], self.config.loss_chunk
        )

    def __call__(self, batch: Batch) -> Float[Array, "B V"]:
        """Returns the float32 score of every item after each history."""
        last_BD = jnp.take_along_axis(self.encode(batch), (batch["lengths"] - 1)[:, None, None], 1)[:, 0]
        return jnp.dot(last_BD, self._output_table().T, preferred_element_type=jnp.float32)

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `items` [B, K] int32 and `scores` [B, K] float32, best first, without the history's own items."""
        return top_next(self(batch), batch["history"], batch["lengths"], top_k)

    def _output_table(self) -> Float[Array, "V D"]:
        table_VD = self.items.table
        return _unit(table_VD) if self.config.temperature else table_VD


def _unit(x: Float[Array, "*shape D"]) -> Float[Array, "*shape D"]:
    """Returns the vectors divided by their norms; a zero vector stays zero."""
    return x * jnp.reciprocal(jnp.sqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-12))
