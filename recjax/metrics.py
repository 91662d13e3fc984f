"""Ranking and classification metrics as pure functions.

Ranking metrics take scores and labels of C candidates for B queries and return one value a query, so that
the caller chooses the mean, the weights or the bootstrap. Ties count against the relevant item: a model
that gives every item the same score gets the worst value, not a lucky one.

Shapes: B queries, C candidates, N examples.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from recjax.losses import sigmoid_cross_entropy


def rank_labels(
    scores: Float[Array, "B C"], labels: Int[Array, "B C"], where: Bool[Array, "B C"]
) -> Float[Array, "B C"]:
    """Returns the labels in the order of descending score; masked candidates come last with label 0.

    Example:
      >>> rank_labels(jnp.array([[0.1, 0.9]]), jnp.array([[1, 0]]), jnp.array([[True, True]])).tolist()
      [[0.0, 1.0]]
    """
    kept_labels = jnp.where(where, labels, 0).astype(jnp.float32)
    descending = jnp.where(where, -scores, jnp.inf)
    return jax.lax.sort((descending, kept_labels), num_keys=2)[1]  # the second key puts tied relevant items last


def top_labels(
    scores: Float[Array, "B C"], relevant: Bool[Array, "B C"], where: Bool[Array, "B C"], k: int
) -> tuple[Float[Array, "B K"], Float[Array, "B"]]:
    """Returns the first k columns of what `rank_labels` would, without sorting the rest, and how many are relevant.

    Relevant candidates are lowered by the smallest step that float32 has, so that they lose every tie.

    Example:
      >>> labels, n = top_labels(jnp.array([[.5, .5, .1]]), jnp.array([[1, 0, 0]], bool), jnp.ones((1, 3), bool), 2)
      >>> labels.tolist(), n.tolist()
      ([[0.0, 1.0]], [1.0])
    """
    kept = relevant & where
    lowered = jnp.where(kept, jnp.nextafter(scores.astype(jnp.float32), -jnp.inf), scores)
    _, first = jax.lax.top_k(jnp.where(where, lowered, -jnp.inf), min(k, scores.shape[1]))
    return jnp.take_along_axis(kept, first, 1).astype(jnp.float32), kept.sum(1).astype(jnp.float32)


def rank_single_label(
    scores: Float[Array, "B C"], target: Int[Array, "B"], where: Bool[Array, "B C"]
) -> Float[Array, "B C"]:
    """Returns what `rank_labels` would for queries with one relevant candidate each, by counting instead of sorting.

    The position of the target is 1 + the number of other kept candidates that score at least as much; a
    target that is no candidate has none.

    Example:
      >>> rank_single_label(jnp.array([[0.1, 0.9]]), jnp.array([0]), jnp.array([[True, True]])).tolist()
      [[0.0, 1.0]]
    """
    target_score_B1 = jnp.take_along_axis(scores, target[:, None], 1)
    not_below_B = jnp.sum(where & (scores >= target_score_B1), 1)  # the target itself included
    is_candidate_B1 = jnp.take_along_axis(where, target[:, None], 1)
    is_position_BC = jnp.arange(scores.shape[1])[None] == not_below_B[:, None] - 1
    return (is_position_BC & is_candidate_B1).astype(jnp.float32)


def hit_rate(ranked_labels: Float[Array, "B C"], k: int) -> Float[Array, "B"]:
    """Returns 1 where at least one relevant item is among the first k, else 0."""
    return ranked_labels[:, :k].max(1)


def precision(ranked_labels: Float[Array, "B C"], k: int) -> Float[Array, "B"]:
    """Returns the share of the first k that is relevant; k counts whole, even if there are fewer candidates."""
    return ranked_labels[:, :k].sum(1) / k


def recall(
    ranked_labels: Float[Array, "B C"], k: int, n_relevant: Float[Array, "B"] | None = None
) -> Float[Array, "B"]:
    """Returns the share of the relevant items that is among the first k; 0 for a query that has none.

    Formula: |relevant in top k| / |relevant|.

    Args:
      ranked_labels: from `rank_labels` or `top_labels`.
      k: cut-off.
      n_relevant: how many there are in all, where `ranked_labels` is cut short; None counts them.
    """
    n_relevant = ranked_labels.sum(1) if n_relevant is None else n_relevant
    return ranked_labels[:, :k].sum(1) / jnp.maximum(n_relevant, 1)


def ndcg(ranked_labels: Float[Array, "B C"], k: int, n_relevant: Float[Array, "B"] | None = None) -> Float[Array, "B"]:
    """Returns the normalised discounted cumulative gain of the first k with binary gains.

    Formula: sum_{i<=k} y_i / log2(i + 1), over the same sum for the best order.

    Args:
      ranked_labels: from `rank_labels` or `top_labels`.
      k: cut-off.
      n_relevant: how many there are in all, where `ranked_labels` is cut short; None counts them.
    Source: Jarvelin and Kekalainen, Cumulated gain-based evaluation (TOIS 2002).
    """
    k = min(k, ranked_labels.shape[1])
    discounts = 1 / jnp.log2(jnp.arange(2, k + 2))
    n_relevant = jnp.minimum(ranked_labels.sum(1) if n_relevant is None else n_relevant, k).astype(int)
    best = jnp.concatenate([jnp.zeros(1), jnp.cumsum(discounts)])[n_relevant]
    return (ranked_labels[:, :k] * discounts[None]).sum(1) / jnp.maximum(best, discounts[0])


def mrr(ranked_labels: Float[Array, "B C"]) -> Float[Array, "B"]:
    """Returns 1 / (position of the first relevant item), 0 for a query that has none."""
    first = jnp.argmax(ranked_labels > 0, axis=1)
    return jnp.where(ranked_labels.max(1) > 0, 1 / (first + 1), 0.0)


def auc(scores: Float[Array, "N"], labels: Num[Array, "N"], where: Bool[Array, "N"]) -> Float[Array, ""]:
    """Returns the probability that a positive example scores above a negative one, ties counting half.

    Formula: mean over positives p of (|n : s_n < s_p| + |n : s_n = s_p| / 2) / |n|; NaN without both classes.
    Source: Mann and Whitney (1947), by one sort and two binary searches.
    """
    negative = where & (labels == 0)
    positive = where & (labels == 1)
    sorted_negatives = jnp.sort(jnp.where(negative, scores, jnp.inf))
    n_negatives = negative.sum()
    below = jnp.searchsorted(sorted_negatives, scores, side="left")
    not_above = jnp.minimum(jnp.searchsorted(sorted_negatives, scores, side="right"), n_negatives)
    share = (below + not_above) / (2 * n_negatives)
    return jnp.sum(jnp.where(positive, share, 0)) / positive.sum()


def logloss(logits: Float[Array, "N"], labels: Float[Array, "N"], where: Bool[Array, "N"]) -> Float[Array, ""]:
    """Returns the mean negative log-likelihood of binary labels, in nats; see losses.sigmoid_cross_entropy."""
    return sigmoid_cross_entropy(logits, labels, where)
