"""A model and a held-out part in, metrics under a named protocol out.

Shapes: B batch, V catalogue, C candidates of a request, K cut-off, N queries or examples.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from recjax import beyond_accuracy, metrics
from recjax.data.candidates import SyntheticDLRMv3
from recjax.data.criteo import CriteoData
from recjax.data.labelled import LabelledData
from recjax.data.next_item import NextItemData
from recjax.data.protocols import ranking_metric_name
from recjax.data.rating import RatingData
from recjax.data.synthetic_dlrm import SyntheticDLRMv2
from recjax.data.top_n import TopNData
from recjax.models.contract import Batch

LIST_LENGTH = 10  # of the recommendations that beyond-accuracy measures look at
LOWER_IS_BETTER = ("rmse", "mae", "logloss")
Binary = LabelledData | CriteoData | SyntheticDLRMv2 | SyntheticDLRMv3
RankingData = NextItemData | TopNData
Data = RankingData | RatingData | Binary
EVAL_BATCH = {  # samples a step
    NextItemData: 256,
    TopNData: 256,
    RatingData: 1024,
    **dict.fromkeys((LabelledData, CriteoData, SyntheticDLRMv2), 4096),
    SyntheticDLRMv3: 8,
}

ScoreFunction = Callable[..., jax.Array]  # (variables, batch) -> scores [B, V], logits [B] or [B, C] or ratings [B]


@dataclasses.dataclass(frozen=True)
class Quality:
    """Metric values, meaningless without the protocol they were had under.

    Attributes:
      protocol: data set, filter, split, candidates, treatment of seen items and ties; then the part.
      metrics: name with its cut-off -> value.
      n: number of queries (ranking) or examples (binary, rating) that the values are means over.
      samples: what resampling needs, one entry a query or example, in a fixed order: each ranking metric's
        [n] values; "logits" [n] and "labels" [n]; or "errors" [n].
    """

    protocol: str
    metrics: Mapping[str, float]
    n: int
    samples: Mapping[str, NDArray] = dataclasses.field(repr=False, compare=False)


def is_better(metric: str, value: float, than: float) -> bool:
    """Returns whether `value` of the metric is the better one; nothing is better than an equal value."""
    return value < than if metric.partition("@")[0] in LOWER_IS_BETTER else value > than


def share_kept(metric: str, value: float, reference: float) -> float | None:
    """Returns which share of the reference's quality `value` is, above 1 if better; None where there is no ratio."""
    above, below = (reference, value) if metric.partition("@")[0] in LOWER_IS_BETTER else (value, reference)
    return above / below if below > 0 else None


@dataclasses.dataclass(frozen=True)
class EvaluationDevices:
    """Where an evaluation runs.

    Attributes:
      put: brings a batch to the devices.
      compile: of its program, whose outputs every process can read.
      shares: how many devices share a batch evenly.
    """

    put: Callable[[Batch], Batch]
    compile: Callable[..., Any]
    shares: int = 1


ONE_DEVICE_EVALUATION = EvaluationDevices(lambda batch: batch, jax.jit)


def make_evaluator(
    score: ScoreFunction, data: Data, part: str, devices: EvaluationDevices = ONE_DEVICE_EVALUATION
) -> Callable[..., Quality]:
    """Returns `evaluate(variables) -> Quality`; the program is compiled once, at the first call.

    Args:
      score: pure; scores of all items for next-item and top-n data, logits for labelled data and of all candidates
        for requests, ratings for rating data.
      data: the task's data.
      part: "valid" or "test".
      devices: that `variables` lie on.
    """
    if isinstance(data, NextItemData | TopNData):
        return _ranking_evaluator(score, data, part, devices)
    if isinstance(data, RatingData):
        return _rating_evaluator(score, data, part, devices)
    return _binary_evaluator(score, data, part, devices)


def _batches(data: Data, part: str, devices: EvaluationDevices) -> Iterator[tuple[Batch, Batch]]:
    """Yields each batch as it is on the host and as it is on the devices."""
    size = EVAL_BATCH[type(data)]
    for batch in data.eval_batches(part, size + -size % devices.shares):
        yield batch, devices.put(batch)


