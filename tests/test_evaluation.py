import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from recjax import beyond_accuracy
from recjax.config import Dataset, Samples
from recjax.data.candidates import SyntheticDLRMv3
from recjax.data.interactions import Interactions
from recjax.data.labelled import LabelledData
from recjax.data.next_item import NextItemData, next_item_data
from recjax.data.rating import RatingData, rating_data
from recjax.data.synthetic_dlrm import DLRMv3Options
from recjax.data.top_n import TopNData, top_n_data
from recjax.evaluation import EVAL_BATCH, LIST_LENGTH, is_better, make_evaluator, sanity_rows, share_kept


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


def test_every_candidate_of_a_real_request_is_an_example():
    options = DLRMv3Options(n_items=12_800, n_candidates=30, items_a_period=0.2, shortest_period=1, max_history=20)
    data = SyntheticDLRMv3(options=options, n_valid=5, n_test=11, training_candidates=4)  # test: batches of 8 and 3

    def score(unused: object, batch: Any) -> jax.Array:
        return (batch["candidates"] * 37 % 101).astype(np.float32) + batch["lengths"][
            :, None
        ]  # whole numbers, with ties

    batches = list(data.eval_batches("test", EVAL_BATCH[SyntheticDLRMv3]))
    assert [batch["weight"].sum() for batch in batches] == [8, 3]
    labels, logits = (
        np.concatenate([of(batch)[batch["weight"] > 0].ravel() for batch in batches])
        for of in (lambda batch: batch["labels"], lambda batch: score(None, batch))
    )
    quality = make_evaluator(score, data, "test")(())
    assert quality.n == len(labels) == 11 * 30
    assert quality.protocol == f"{data.protocol}/test"
    assert quality.metrics["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(labels, logits), rel=1e-6)
    np.testing.assert_array_equal(quality.samples["logits"], logits)
    np.testing.assert_array_equal(quality.samples["labels"], labels)
    assert make_evaluator(score, data, "valid")(()).n == 5 * 4
    rows = sanity_rows(data, "test")
    assert set(rows) == {"random", "constant"}
    assert rows["constant"].metrics["auc"] == 0.5
    assert rows["random"].metrics["auc"] == pytest.approx(0.5, abs=0.1)


def test_random_depends_on_its_seed_alone_and_knows_nothing(next_item: NextItemData):
    first = sanity_rows(next_item, "test", seed=1)["random"]
    assert sanity_rows(next_item, "test", seed=1)["random"] == first
    assert sanity_rows(next_item, "test", seed=2)["random"] != first
    chance = np.mean(5 / next(next_item.eval_batches("test", 30))["candidates"].sum(1))
    deviation = np.sqrt(chance * (1 - chance) / 30)
    assert first.metrics["hr@5"] == pytest.approx(chance, abs=3 * deviation)


@pytest.fixture(scope="module")
def people() -> Interactions:
    """Returns 40 users, whose gender and age are mostly known, with 4 to 20 of 30 items each, rated 1 to 5."""
    rng = np.random.default_rng(0)
    items_of = [rng.permutation(30)[: rng.integers(4, 21)] for _ in range(40)]
    user = np.repeat(np.arange(40, dtype=np.int32), [len(items) for items in items_of])
    age = rng.choice([20.0, 30.0], 40).astype(np.float32)
    age[:3] = np.nan
    return Interactions(
        name="people",
        user=user,
        item=np.concatenate(items_of).astype(np.int32),
        rating=rng.integers(1, 6, len(user)).astype(np.float32),
        timestamp=1_000_000_000 + rng.integers(0, 10**6, len(user)),
        user_ids=np.arange(40),
        item_ids=np.arange(30),
        user_features={"gender": np.array(["F", "M", "M", ""] * 10, object), "age": age},
    ).in_order()


@pytest.fixture(scope="module")
def top_n(people: Interactions) -> TopNData:
    return top_n_data(people, Dataset(split="random_by_user", ratios=(0.5, 0.2, 0.3)), Samples())


@pytest.fixture(scope="module")
def ratings(people: Interactions) -> RatingData:
    return rating_data(people, Dataset(split="random", ratios=(0.6, 0.2, 0.2)), Samples())


def score_of_user(table_UV: jax.Array, batch: Any) -> jax.Array:
    return table_UV[batch["user"]]


def plain_top_n(data: TopNData, part: str, table: np.ndarray) -> dict[str, list[float]]:
    """Returns the metrics of each user, from the split itself; among equal scores the held-out items come last."""
    rows: dict[str, list[float]] = {}
    for user in range(data.schema.n_users):
        train, valid, test = (getattr(data.split, name) for name in ("train", "valid", "test"))
        known = set(train.item[train.user == user].tolist())
        held_out = set(valid.item[valid.user == user].tolist())
        if part == "test":
            known, held_out = known | held_out, set(test.item[test.user == user].tolist())
        if not held_out:
            continue
        ranked = sorted(
            (item for item in range(data.schema.n_items) if item not in known),
            key=lambda item: (-table[user, item], item in held_out),
        )
        hits = [float(item in held_out) for item in ranked]
        gains = [hit / np.log2(place + 2) for place, hit in enumerate(hits)]
        for k in data.cutoffs:
            best = sum(1 / np.log2(place + 2) for place in range(min(k, len(held_out))))
            rows.setdefault(f"hr@{k}", []).append(max(hits[:k]))
            rows.setdefault(f"precision@{k}", []).append(sum(hits[:k]) / k)
            rows.setdefault(f"recall@{k}", []).append(sum(hits[:k]) / len(held_out))
            rows.setdefault(f"ndcg@{k}", []).append(sum(gains[:k]) / best)
            rows.setdefault(f"mrr@{k}", []).append(max((h / (i + 1) for i, h in enumerate(hits[:k])), default=0.0))
    return rows


@pytest.mark.parametrize("part", ["valid", "test"])
@pytest.mark.parametrize("batch_size", [7, 256])
def test_top_n_evaluator_agrees_with_a_plain_loop(
    top_n: TopNData, part: str, batch_size: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(EVAL_BATCH, TopNData, batch_size)
    rng = np.random.default_rng(1)
    table = rng.integers(-2, 3, (40, 30)).astype(np.float32)  # coarse: ties, at 0 too
    quality = make_evaluator(score_of_user, top_n, part)(jnp.asarray(table))
    expected = plain_top_n(top_n, part, table)
    assert quality.samples.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(quality.samples[name], values, rtol=1e-6, err_msg=name)
        assert quality.metrics[name] == pytest.approx(np.mean(values), rel=1e-6)
    assert quality.n == len(expected["hr@5"]) == 40
    assert quality.protocol == f"{top_n.protocol}/{part}"


def test_equal_scores_put_the_relevant_items_last(top_n: TopNData):
    quality = make_evaluator(score_of_user, top_n, "valid")(jnp.zeros((40, 30)))
    (batch,) = top_n.eval_batches("valid", 40)
    too_many = batch["candidates"].sum(1) - batch["relevant"].sum(1) >= 5
    assert too_many.sum() > 30
    np.testing.assert_array_equal(quality.samples["hr@5"][too_many], 0)


def test_popularity_of_top_n_counts_training_interactions(top_n: TopNData):
    counts = np.bincount(top_n.split.train.item, minlength=30)
    expected = plain_top_n(top_n, "test", np.tile(counts, (40, 1)))
    metrics = sanity_rows(top_n, "test")["popularity"].metrics
    for name, values in expected.items():
        assert metrics[name] == pytest.approx(np.mean(values), rel=1e-6)


def best_of(data: Any, part: str, table: np.ndarray) -> np.ndarray:
    """Returns each evaluated user's ten best candidates, or all if fewer; no two scores of the table may be equal."""
    (batch,) = data.eval_batches(part, 40)
    lists = []
    for user, candidates, real in zip(batch["user"], batch["candidates"], batch["weight"], strict=True):
        if real:
            offered = np.flatnonzero(candidates)
            best = offered[np.argsort(-table[user, offered])][:LIST_LENGTH]
            lists.append(np.pad(best, (0, LIST_LENGTH - len(best)), constant_values=beyond_accuracy.NOTHING))
    return np.array(lists)


@pytest.mark.parametrize("kind", ["next_item", "top_n"])
def test_every_ranking_says_what_else_the_lists_are(kind: str, people: Interactions, top_n: TopNData):
    data = top_n if kind == "top_n" else next_item_data(people, Dataset(max_history=4))
    table = np.random.default_rng(2).permutation(40 * 30).reshape(40, 30).astype(np.float32)
    quality = make_evaluator(score_of_user, data, "valid")(jnp.asarray(table))
    lists, train = best_of(data, "valid", table), data.split.train
    counts = np.bincount(train.item, minlength=30).astype(float)
    beyond = {
        "coverage@10": beyond_accuracy.catalogue_coverage(lists, 30),
        "gini@10": beyond_accuracy.gini(lists, 30),
        "average_popularity@10": beyond_accuracy.average_popularity(lists, counts),
        "exposure_gap@10": beyond_accuracy.exposure_gap(lists, counts),
        "diversity@10": beyond_accuracy.intra_list_diversity(lists, train.user, train.item, 30),
    }
    assert {name: quality.metrics[name] for name in beyond} == pytest.approx(beyond, rel=1e-9)
    gaps = {name for name in quality.metrics if "/gap(" in name}
    assert gaps == {f"{name}/gap({feature})" for name in quality.samples for feature in ("gender", "age")}
    assert set(quality.metrics) == set(quality.samples) | set(beyond) | gaps


def test_candidates_fewer_than_a_list_are_all_that_is_listed(people: Interactions):
    data = next_item_data(people, Dataset(max_history=4, sampled_candidates=5))
    table = np.random.default_rng(2).permutation(40 * 30).reshape(40, 30).astype(np.float32)
    quality = make_evaluator(score_of_user, data, "valid")(jnp.asarray(table))
    lists, train = best_of(data, "valid", table), data.split.train
    assert set((lists != beyond_accuracy.NOTHING).sum(1)) == {6}  # the target and five beside it
    assert quality.metrics["gini@10/sampled(5)"] == pytest.approx(beyond_accuracy.gini(lists, 30))
    diversity = beyond_accuracy.intra_list_diversity(lists, train.user, train.item, 30)
    assert quality.metrics["diversity@10/sampled(5)"] == pytest.approx(diversity)


def test_gaps_are_between_the_means_of_groups(people: Interactions, top_n: TopNData):
    table = np.random.default_rng(3).standard_normal((40, 30)).astype(np.float32)
    quality = make_evaluator(score_of_user, top_n, "test")(jnp.asarray(table))
    values, gender, age = quality.samples["recall@10"], *people.user_features.values()
    female, male = values[gender == "F"].mean(), values[gender == "M"].mean()
    assert quality.metrics["recall@10/gap(gender)"] == pytest.approx(abs(female - male))
    young, older = values[age == 20].mean(), values[age == 30].mean()
    assert quality.metrics["recall@10/gap(age)"] == pytest.approx(abs(young - older))


def test_a_group_of_few_has_no_gap(people: Interactions):
    few = dataclasses.replace(people, user_features={"gender": np.array(["F"] * 35 + ["M"] * 5, object)})
    data = top_n_data(few, Dataset(split="random_by_user"), Samples())
    assert not any("gap(" in name for name in sanity_rows(data, "test")["popularity"].metrics)


def test_sampled_top_n_metrics_say_so_with_their_gaps(top_n: TopNData):
    data = dataclasses.replace(top_n, sampled_candidates=12)
    for row in sanity_rows(data, "test").values():
        assert {"recall@10/sampled(12)", "gini@10/sampled(12)", "recall@10/sampled(12)/gap(age)"} <= set(row.metrics)
        assert all("/sampled(12)" in name for name in row.metrics)
        assert all("/sampled(12)" in name for name in row.samples)


@pytest.mark.parametrize("part", ["valid", "test"])
@pytest.mark.parametrize("batch_size", [7, 1024])
def test_rating_evaluator_agrees_with_plain_numpy(
    ratings: RatingData, part: str, batch_size: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(EVAL_BATCH, RatingData, batch_size)
    table = np.random.default_rng(0).uniform(-3, 9, (40, 30)).astype(np.float32)

    def predict(table_UV: jax.Array, batch: Any) -> jax.Array:
        return table_UV[batch["user"], batch["item"]]

    quality = make_evaluator(predict, ratings, part)(jnp.asarray(table))
    held_out = getattr(ratings.split, part)
    predicted = np.clip(table[held_out.user, held_out.item], 1, 5)  # the scale
    assert (predicted != table[held_out.user, held_out.item]).any()
    errors = predicted - held_out.rating
    np.testing.assert_allclose(quality.samples["errors"], errors, rtol=1e-6)
    assert quality.n == len(held_out)
    assert quality.metrics == pytest.approx(
        {"rmse": np.sqrt(np.mean(errors.astype(float) ** 2)), "mae": np.mean(np.abs(errors.astype(float)))}, rel=1e-6
    )
    assert quality.protocol == f"{ratings.protocol}/{part}"


def test_biases_agree_with_a_plain_loop(ratings: RatingData):
    triples = list(
        zip(*(getattr(ratings.split.train, name).tolist() for name in ("user", "item", "rating")), strict=True)
    )
    mean = sum(rating for *_, rating in triples) / len(triples)
    item_bias, user_bias = {}, {}
    for item in range(30):  # five ratings at the mean are added to each
        left = [rating - mean for _, its, rating in triples if its == item]
        item_bias[item] = sum(left) / (len(left) + 5)
    for user in range(40):
        left = [rating - mean - item_bias[item] for his, item, rating in triples if his == user]
        user_bias[user] = sum(left) / (len(left) + 5)
    test = ratings.split.test
    errors = [
        min(max(mean + user_bias[user] + item_bias[item], 1), 5) - rating
        for user, item, rating in zip(test.user.tolist(), test.item.tolist(), test.rating.tolist(), strict=True)
    ]
    rows = sanity_rows(ratings, "test")
    assert set(rows) == {"random", "biases"}
    # Sums of a few float32 numbers around 1: 1e-5 of them.
    np.testing.assert_allclose(rows["biases"].samples["errors"], errors, rtol=1e-5, atol=1e-5)


def test_random_ratings_are_training_ratings_and_depend_on_the_seed(ratings: RatingData):
    first, again, other = (sanity_rows(ratings, "test", seed)["random"] for seed in (1, 1, 2))
    assert first == again
    assert first != other
    drawn = first.samples["errors"] + ratings.split.test.rating
    assert set(drawn.round(5)) <= {1, 2, 3, 4, 5}
    assert len(set(drawn.round(5))) > 1


@pytest.mark.parametrize("data", ["next_item", "top_n"])
def test_random_draws_other_scores_for_every_batch(
    data: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    whole: Any = request.getfixturevalue(data)
    monkeypatch.setitem(EVAL_BATCH, type(whole), 1)
    # Were all users given the same scores, what they have seen alone would tell their lists apart.
    monkeypatch.setattr("recjax.evaluation.LIST_LENGTH", 2)
    assert sanity_rows(whole, "test")["random"].metrics["coverage@2"] > 0.7


@pytest.mark.parametrize(
    ("metric", "worse", "better"),
    [("rmse", 1.0, 0.9), ("mae", 1.0, 0.9), ("logloss", 0.5, 0.4), ("ndcg@10", 0.2, 0.4), ("auc", 0.5, 0.8)],
)
def test_better_is_higher_or_of_errors_lower(metric: str, worse: float, better: float):
    assert is_better(metric, better, worse)
    assert not is_better(metric, worse, better)
    assert not is_better(metric, better, better)
    assert share_kept(metric, better, better) == 1
    share = share_kept(metric, worse, better)
    assert share == pytest.approx(min(worse, better) / max(worse, better))


def test_nothing_is_a_share_of_zero():
    assert share_kept("ndcg@10", 0.2, 0.0) is None
    assert share_kept("rmse", 0.0, 0.5) is None
