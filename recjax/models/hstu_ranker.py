"""HSTU that ranks given candidates after a user's history: the dense part of MLCommons' DLRMv3.

History and candidates are one sequence in which a candidate sees the history and itself, so one pass scores all
candidates of a request. Beside HSTU's layers there are small MLPs: for items, categories and actions on the way in, for
the candidates' items beside HSTU, and for the answer.

Source: mlcommons/inference, recommendation/dlrm_v3: configs.py for sizes, and under generative_recommenders/ the
modules dlrm_hstu.py, preprocessors.py, postprocessors.py and multitask_module.py and ops/pytorch/pt_position.py; the
code of Zhai et al., Actions Speak Louder than Words (ICML 2024). Departures: MLPs of categories and actions, of which
there are few, run once for each of them and not for each position; sequences are padded to one length, by which
attention is divided always; the user's token has no time; norms' epsilons are 1e-6.

Count, in multiply-adds of a request, for T = 1 + history and S = T + C (width D = H V = H K):
  a layer S (4 D D + 3 D D) + 2 S T D; embeddings 2 S D M; candidates C (3 D D + 2 D D); M is `hidden_dim`.

Shapes: B batch, L history length, T = 1 + L tokens (the user first), C candidates, S = T + C, D embedding dim, G
categories, A actions.
"""

from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from recjax.config import ModelConfig, check, config, follows_from_others
from recjax.data.candidates import N_ACTIONS, CandidatesSchema
from recjax.losses import sigmoid_cross_entropy
from recjax.models.contract import AttentionHeads, Batch, RemovableLayers, removable_blocks
from recjax.models.hstu_heads import heads_of_blocks
from recjax.models.sharding import NORMS, TABLES, Rules, dense_rules, mlp_rules
from recjax.nn.candidate_attention import CandidateAttentionBlock, visible_tokens
from recjax.nn.dense import Dense
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.embedding import Embedding

SECONDS_A_MINUTE = 60
CYCLES = ((3_600, 24), (86_400, 7))  # unit in seconds, units a cycle: hours of a day and days of a week


@config
class HSTURankerConfig(ModelConfig):
    """Sizes of an HSTU that ranks candidates; the defaults are MLCommons'."""

    task: ClassVar[str] = "candidates"

    embedding_dim: int = 512  # D; of users, items, categories and layers
    layers: int = 5
    heads: int = 4
    key_dim: int = 128  # of queries and keys, a head
    value_dim: int = 128  # of values and gates, a head
    normed_heads: int = follows_from_others(default=0)  # that norms of AV count, absent ones as zeros; 0 is heads
    hidden_dim: int = 256  # of the MLPs of items, categories and actions
    candidate_dim: int = 512  # hidden, of the MLPs of candidates' items and of the answer
    action_dim: int = 40  # of an action's embedding
    positions: int = 8_192  # counted from the newest item back, >= 3; older ones share the last
    time_buckets: int = 2_049  # by the square root of the minutes before the request; older items share the last
    input_dropout_rate: float = 0.2  # [0, 1); of the embedded sequence
    dropout_rate: float = 0.1  # [0, 1); of what each layer's last product reads
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation

    def __post_init__(self) -> None:
        sizes = ("embedding_dim", "layers", "heads", "key_dim", "value_dim", "hidden_dim", "candidate_dim")
        for name in (*sizes, "action_dim", "time_buckets"):
            check(getattr(self, name) >= 1, f"HSTURankerConfig.{name}", getattr(self, name), ">= 1")
        check(self.positions >= 3, "HSTURankerConfig.positions", self.positions, ">= 3")
        counts_all = self.normed_heads == 0 or self.normed_heads >= self.heads
        check(counts_all, "HSTURankerConfig.normed_heads", self.normed_heads, "0, or at least heads")
        for name in ("input_dropout_rate", "dropout_rate"):
            check(0 <= getattr(self, name) < 1, f"HSTURankerConfig.{name}", getattr(self, name), "[0, 1)")

    def build(self, schema: CandidatesSchema) -> "HSTURanker":
        """Returns the module for users, items and the longest history."""
        return HSTURanker(config=self, schema=schema)

    def sharding_rules(self) -> Rules:
        """Returns the rules that split the layers' kernels and the MLPs, but not attention by its heads.

        One kernel makes gates, values, queries and keys, each for all heads.
        """
        return (
            *dense_rules(r"block_\d+/uvqk", split="input"),
            *dense_rules(r"block_\d+/out", split="output"),
            *mlp_rules("(content|category|action|candidate|answer)"),
            *dense_rules("(user|state|time|logit)"),
            *NORMS,
            *TABLES,
        )

    def attention_heads(self) -> tuple[AttentionHeads, ...]:
        """Returns the attention of every layer."""
        normed_heads = self.normed_heads or self.heads
        sizes = self.layers, self.heads, self.key_dim, self.value_dim, normed_heads
        return heads_of_blocks(*sizes, biased=True, out_parts=3)

    def removable_layers(self) -> tuple[RemovableLayers, ...]:
        """Returns the layers."""
        return removable_blocks(self.layers, "layers")