def _ranking_evaluator(
    score: ScoreFunction, data: RankingData, part: str, devices: EvaluationDevices
) -> Callable[..., Quality]:
    of_batch = _next_item_metrics if isinstance(data, NextItemData) else _top_n_metrics
    list_length = min(LIST_LENGTH, data.schema.n_items)

    @devices.compile
    def ranking(variables: object, batch: Batch) -> tuple[dict[str, jax.Array], jax.Array]:
        scores_BV = score(variables, batch)
        offered_BV = jnp.where(batch["candidates"], scores_BV, -jnp.inf)
        listed_BK = jax.lax.top_k(offered_BV, list_length)[1]
        offered_BK = jnp.take_along_axis(batch["candidates"], listed_BK, 1)  # not all are: there may be fewer than K
        return of_batch(scores_BV, batch, data.cutoffs), jnp.where(offered_BK, listed_BK, beyond_accuracy.NOTHING)

    def evaluate(variables: object) -> Quality:
        values: list[dict[str, NDArray]] = []
        lists, users = [], []
        for batch, on_devices in _batches(data, part, devices):
            real = batch["weight"] > 0
            of_queries, listed = ranking(variables, on_devices)
            values.append({name: np.asarray(column, np.float64)[real] for name, column in of_queries.items()})
            lists.append(np.asarray(listed)[real])
            users.append(batch["user"][real])
        samples = {
            ranking_metric_name(name, data.sampled_candidates): np.concatenate([v[name] for v in values])
            for name in values[0]
        }
        means = {name: float(column.mean()) for name, column in samples.items()}
        beyond = _beyond_accuracy(np.concatenate(lists), np.concatenate(users), samples, data)
        return Quality(f"{data.protocol}/{part}", means | beyond, sum(map(len, lists)), samples)

    return evaluate


def _binary_evaluator(
    score: ScoreFunction, data: Binary, part: str, devices: EvaluationDevices
) -> Callable[..., Quality]:
    scorer, binary = devices.compile(score), jax.jit(_binary_metrics)

    def evaluate(variables: object) -> Quality:
        batches = [
            (np.asarray(scorer(variables, on_devices)), batch["labels"], _weight_of_labels(batch))
            for batch, on_devices in _batches(data, part, devices)
        ]
        logits, labels, weight = (np.concatenate([b[i].ravel() for b in batches]) for i in range(3))
        values = binary(logits, labels, weight > 0)
        samples = {"logits": logits[weight > 0], "labels": labels[weight > 0]}
        means = {name: float(value) for name, value in values.items()}
        return Quality(f"{data.protocol}/{part}", means, int(weight.sum()), samples)

    return evaluate


def _weight_of_labels(batch: Batch) -> NDArray:
    """Returns the weight of every label of a batch: of a request's candidates, each has the request's."""
    labels, weight = batch["labels"], batch["weight"]
    return np.broadcast_to(weight.reshape(-1, *[1] * (labels.ndim - 1)), labels.shape)


def _rating_evaluator(
    score: ScoreFunction, data: RatingData, part: str, devices: EvaluationDevices
) -> Callable[..., Quality]:
    @devices.compile
    def errors(variables: object, batch: Batch) -> jax.Array:
        predicted = jnp.clip(score(variables, batch), data.schema.min_rating, data.schema.max_rating)
        return predicted - batch["rating"]

    def evaluate(variables: object) -> Quality:
        found = [
            np.asarray(errors(variables, on_devices), np.float64)[batch["weight"] > 0]
            for batch, on_devices in _batches(data, part, devices)
        ]
        error = np.concatenate(found)
        means = {"rmse": float(np.sqrt(np.mean(error**2))), "mae": float(np.mean(np.abs(error)))}
        return Quality(f"{data.protocol}/{part}", means, len(error), {"errors": error})

    return evaluate


def sanity_rows(data: Data, part: str, seed: int = 0) -> dict[str, Quality]:
    """Returns the quality of models that learn next to nothing: what every real one must clear.

    "random" draws every score from a seeded normal, or every rating from the training ratings. "popularity" scores
    an item by its training interactions (ranking). "constant" gives every example the training share of positives
    (labels), the logloss that knowing nothing buys. "biases" is the training mean plus the user's and the
    item's mean deviation from it, each shrunk (rating).
    """
    if isinstance(data, RatingData):
        return _rating_sanity_rows(data, part, seed)

    def random(key: jax.Array, batch: Batch) -> jax.Array:
        if isinstance(data, Binary):
            return jax.random.normal(key, batch["labels"].shape)
        # By its first user, whom no other batch has: with the same scores in each, few items are listed.
        return jax.random.normal(jax.random.fold_in(key, batch["user"][0]), batch["candidates"].shape)

    rows = {"random": make_evaluator(random, data, part)(jax.random.key(seed))}
    if isinstance(data, NextItemData | TopNData):
        counts = np.bincount(data.split.train.item, minlength=data.schema.n_items).astype(np.float32)

        def popularity(counts_V: jax.Array, batch: Batch) -> jax.Array:
            return jnp.broadcast_to(counts_V, batch["candidates"].shape)

        rows["popularity"] = make_evaluator(popularity, data, part)(counts)
    else:
        share = data.train_positive_share

        def constant(logit: jax.Array, batch: Batch) -> jax.Array:
            return jnp.broadcast_to(logit, batch["labels"].shape)

        rows["constant"] = make_evaluator(constant, data, part)(np.float32(np.log(share / (1 - share))))
    return rows


