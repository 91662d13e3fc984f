"""Self-attention, causal or under a mask, and the pre-norm transformer block around it.

Shapes: B batch, L history length, H heads, D model dim, K head dim.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from recjax.nn.dense import Dense, key_for
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.mlp import MLP


class SelfAttention(nn.Module):
    """Multi-head attention in which a position sees what the mask allows: without one, itself and all before it.

    Histories start at position 0 and are padded at the end, so causality alone keeps padding out of
    every real position, without a padding mask. Attention that looks ahead needs one.
    """

    heads: int
    head_dim: int = 0  # K; 0 is D / heads
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    dots: Dots = FLOAT

    @nn.compact
    def __call__(
        self, x_BLD: Float[Array, "B L D"], mask_BLL: Bool[Array, "#B #L L"] | None = None, *, train: bool = False
    ) -> Float[Array, "B L D"]:
        """Returns the attended values, projected back to D; `mask_BLL[b, i, j]` is whether i sees j, None is causal."""
        B, L, D = x_BLD.shape
        H, K = self.heads, self.head_dim or D // self.heads

        def project(x: Array, features: int, name: str) -> Array:
            return Dense(features, dtype=self.dtype, dots=self.dots, name=name)(x)

        query, key, value = (project(x_BLD, H * K, name).reshape(B, L, H, K) for name in ("query", "key", "value"))
        path = "/".join(self.path)
        logits_BHLL = self.dots.einsum("blhk,bmhk->bhlm", query, key, f"{path}/scores", key_for(self, self.dots))
        logits_BHLL *= K**-0.5
        if mask_BLL is None:
            mask_BLL = jnp.tril(jnp.ones((L, L), bool))[None]
        logits_BHLL = jnp.where(mask_BLL[:, None], logits_BHLL, jnp.finfo(self.dtype).min)
        # The softmax runs in float32 whatever the compute type: bf16 sums of L terms lose the small ones.
        weights_BHLL = jax.nn.softmax(logits_BHLL.astype(jnp.float32)).astype(self.dtype)
        weights_BHLL = nn.Dropout(self.dropout_rate, deterministic=not train)(weights_BHLL)
        attended = self.dots.einsum("bhlm,bmhk->blhk", weights_BHLL, value, f"{path}/values", key_for(self, self.dots))
        return project(attended.reshape(B, L, H * K), D, "out")


class TransformerBlock(nn.Module):
    """Pre-norm residual attention, then a pre-norm residual two-layer MLP of width `mlp_dim`."""

    heads: int
    mlp_dim: int
    head_dim: int = 0  # 0 is D / heads
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    dots: Dots = FLOAT

    @nn.compact
    def __call__(
        self, x_BLD: Float[Array, "B L D"], mask_BLL: Bool[Array, "#B #L L"] | None = None, *, train: bool = False
    ) -> Float[Array, "B L D"]:
        """Returns the block's output; the mask as in SelfAttention."""
        common = {"dtype": self.dtype, "dots": self.dots, "dropout_rate": self.dropout_rate}
        drop = nn.Dropout(self.dropout_rate, deterministic=not train)
        attended = SelfAttention(heads=self.heads, head_dim=self.head_dim, name="attention", **common)
        x_BLD += drop(attended(nn.LayerNorm(dtype=self.dtype, name="norm_attention")(x_BLD), mask_BLL, train=train))
        mlp = MLP(widths=(self.mlp_dim, x_BLD.shape[-1]), linear_end=True, name="mlp", **common)
        x_BLD += drop(mlp(nn.LayerNorm(dtype=self.dtype, name="norm_mlp")(x_BLD), train=train))
        return x_BLD
