"""HSTU's layer over a history and candidates: a candidate sees the history and itself, and no other candidate.

Shapes: B batch, T tokens of the history, C candidates, S = T + C, H heads, D model dim, K query and key dim of a head,
V value dim of a head.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from recjax.nn.dense import Dense, key_for
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.pointwise_attention import norm_of_heads


def visible_tokens(last_B: Int[Array, "B"], n_tokens: int, n_candidates: int) -> Bool[Array, "B S T"]:
    """Returns which tokens each position sees: a token itself and those before it, a candidate all up to `last_B`.

    Tokens behind `last_B` are padding; they see only each other and what is before them, and nothing reads them.
    """
    position_S = jnp.arange(n_tokens + n_candidates)
    until_BS = jnp.where(position_S[None] < n_tokens, position_S[None], last_B[:, None])
    return jnp.arange(n_tokens)[None, None] <= until_BS[:, :, None]


class CandidateAttentionBlock(nn.Module):
    """A residual HSTU layer over T tokens of a history, oldest first, and C candidates behind them.

    Formulas, with phi = SiLU and X normed first, as in the authors' code:
      (1) U, V, Q, K = split(f1(X)); U = phi(U)
      (2) A = phi(Q K^T / sqrt(K)) / `max_length`, and 0 where a position does not see the other
      (3) Y = f2([U, A V, norm(A V) * U]), to which the block adds its input.

    Keys and values of the history are made once for all candidates. A candidate's own part of A V is a product of its
    query with its own key, so there are S T + C products of vectors in the place of S S.

    Source: mlcommons/inference, recommendation/dlrm_v3/generative_recommenders/modules/stu.py, and there
    ops/pytorch/pt_hstu_attention.py for what is seen and ops/hstu_compute.py for (1) and (3). The norm has no scale and
    bias of its own: f2 multiplies U and norm(A V) * U by weights of their own, which can be both.
    """

    heads: int
    key_dim: int
    value_dim: int
    max_length: int  # of history and candidates together; what A is divided by, whatever the batch is padded to
    normed_heads: int = 0  # heads that the norm of AV counts, absent ones as zeros; 0 is heads
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    dots: Dots = FLOAT

    @nn.compact
    def __call__(
        self, x_BSD: Float[Array, "B S D"], visible_BST: Bool[Array, "B S T"], *, train: bool = False
    ) -> Float[Array, "B S D"]:
        """Returns the block's output; the mask as `visible_tokens` gives it."""
        B, S, D = x_BSD.shape
        H, K, V, T = self.heads, self.key_dim, self.value_dim, visible_BST.shape[2]
        path, dense = "/".join(self.path), {"dtype": self.dtype, "dots": self.dots}
        normed_BSD = nn.LayerNorm(dtype=self.dtype, name="norm_input")(x_BSD)
        joint = Dense(2 * H * (V + K), name="uvqk", **dense)(normed_BSD)
        gate, value, query, key = jnp.split(joint, [H * V, 2 * H * V, H * (2 * V + K)], axis=2)
        gate, value_BSHV = jax.nn.silu(gate), value.reshape(B, S, H, V)
        query_BSHK, key_BSHK = query.reshape(B, S, H, K) * K**-0.5, key.reshape(B, S, H, K)

        scores_BHST = self.dots.einsum(
            "bshk,bthk->bhst", query_BSHK, key_BSHK[:, :T], f"{path}/scores", key_for(self, self.dots)
        )
        weights_BHST = jax.nn.silu(scores_BHST) * (visible_BST[:, None].astype(self.dtype) / self.max_length)
        attended_BSHV = self.dots.einsum(
            "bhst,bthv->bshv", weights_BHST, value_BSHV[:, :T], f"{path}/values", key_for(self, self.dots)
        )
        own_BCH = jnp.sum(query_BSHK[:, T:] * key_BSHK[:, T:], axis=3)
        own_BCHV = (jax.nn.silu(own_BCH) / self.max_length)[..., None] * value_BSHV[:, T:]
        attended = attended_BSHV.at[:, T:].add(own_BCHV).reshape(B, S, H * V)

        normed = norm_of_heads(attended, max(self.normed_heads, H) * V, self.dtype)
        parts = jnp.concatenate([gate, attended, normed * gate], axis=2)
        parts = nn.Dropout(self.dropout_rate, deterministic=not train)(parts)
        return x_BSD + Dense(D, use_bias=False, name="out", **dense)(parts)
