"""Losses as pure functions; each is the mean over the entries that `where` keeps.

Shapes: N positions, D embedding dim, V vocabulary, B batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def masked_mean(values: Float[Array, "*shape"], where: Bool[Array, "*shape"]) -> Float[Array, ""]:
    """Returns the mean of the kept values, 0 when none is kept."""
    return jnp.sum(values * where) / jnp.maximum(jnp.sum(where), 1)


def sigmoid_cross_entropy(
    logits: Float[Array, "B"], labels: Float[Array, "B"], where: Bool[Array, "B"]
) -> Float[Array, ""]:
    """Returns the mean of -y log p - (1 - y) log(1 - p) with p = sigmoid(logit), in a form that cannot overflow.

    Formula: max(x, 0) - x y + log(1 + exp(-|x|)).

    Example:
      >>> sigmoid_cross_entropy(jnp.array([0.0]), jnp.array([1.0]), jnp.array([True])).round(4).item()
      0.6931...
    """
    loss = jnp.maximum(logits, 0) - logits * labels + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    return masked_mean(loss, where)


def chunked_softmax_cross_entropy(
    hidden_ND: Float[Array, "N D"],
    table_VD: Float[Array, "V D"],
    labels_N: Int[Array, "N"],
    where_N: Bool[Array, "N"],
    chunk_size: int,
) -> Float[Array, ""]:
    """Returns the full-softmax cross-entropy of hidden . table^T, without ever holding all N x V logits.

    Formula: mean over kept n of logsumexp_v(h_n . e_v) - h_n . e_{label_n}.

    Chunks of positions run one after the other and recompute their logits in the backward pass: on a CPU
    the naive form is bound by writing N x V logits to memory and back (docs/log.md has the measurement).

    Args:
      hidden_ND: hidden states, any float type; logits are float32.
      table_VD: output embeddings.
      labels_N: in [0, V); any value where not kept.
      where_N: positions that count.
      chunk_size: positions a chunk; N is padded up to a multiple of it.
    """
    N, D = hidden_ND.shape
    padding = -N % chunk_size
    hidden_ND = jnp.pad(hidden_ND, ((0, padding), (0, 0)))
    labels_N, where_N = jnp.pad(labels_N, (0, padding)), jnp.pad(where_N, (0, padding))

    @jax.checkpoint
    def chunk_loss(chunk: tuple[Array, Array, Array]) -> Array:
        hidden_CD, labels_C, where_C = chunk
        logits_CV = jnp.dot(hidden_CD, table_VD.T, preferred_element_type=jnp.float32)
        label_logit_C = jnp.take_along_axis(logits_CV, jnp.where(where_C, labels_C, 0)[:, None], 1)[:, 0]
        return jnp.sum((jax.nn.logsumexp(logits_CV, 1) - label_logit_C) * where_C)

    chunks = (hidden_ND.reshape(-1, chunk_size, D), labels_N.reshape(-1, chunk_size), where_N.reshape(-1, chunk_size))
    return jax.lax.map(chunk_loss, chunks).sum() / jnp.maximum(where_N.sum(), 1)
