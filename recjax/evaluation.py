"""A model and a held-out part in, metrics under a named protocol out.

Shapes: B batch, V catalogue, N examples.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from recjax import metrics
from recjax.data.labelled import LabelledData
from recjax.data.next_item import NextItemData
from recjax.models.contract import Batch

CUTOFFS = (5, 10, 20)
EVAL_BATCH = {NextItemData: 256, LabelledData: 4096}  # samples a step

Data = NextItemData | LabelledData
ScoreFunction = Callable[..., jax.Array]  # (variables, batch) -> scores [B, V] or logits [B]


@dataclasses.dataclass(frozen=True)
class Quality:
    """Metric values, meaningless without the protocol they were had under.

    Attributes:
      protocol: data set, filter, split, candidates, treatment of seen items and ties; then the part.
      metrics: name with its cut-off -> value.
      n: number of queries (ranking) or examples (binary) that the values are means over.
      samples: what resampling needs, one entry a query or example, in a fixed order: each ranking metric's
        [n] values; or "logits" [n] and "labels" [n].
    """

    protocol: str
    metrics: Mapping[str, float]
    n: int
    samples: Mapping[str, NDArray] = dataclasses.field(repr=False, compare=False)


def make_evaluator(score: ScoreFunction, data: Data, part: str) -> Callable[..., Quality]:
    """Returns `evaluate(variables) -> Quality`; the program is compiled once, at the first call.

    Args:
      score: pure; scores of all items for next-item data, logits for labelled data.
      data: the task's data.
      part: "valid" or "test".
    """
    batch_size = EVAL_BATCH[type(data)]
    protocol = f"{data.protocol}/{part}"
    if isinstance(data, NextItemData):
        ranking = jax.jit(lambda variables, batch: _ranking_metrics(score(variables, batch), batch))

        def evaluate(variables: object) -> Quality:
            batches = [ranking(variables, batch) for batch in data.eval_batches(part, batch_size)]
            columns = {name: np.concatenate([np.asarray(b[name], np.float64) for b in batches]) for name in batches[0]}
            weight = columns.pop("weight")
            samples = {name: values[weight > 0] for name, values in columns.items()}
            means = {name: float(values.mean()) for name, values in samples.items()}
            return Quality(protocol, means, int(weight.sum()), samples)

        return evaluate

    scorer, binary = jax.jit(score), jax.jit(_binary_metrics)

    def evaluate_binary(variables: object) -> Quality:
        batches = [(scorer(variables, b), b["labels"], b["weight"]) for b in data.eval_batches(part, batch_size)]
        logits, labels, weight = (np.concatenate([np.asarray(b[i]) for b in batches]) for i in range(3))
        values = binary(logits, labels, weight > 0)
        samples = {"logits": logits[weight > 0], "labels": labels[weight > 0]}
        return Quality(protocol, {name: float(value) for name, value in values.items()}, int(weight.sum()), samples)

    return evaluate_binary


def sanity_rows(data: Data, part: str, seed: int = 0) -> dict[str, Quality]:
    """Returns the quality of models that learn nothing about the user: what every real one must clear.

    "popularity" scores an item by its training interactions (next-item data only); "random" draws every
    score from a seeded normal; "constant" gives every example the training share of positives (labelled
    data only), the logloss that knowing nothing buys.
    """

    def random(key: jax.Array, batch: Batch) -> jax.Array:
        shape = batch["candidates"].shape if isinstance(data, NextItemData) else batch["labels"].shape
        return jax.random.normal(key, shape)

    rows = {"random": make_evaluator(random, data, part)(jax.random.key(seed))}
    if isinstance(data, NextItemData):
        counts = np.bincount(data.split.train.item, minlength=data.schema.n_items).astype(np.float32)

        def popularity(counts_V: jax.Array, batch: Batch) -> jax.Array:
            return jnp.broadcast_to(counts_V, batch["candidates"].shape)

        rows["popularity"] = make_evaluator(popularity, data, part)(counts)
    else:
        share = data.parts["train"]["labels"].mean()

        def constant(logit: jax.Array, batch: Batch) -> jax.Array:
            return jnp.broadcast_to(logit, batch["labels"].shape)

        rows["constant"] = make_evaluator(constant, data, part)(np.log(share / (1 - share)).astype(np.float32))
    return rows


def _ranking_metrics(scores_BV: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    ranked_BV = metrics.rank_single_label(scores_BV, batch["target"], batch["candidates"])
    values = {"mrr": metrics.mrr(ranked_BV)}
    for k in CUTOFFS:
        values[f"hr@{k}"] = metrics.hit_rate(ranked_BV, k)
        values[f"recall@{k}"] = metrics.recall(ranked_BV, k)
        values[f"ndcg@{k}"] = metrics.ndcg(ranked_BV, k)
    return values | {"weight": batch["weight"]}


def _binary_metrics(logits: jax.Array, labels: jax.Array, where: jax.Array) -> dict[str, jax.Array]:
    return {"auc": metrics.auc(logits, labels, where), "logloss": metrics.logloss(logits, labels, where)}
