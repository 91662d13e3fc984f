import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from recjax.data.labelled import LabelledData
from recjax.data.next_item import NextItemData
from recjax.evaluation import EVAL_BATCH, make_evaluator, sanity_rows


@pytest.fixture(scope="module")
def tied_scores(next_item: NextItemData) -> np.ndarray:
    """Returns a score of every item after every item, coarse enough for many ties."""
    V = next_item.schema.n_items
    return np.random.default_rng(0).integers(0, 6, (V, V)).astype(np.float32)


def score_after_last(table_VV: jax.Array, batch: Any) -> jax.Array:
    last = jnp.take_along_axis(batch["history"], jnp.maximum(batch["lengths"] - 1, 0)[:, None], 1)[:, 0]
    return table_VV[last]


def plain_ranking(data: NextItemData, part: str, table: np.ndarray) -> tuple[dict[str, float], int]:
    """Returns mean metrics and the number of users, one user at a time from the split itself."""
    rows: dict[str, list[float]] = {"mrr": []}
    for user in range(data.split.train.n_users):
        train, valid, test = (getattr(data.split, p) for p in ("train", "valid", "test"))
        known = train.item[train.user == user].tolist()
        held_out = valid.item[valid.user == user].tolist()
        if part == "test":
            known, held_out = known + held_out, test.item[test.user == user].tolist()
        if not held_out or not known:
            continue
        scores = table[known[-1]]
        others = [item for item in range(data.schema.n_items) if item not in known and item != held_out[0]]
        position = 1 + sum(scores[item] >= scores[held_out[0]] for item in others)
        rows["mrr"].append(1 / position)
        for k in data.cutoffs:
            hit = float(position <= k)
            rows.setdefault(f"hr@{k}", []).append(hit)
            rows.setdefault(f"recall@{k}", []).append(hit)
            rows.setdefault(f"ndcg@{k}", []).append(hit / np.log2(position + 1))
    return {name: float(np.mean(values)) for name, values in rows.items()}, len(rows["mrr"])


@pytest.mark.parametrize("part", ["valid", "test"])
@pytest.mark.parametrize("batch_size", [7, 256])  # 30 users: a last batch of 2 and 5 padding rows; one batch
def test_ranking_evaluator_agrees_with_a_plain_loop(
    next_item: NextItemData, tied_scores: np.ndarray, part: str, batch_size: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(EVAL_BATCH, NextItemData, batch_size)
    quality = make_evaluator(score_after_last, next_item, part)(jnp.asarray(tied_scores))
    expected, n = plain_ranking(next_item, part, tied_scores)
    assert quality.n == n == 30
    assert {name: quality.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert {name: values.mean() for name, values in quality.samples.items()} == pytest.approx(expected, rel=1e-6)
    assert {len(values) for values in quality.samples.values()} == {30}


@pytest.mark.parametrize("part", ["valid", "test"])
@pytest.mark.parametrize("batch_size", [12, 4096])
def test_binary_evaluator_agrees_with_scikit_learn(
    labelled: LabelledData, part: str, batch_size: int, monkeypatch: pytest.MonkeyPatch
):
    def score(weights: jax.Array, batch: Any) -> jax.Array:
        return jnp.round(4 * (batch["dense"] @ weights)) / 4  # coarse: ties

    monkeypatch.setitem(EVAL_BATCH, LabelledData, batch_size)
    weights = np.random.default_rng(0).standard_normal(labelled.schema.n_dense).astype(np.float32)
    quality = make_evaluator(score, labelled, part)(jnp.asarray(weights))
    columns = labelled.parts[part]
    assert len(columns["labels"]) % 12 != 0  # so that the small batches end with padding
    logits = np.round(4 * (columns["dense"] @ weights)) / 4
    assert quality.n == len(logits)
    assert quality.metrics["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(columns["labels"], logits), rel=1e-6)
    expected = sklearn.metrics.log_loss(columns["labels"], 1 / (1 + np.exp(-logits.astype(np.float64))))
    assert quality.metrics["logloss"] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(quality.samples["labels"], columns["labels"])
    np.testing.assert_array_equal(quality.samples["logits"], logits)


def test_quality_names_its_protocol_and_part(next_item: NextItemData, labelled: LabelledData):
    def zeros(variables: None, batch: Any) -> jax.Array:
        return jnp.zeros(batch["candidates"].shape if "candidates" in batch else batch["labels"].shape)

    for data in (next_item, labelled):
        for part in ("valid", "test"):
            assert make_evaluator(zeros, data, part)(None).protocol == f"{data.protocol}/{part}"


def test_every_metric_of_sampled_candidates_says_so(next_item: NextItemData):
    data = dataclasses.replace(next_item, sampled_candidates=5)
    names = make_evaluator(lambda table, batch: score_after_last(table, batch), data, "test")(
        jnp.zeros((data.schema.n_items,) * 2)
    ).metrics
    assert {"ndcg@10/sampled(5)", "coverage@10/sampled(5)"} <= set(names)
    assert all("/sampled(5)" in name for name in names)


def test_scorer_is_compiled_once_over_batches_and_calls(
    next_item: NextItemData, labelled: LabelledData, monkeypatch: pytest.MonkeyPatch
):
    for kind, data in ((NextItemData, next_item), (LabelledData, labelled)):
        traced = []

        def score(offset: jax.Array, batch: Any, traced: list = traced) -> jax.Array:
            traced.append(1)
            shape = batch["candidates"].shape if "candidates" in batch else batch["labels"].shape
            return jnp.broadcast_to(offset, shape)

        monkeypatch.setitem(EVAL_BATCH, kind, 7)
        evaluate = make_evaluator(score, data, "valid")
        first, second = evaluate(jnp.float32(0)), evaluate(jnp.float32(1))
        assert len(traced) == 1
        assert first.n == second.n


def test_popularity_counts_training_interactions(next_item: NextItemData):
    counts = np.bincount(next_item.split.train.item, minlength=next_item.schema.n_items)
    everywhere = np.broadcast_to(counts, (len(counts), len(counts)))  # the same after every item
    expected, _ = plain_ranking(next_item, "test", everywhere)
    rows = sanity_rows(next_item, "test")
    assert set(rows) == {"random", "popularity"}
    assert {name: rows["popularity"].metrics[name] for name in expected} == pytest.approx(expected, rel=1e-6)


def test_constant_is_the_training_share_of_positives(labelled: LabelledData):
    share = labelled.parts["train"]["labels"].mean()
    labels = labelled.parts["test"]["labels"]
    rows = sanity_rows(labelled, "test")
    assert set(rows) == {"random", "constant"}
    row = rows["constant"]
    assert row.metrics["auc"] == 0.5
    expected = -np.mean(labels * np.log(share) + (1 - labels) * np.log(1 - share))
    assert row.metrics["logloss"] == pytest.approx(expected, rel=1e-5)


def test_random_depends_on_its_seed_alone_and_knows_nothing(next_item: NextItemData):
    first = sanity_rows(next_item, "test", seed=1)["random"]
    assert sanity_rows(next_item, "test", seed=1)["random"] == first
    assert sanity_rows(next_item, "test", seed=2)["random"] != first
    chance = np.mean(5 / next(next_item.eval_batches("test", 30))["candidates"].sum(1))
    deviation = np.sqrt(chance * (1 - chance) / 30)
    assert first.metrics["hr@5"] == pytest.approx(chance, abs=3 * deviation)
