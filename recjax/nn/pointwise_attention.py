"""HSTU's layer: attention without a softmax, with biases by distance and by time, gated.

Shapes: B batch, L history length, H heads, D model dim, K query and key dim of a head, V value dim of a head.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from recjax.nn.dense import Dense, key_for
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.embedding import Embedding

MAX_DOUBLINGS = 32  # more seconds than 2**32 lie between no two int32 times


def time_buckets(
    query_times_BL: Int[Array, "B L"], times_BL: Int[Array, "B L"], buckets_per_doubling: int
) -> Int[Array, "B L L"]:
    """Returns the bucket of the seconds from each item (last axis) to each query; 0 where they are not after it.

    Formula: floor(n log2(1 + max(0, query time - time))), below 32 n for n buckets a doubling.
    """
    elapsed_BLL = jnp.maximum(query_times_BL[:, :, None] - times_BL[:, None, :], 0).astype(jnp.float32)
    buckets_BLL = jnp.floor(buckets_per_doubling * jnp.log2(1 + elapsed_BLL)).astype(jnp.int32)
    return jnp.minimum(buckets_BLL, MAX_DOUBLINGS * buckets_per_doubling - 1)


def norm_of_heads(attended_BLV: Float[Array, "B L V"], counted: int, dtype: Any) -> Float[Array, "B L V"]:
    """Returns the values of all heads normed together, without scale and bias; called within a module.

    Args:
      attended_BLV: of the heads that are there.
      counted: width that the norm is over: heads that were taken away count as zeros.
      dtype: of the computation.
    """
    width = attended_BLV.shape[2]
    padded = jnp.pad(attended_BLV, ((0, 0), (0, 0), (0, counted - width)))
    return nn.LayerNorm(use_scale=False, use_bias=False, dtype=dtype)(padded)[..., :width]


class PointwiseAttentionBlock(nn.Module):
    """A residual HSTU layer; a position sees itself and the positions before it.

    Formulas, with phi = SiLU and X normed first, as in the authors' code:
      (1) U, V, Q, K = split(phi(f1(X)))
      (2) A = phi(Q K^T + rab), rab one learned number for each distance i - j plus one for each time bucket
      (3) Y = f2(norm(A V / L) * U), to which the block adds its input.

    Source: Zhai et al., Actions Speak Louder than Words (ICML 2024), equations 1 to 3. L is the padded length, as in
    the authors' code; norms are over all heads at once, and the biases are shared by the heads, as there.
    """

    heads: int
    key_dim: int
    value_dim: int
    n_buckets: int  # rows of the time bias
    normed_heads: int = 0  # heads that the norm of AV counts, absent ones as zeros; 0 is heads
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    dots: Dots = FLOAT

    @nn.compact
    def __call__(
        self, x_BLD: Float[Array, "B L D"], buckets_BLL: Int[Array, "B L L"], *, train: bool = False
    ) -> Float[Array, "B L D"]:
        """Returns the block's output; `buckets_BLL[b, i, j]` is the time bucket of query i and item j."""
        B, L, D = x_BLD.shape
        H, K, V = self.heads, self.key_dim, self.value_dim
        dense = {"dtype": self.dtype, "dots": self.dots}
        normed_BLD = nn.LayerNorm(dtype=self.dtype, name="norm_input")(x_BLD)
        joint = jax.nn.silu(Dense(2 * H * (V + K), use_bias=False, name="uvqk", **dense)(normed_BLD))
        gate, value, query, key = jnp.split(joint, [H * V, 2 * H * V, H * (2 * V + K)], axis=2)
        query_BLHK, key_BLHK = query.reshape(B, L, H, K), key.reshape(B, L, H, K)

        distances_LL = jnp.maximum(jnp.arange(L)[:, None] - jnp.arange(L)[None], 0)
        bias_init = nn.initializers.normal(0.02)
        bias = {"embedding_dim": 1, "dtype": self.dtype, "table_init": bias_init}
        position_bias_LL = Embedding(L, name="distance_bias", **bias).rows(distances_LL)[..., 0]
        time_bias_BLL = Embedding(self.n_buckets, name="time_bias", **bias).rows(buckets_BLL)[..., 0]
        bias_BLL = position_bias_LL[None] + time_bias_BLL
        path = "/".join(self.path)
        products = self.dots.einsum("blhk,bmhk->bhlm", query_BLHK, key_BLHK, f"{path}/scores", key_for(self, self.dots))
        weights_BHLL = jax.nn.silu(products + bias_BLL[:, None])
        causal_LL = jnp.tril(jnp.ones((L, L), self.dtype)) / L
        weights_BHLL *= causal_LL[None, None]
        value_BLHV = value.reshape(B, L, H, V)
        attended = self.dots.einsum(
            "bhlm,bmhv->blhv", weights_BHLL, value_BLHV, f"{path}/values", key_for(self, self.dots)
        ).reshape(B, L, H * V)
        normed = norm_of_heads(attended, max(self.normed_heads, H) * V, self.dtype)
        gated = normed * gate
        gated = nn.Dropout(self.dropout_rate, deterministic=not train)(gated)
        return x_BLD + Dense(D, name="out", **dense)(gated)