def _rating_sanity_rows(data: RatingData, part: str, seed: int) -> dict[str, Quality]:
    def random(variables: tuple[jax.Array, jax.Array], batch: Batch) -> jax.Array:
        key, ratings_E = variables
        return jax.random.choice(key, ratings_E, batch["user"].shape)

    def biases(variables: tuple[jax.Array, jax.Array], batch: Batch) -> jax.Array:
        user_U, item_V = variables
        return data.schema.mean_rating + user_U[batch["user"]] + item_V[batch["item"]]

    return {
        "random": make_evaluator(random, data, part)((jax.random.key(seed), data.split.train.rating)),
        "biases": make_evaluator(biases, data, part)(_rating_biases(data)),
    }


def _rating_biases(data: RatingData, damping: float = 5.0) -> tuple[NDArray, NDArray]:
    """Returns the biases of users [U] and items [V], float32; damping counts as so many ratings of no deviation.

    Source: Ekstrand, Riedl and Konstan, Collaborative Filtering Recommender Systems (2011), section 2.1.
    """
    train, schema = data.split.train, data.schema

    def mean_deviation(code: NDArray, deviation: NDArray, n: int) -> NDArray:
        return np.bincount(code, deviation, minlength=n) / (np.bincount(code, minlength=n) + damping)

    item_bias = mean_deviation(train.item, train.rating - schema.mean_rating, schema.n_items)
    left = train.rating - schema.mean_rating - item_bias[train.item]
    user_bias = mean_deviation(train.user, left, schema.n_users)
    return user_bias.astype(np.float32), item_bias.astype(np.float32)


def _next_item_metrics(scores_BV: jax.Array, batch: Batch, cutoffs: tuple[int, ...]) -> dict[str, jax.Array]:
    ranked_BV = metrics.rank_single_label(scores_BV, batch["target"], batch["candidates"])
    values = {"mrr": metrics.mrr(ranked_BV)}
    for k in cutoffs:
        values[f"hr@{k}"] = metrics.hit_rate(ranked_BV, k)
        values[f"recall@{k}"] = metrics.recall(ranked_BV, k)
        values[f"ndcg@{k}"] = metrics.ndcg(ranked_BV, k)
    return values


def _top_n_metrics(scores_BV: jax.Array, batch: Batch, cutoffs: tuple[int, ...]) -> dict[str, jax.Array]:
    ranked_BK, n_relevant_B = metrics.top_labels(scores_BV, batch["relevant"], batch["candidates"], max(cutoffs))
    values = {}
    for k in cutoffs:
        values[f"hr@{k}"] = metrics.hit_rate(ranked_BK, k)
        values[f"precision@{k}"] = metrics.precision(ranked_BK, k)
        values[f"recall@{k}"] = metrics.recall(ranked_BK, k, n_relevant_B)
        values[f"ndcg@{k}"] = metrics.ndcg(ranked_BK, k, n_relevant_B)
        values[f"mrr@{k}"] = metrics.mrr(ranked_BK[:, :k])
    return values


def _binary_metrics(logits: jax.Array, labels: jax.Array, where: jax.Array) -> dict[str, jax.Array]:
    return {"auc": metrics.auc(logits, labels, where), "logloss": metrics.logloss(logits, labels, where)}


def _beyond_accuracy(
    lists: NDArray, users: NDArray, samples: Mapping[str, NDArray], data: RankingData
) -> dict[str, float]:
    """Returns the measures of the recommended lists, and every metric's gap between groups of users."""
    train, k = data.split.train, lists.shape[1]
    counts_V = np.bincount(train.item, minlength=train.n_items).astype(np.float64)
    of_lists = {
        f"coverage@{k}": beyond_accuracy.catalogue_coverage(lists, train.n_items),
        f"gini@{k}": beyond_accuracy.gini(lists, train.n_items),
        f"average_popularity@{k}": beyond_accuracy.average_popularity(lists, counts_V),
        f"exposure_gap@{k}": beyond_accuracy.exposure_gap(lists, counts_V),
        f"diversity@{k}": beyond_accuracy.intra_list_diversity(lists, train.user, train.item, train.n_items),
    }
    values = {
        ranking_metric_name(name, data.sampled_candidates): value
        for name, value in of_lists.items()
        if np.isfinite(value)  # no list of two items has no diversity
    }
    for feature, group in beyond_accuracy.user_groups(train.user_features).items():
        for name, column in samples.items():
            gap = beyond_accuracy.group_gap(column, group[users])
            if gap is not None:
                values[f"{name}/gap({feature})"] = gap
    return values
