"""Losses as pure functions; each is the mean over the entries that `where` keeps.

Shapes: N positions, D embedding dim, V vocabulary or catalogue, B batch, L sequence length, K items.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from recjax.replicas import batch_sum


def masked_mean(values: Float[Array, "*shape"], where: Bool[Array, "*shape"]) -> Float[Array, ""]:
    """Returns the mean of the kept values, of all replicas' (recjax.replicas) in one; 0 if none is kept."""
    return batch_sum(jnp.sum(values * where)) / jnp.maximum(batch_sum(jnp.sum(where)), 1)


def sigmoid_cross_entropy(
    logits: Float[Array, "B"], labels: Float[Array, "B"], where: Bool[Array, "B"]
) -> Float[Array, ""]:
    """Returns the mean of -y log p - (1 - y) log(1 - p) with p = sigmoid(logit), in a form that cannot overflow.

    Formula: log(exp(0) + exp(x)) - x y, whose gradient is p - y everywhere.

    Example:
      >>> sigmoid_cross_entropy(jnp.array([0.0]), jnp.array([1.0]), jnp.array([True])).round(4).item()
      0.6931...
    """
    return masked_mean(jnp.logaddexp(logits, 0.0) - logits * labels, where)


def exposure_gap(
    logits_BV: Float[Array, "B V"],
    where_BV: Bool[Array, "B V"],
    item_counts_V: Float[Array, "V"],
    temperature: float,
) -> Float[Array, ""]:
    """Returns a smooth form of beyond_accuracy.exposure_gap, to be narrowed in training.

    Formula: mean over users of sum_{v in head} softmax(logits / temperature)_v, minus the head's share of the training
    interactions; the head is the fewest most popular items with half of them.

    Args:
      logits_BV: scores of all items.
      where_BV: items that may be recommended; a row without any counts as no user.
      item_counts_V: training interactions of each item.
      temperature: below 1, so that the softmax looks at the first items of a list, as users do.
    """
    sorted_V = -jnp.sort(-item_counts_V)
    before_V = jnp.cumsum(sorted_V) - sorted_V
    threshold = jnp.min(jnp.where(before_V < sorted_V.sum() / 2, sorted_V, jnp.inf))
    is_head_V = item_counts_V >= threshold  # items that tie with the last of the head are in it here
    counts_B = where_BV.any(1)
    exposure_BV = jax.nn.softmax(logits_BV / temperature, where=where_BV | ~counts_B[:, None])  # no row without any
    head_B = jnp.sum(exposure_BV * is_head_V[None], 1)
    share = jnp.sum(item_counts_V * is_head_V) / jnp.sum(item_counts_V)
    return masked_mean(head_B, counts_B) - share


def multinomial_cross_entropy(
    logits: Float[Array, "B V"], counts: Float[Array, "B V"], where: Bool[Array, "B"]
) -> Float[Array, ""]:
    """Returns the mean over rows of the negative log-likelihood of a multinomial, without its constant.

    Formula: -sum_v counts_v log softmax(logits)_v.

    Example:
      >>> multinomial_cross_entropy(jnp.zeros((1, 4)), jnp.array([[1.0, 0, 0, 2.0]]), jnp.array([True])).round(4).item()
      4.1589...

    Source: Liang et al., Variational Autoencoders for Collaborative Filtering (WWW 2018), equation 2.
    """
    return masked_mean(-jnp.sum(counts * jax.nn.log_softmax(logits, axis=1), axis=1), where)


def bpr_loss(scores_BK: Float[Array, "B K"]) -> Float[Array, "B"]:
    """Returns each row's mean over the negatives n of -log sigmoid(positive - n); the positive item's score is first.

    Source: Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback (UAI 2009).
    """
    return -jax.nn.log_sigmoid(scores_BK[:, :1] - scores_BK[:, 1:]).mean(1)


def next_item_cross_entropy(
    hidden_BLD: Float[Array, "B L D"],
    table_VD: Float[Array, "V D"],
    labels_BL: Int[Array, "B L"],
    lengths_B: Int[Array, "B"],
    chunk_size: int,
) -> Float[Array, ""]:
    """Returns the full-softmax cross-entropy of the item after each of the first `lengths_B` positions.

    Args:
      hidden_BLD: hidden state after each position.
      table_VD: output embeddings.
      labels_BL: the item after each position; any value behind the length.
      lengths_B: positions of each sequence that count.
      chunk_size: positions whose logits are held at once.
    """
    where_BL = jnp.arange(hidden_BLD.shape[1])[None] < lengths_B[:, None]
    hidden_ND = hidden_BLD.reshape(-1, hidden_BLD.shape[-1])
    return chunked_softmax_cross_entropy(hidden_ND, table_VD, labels_BL.reshape(-1), where_BL.reshape(-1), chunk_size)