class SwishNormMLP(nn.Module):
    """Dense, x sigmoid(norm(x)), dense again and a norm; without `output_dim` it ends with the hidden layer.

    Source: generative_recommenders/modules/preprocessors.py, and SwishLayerNorm of ops/layer_norm.py there.
    """

    hidden_dim: int
    output_dim: int = 0
    dtype: Any = jnp.float32
    dots: Dots = FLOAT

    @nn.compact
    def __call__(self, x: Float[Array, "*batch I"]) -> Float[Array, "*batch O"]:
        """Returns the MLP's output."""
        x = Dense(self.hidden_dim, dtype=self.dtype, dots=self.dots, name="dense_0")(x)
        x *= jax.nn.sigmoid(nn.LayerNorm(dtype=self.dtype, name="norm_hidden")(x))
        if not self.output_dim:
            return x
        x = Dense(self.output_dim, dtype=self.dtype, dots=self.dots, name="dense_1")(x)
        return nn.LayerNorm(dtype=self.dtype, name="norm_output")(x)


class HSTURanker(nn.Module):
    """The module; batches are those of recjax.data.candidates.SyntheticDLRMv3."""

    config: HSTURankerConfig
    schema: CandidatesSchema
    dots: Dots = FLOAT

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool = False) -> Float[Array, "B C"]:
        """Returns the float32 logit of each candidate."""
        c, schema = self.config, self.schema
        common: dict[str, Any] = {"dtype": c.dtype, "dots": self.dots}
        n_tokens = 1 + batch["history"].shape[1]
        ids_BS = jnp.concatenate([batch["history"], batch["candidates"]], 1)
        items_BSD = Embedding(schema.n_items, c.embedding_dim, dtype=c.dtype, name="items").rows(ids_BS)
        categories_GD = Embedding(schema.n_categories, c.embedding_dim, dtype=c.dtype, name="categories").rows(
            jnp.arange(schema.n_categories)
        )
        category_BS = jnp.minimum(ids_BS // schema.items_a_category, schema.n_categories - 1)

        x_BSD = self._embedded(batch, items_BSD, categories_GD, category_BS)
        x_BSD = nn.Dropout(c.input_dropout_rate, deterministic=not train)(x_BSD)
        visible_BST = visible_tokens(batch["lengths"], n_tokens, batch["candidates"].shape[1])
        for i in range(c.layers):
            block = CandidateAttentionBlock(
                heads=c.heads,
                key_dim=c.key_dim,
                value_dim=c.value_dim,
                max_length=1 + schema.max_history + schema.max_candidates,
                normed_heads=c.normed_heads,
                dropout_rate=c.dropout_rate,
                name=f"block_{i}",
                **common,
            )
            x_BSD = block(x_BSD, visible_BST, train=train)

        time_B1D = Dense(c.embedding_dim, use_bias=False, name="time", **common)(_cycles(batch["query_time"]))[:, None]
        state_BCD = Dense(c.embedding_dim, name="state", **common)(x_BSD[:, n_tokens:]) + time_B1D
        state_BCD = nn.LayerNorm(dtype=c.dtype, name="norm_state")(state_BCD)
        items_BCD, category_BC = items_BSD[:, n_tokens - 1 :], category_BS[:, n_tokens - 1 :]
        features = jnp.concatenate([items_BCD, categories_GD[category_BC]], 2)
        item_BCD = SwishNormMLP(c.candidate_dim, c.embedding_dim, name="candidate", **common)(features)
        answer = SwishNormMLP(c.candidate_dim, name="answer", **common)(state_BCD * item_BCD)
        return Dense(1, name="logit", dots=self.dots)(answer.astype(jnp.float32))[..., 0]  # it is the answer

    def _embedded(
        self,
        batch: Batch,
        items_BSD: Float[Array, "B N D"],
        categories_GD: Float[Array, "G D"],
        category_BS: Int[Array, "B N"],
    ) -> Float[Array, "B S D"]:
        """Returns the sequence of the user, the history and the candidates; N = S - 1 are its items."""
        c = self.config
        common: dict[str, Any] = {"dtype": c.dtype, "dots": self.dots}
        L, C, D = batch["history"].shape[1], batch["candidates"].shape[1], c.embedding_dim

        def mlp(name: str) -> SwishNormMLP:
            return SwishNormMLP(c.hidden_dim, D, name=name, **common)

        def embedding(name: str, n: int, dim: int = D) -> Embedding:
            return Embedding(n, dim, dtype=c.dtype, name=name)

        actions_AD = mlp("action")(embedding("actions", 1 + N_ACTIONS, c.action_dim).rows(jnp.arange(1 + N_ACTIONS)))
        action_BS = jnp.pad(batch["actions"], ((0, 0), (0, C)))  # 0: to be predicted
        x_BSD = mlp("content")(items_BSD) + mlp("category")(categories_GD)[category_BS] + actions_AD[action_BS]
        user_B1D = Dense(D, name="user", **common)(embedding("users", self.schema.n_users).rows(batch["user"]))[:, None]
        x_BSD = jnp.concatenate([user_B1D, x_BSD], 1) * D**0.5

        # The user is at position 0, all candidates are at 1, and the newest item at 2.
        back_BL = jnp.clip(batch["lengths"][:, None] - jnp.arange(L)[None] + 1, 1, c.positions - 1)
        position_BS = jnp.pad(jnp.pad(back_BL, ((0, 0), (1, 0))), ((0, 0), (0, C)), constant_values=1)
        minutes_BL = jnp.maximum(batch["query_time"][:, None] - batch["times"], 0) / SECONDS_A_MINUTE
        bucket_BL = jnp.minimum(jnp.sqrt(minutes_BL).astype(jnp.int32), c.time_buckets - 1)
        time_BSD = embedding("times", c.time_buckets).rows(jnp.pad(bucket_BL, ((0, 0), (0, C))))
        x_BSD += embedding("positions", c.positions).rows(position_BS)
        return x_BSD.at[:, 1:].add(time_BSD)

    def loss(self, batch: Batch, *, train: bool) -> Float[Array, ""]:
        """Returns the mean logloss of all candidates; `labels` is [B, C] in {0, 1}, `weight` [B] 0 on padding rows."""
        logits_BC = self(batch, train=train)
        where_BC = jnp.broadcast_to(batch["weight"][:, None] > 0, logits_BC.shape)
        return sigmoid_cross_entropy(logits_BC.ravel(), batch["labels"].ravel(), where_BC.ravel())

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `probability` [B, C] float32 of each candidate, in their order; `top_k` has no meaning here."""
        del top_k
        return {"probability": jax.nn.sigmoid(self(batch))}


def _cycles(time_B: Int[Array, "B"]) -> Float[Array, "B F"]:
    """Returns cosine and sine of where in each of CYCLES a time is."""
    features = []
    for unit, n in CYCLES:
        angle_B = (time_B // unit % n) * (2 * jnp.pi / n)
        features += [jnp.cos(angle_B), jnp.sin(angle_B)]
    return jnp.stack(features, 1)