def chunked_softmax_cross_entropy(
    hidden_ND: Float[Array, "N D"],
    table_VD: Float[Array, "V D"],
    labels_N: Int[Array, "N"],
    where_N: Bool[Array, "N"],
    chunk_size: int,
) -> Float[Array, ""]:
    """Returns the full-softmax cross-entropy of hidden . table^T, without ever holding all N x V logits.

    Formula: mean over kept n of logsumexp_v(h_n . e_v) - h_n . e_{label_n}.

    Under differentiation a chunk's gradients are computed together with its loss, while its softmax is in
    cache: 3 matrix products and one exponential a logit, where rematerialisation would take 4 and two.

    Args:
      hidden_ND: hidden states, any float type; logits are float32.
      table_VD: output embeddings.
      labels_N: in [0, V); any value where not kept.
      where_N: positions that count.
      chunk_size: positions a chunk; N is padded up to a multiple of it.

    Source: Hsu et al., Liger Kernel (arXiv 2410.10989), section 3.2, for the fusion of loss and gradient.
    """
    padding = -hidden_ND.shape[0] % chunk_size
    hidden_ND = jnp.pad(hidden_ND, ((0, padding), (0, 0)))
    labels_N = jnp.pad(jnp.where(where_N, labels_N, 0), (0, padding))
    weight_N = jnp.pad(where_N.astype(jnp.float32), (0, padding)) / jnp.maximum(batch_sum(where_N.sum()), 1)
    label_logit_N = jnp.sum(hidden_ND.astype(jnp.float32) * table_VD[labels_N].astype(jnp.float32), 1)
    return batch_sum(_weighted_logsumexp(hidden_ND, table_VD, weight_N, chunk_size) - jnp.sum(label_logit_N * weight_N))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _weighted_logsumexp(hidden_ND: Array, table_VD: Array, weight_N: Array, chunk_size: int) -> Array:
    """Returns sum_n w_n logsumexp_v(h_n . e_v); not differentiable in the weights."""

    def chunk_sum(chunk: tuple[Array, Array]) -> Array:
        hidden_CD, weight_C = chunk
        logits_CV = jnp.dot(hidden_CD, table_VD.T, preferred_element_type=jnp.float32)
        return jnp.sum(jax.nn.logsumexp(logits_CV, axis=1) * weight_C)

    return jax.lax.map(chunk_sum, _chunked(chunk_size, hidden_ND, weight_N)).sum()


def _weighted_logsumexp_forward(
    hidden_ND: Array, table_VD: Array, weight_N: Array, chunk_size: int
) -> tuple[Array, tuple[Array, Array, Array]]:
    def add_chunk(table_grad_VD: Array, chunk: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        hidden_CD, weight_C = chunk
        logits_CV = jnp.dot(hidden_CD, table_VD.T, preferred_element_type=jnp.float32)
        largest_C1 = logits_CV.max(1, keepdims=True)
        exp_CV = jnp.exp(logits_CV - largest_C1)
        sum_C = exp_CV.sum(1)
        loss = jnp.sum((jnp.log(sum_C) + largest_C1[:, 0]) * weight_C)
        logit_grad_CV = (exp_CV * (weight_C / sum_C)[:, None]).astype(table_VD.dtype)
        hidden_grad_CD = jnp.dot(logit_grad_CV, table_VD, preferred_element_type=jnp.float32)
        table_grad_VD += jnp.dot(logit_grad_CV.T, hidden_CD, preferred_element_type=jnp.float32)
        return table_grad_VD, (loss, hidden_grad_CD)

    chunks = _chunked(chunk_size, hidden_ND, weight_N)
    table_grad_VD, (losses, hidden_grads) = jax.lax.scan(add_chunk, jnp.zeros(table_VD.shape), chunks)
    hidden_grad_ND = hidden_grads.reshape(hidden_ND.shape).astype(hidden_ND.dtype)
    return losses.sum(), (hidden_grad_ND, table_grad_VD.astype(table_VD.dtype), weight_N)


def _weighted_logsumexp_backward(
    chunk_size: int, gradients: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, Array, Array]:
    del chunk_size
    hidden_grad_ND, table_grad_VD, weight_N = gradients
    scale = cotangent.astype(hidden_grad_ND.dtype)
    return hidden_grad_ND * scale, table_grad_VD * scale, jnp.zeros_like(weight_N)


_weighted_logsumexp.defvjp(_weighted_logsumexp_forward, _weighted_logsumexp_backward)


def _chunked(chunk_size: int, hidden_ND: Array, weight_N: Array) -> tuple[Array, Array]:
    return hidden_ND.reshape(-1, chunk_size, hidden_ND.shape[1]), weight_N.reshape(-1, chunk_size)
