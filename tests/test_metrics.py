import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recjax import metrics

C = 6
TIED_SCORES = hnp.arrays(np.float32, C, elements=st.sampled_from([-1.0, -0.0, 0.0, 0.5, 2.0]))


def ranked(scores: np.ndarray, labels: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Returns rank_labels of one query."""
    return np.asarray(metrics.rank_labels(*(jnp.asarray(x)[None] for x in (scores, labels, where)))[0])


def test_rank_labels_sorts_by_descending_score_with_ties_against_the_relevant():
    #      scores 3 > 2 = 2 > 1; of the tied two the irrelevant comes first
    scores, labels = jnp.array([[2.0, 3.0, 1.0, 2.0]]), jnp.array([[1, 0, 1, 0]])
    assert metrics.rank_labels(scores, labels, jnp.ones((1, 4), bool)).tolist() == [[0, 0, 1, 1]]


def test_rank_labels_puts_masked_candidates_last_as_irrelevant():
    scores, labels = jnp.array([[9.0, 1.0, 5.0]]), jnp.array([[1, 1, 0]])
    assert metrics.rank_labels(scores, labels, jnp.array([[False, True, True]])).tolist() == [[0, 1, 0]]


def test_rank_single_label_counts_the_candidates_that_are_not_below():
    scores = jnp.array([[2.0, 3.0, 1.0, 2.0], [0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0]])
    where = jnp.array([[True] * 4, [True] * 4, [True, True, False, True]])
    expected = [[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0]]
    assert metrics.rank_single_label(scores, jnp.array([0, 3, 1]), where).tolist() == expected


@given(TIED_SCORES, hnp.arrays(bool, C), st.integers(0, C - 1))
def test_rank_single_label_agrees_with_the_sort(scores: np.ndarray, where: np.ndarray, target: int):
    where[target] = True
    counted = metrics.rank_single_label(jnp.asarray(scores)[None], jnp.array([target]), jnp.asarray(where)[None])
    np.testing.assert_array_equal(counted[0], ranked(scores, (np.arange(C) == target).astype(np.int32), where))


def test_rank_single_label_gives_a_target_that_is_no_candidate_no_position():
    scores, where = jnp.array([[5.0, 1.0, 9.0]]), jnp.array([[False, True, True]])
    assert metrics.rank_single_label(scores, jnp.array([0]), where).tolist() == [[0, 0, 0]]


def test_rank_single_label_gives_nan_the_worst_value():
    scores = jnp.full((1, 3), jnp.nan)
    row = metrics.rank_single_label(scores, jnp.array([1]), jnp.ones((1, 3), bool))
    assert metrics.hit_rate(row, 2).item() == 0


@given(TIED_SCORES, hnp.arrays(np.int32, C, elements=st.integers(0, 1)), hnp.arrays(bool, C), st.permutations(range(C)))
def test_order_of_candidates_means_nothing(scores: np.ndarray, labels: np.ndarray, where: np.ndarray, order: list[int]):
    permuted = ranked(scores[order], labels[order], where[order])
    np.testing.assert_array_equal(permuted, ranked(scores, labels, where))


@given(
    TIED_SCORES,
    hnp.arrays(np.int32, C, elements=st.integers(0, 1)),
    hnp.arrays(bool, C),
    hnp.arrays(np.float32, C, elements=st.floats(-1e6, 1e6, width=32)),
    hnp.arrays(np.int32, C, elements=st.integers(0, 1)),
)
def test_masked_candidates_change_nothing(
    scores: np.ndarray, labels: np.ndarray, where: np.ndarray, junk: np.ndarray, other: np.ndarray
):
    changed = ranked(np.where(where, scores, junk), np.where(where, labels, other), where)
    np.testing.assert_array_equal(changed, ranked(scores, labels, where))


def test_a_model_that_gives_every_item_one_score_gets_the_worst_place():
    row = metrics.rank_labels(jnp.ones((1, C)), jnp.array([[1, 0, 0, 0, 0, 0]]), jnp.ones((1, C), bool))
    assert metrics.mrr(row).item() == pytest.approx(1 / C)
    assert metrics.hit_rate(row, C - 1).item() == 0


RANKED = jnp.array([[0.0, 1, 0, 1, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]])


def test_hit_rate_by_hand():
    assert metrics.hit_rate(RANKED, 1).tolist() == [0, 1, 0]
    assert metrics.hit_rate(RANKED, 2).tolist() == [1, 1, 0]
    assert metrics.hit_rate(RANKED, 50).tolist() == [1, 1, 0]


def test_recall_by_hand():
    np.testing.assert_allclose(metrics.recall(RANKED, 2), [1 / 3, 1 / 1, 0])
    np.testing.assert_allclose(metrics.recall(RANKED, 4), [2 / 3, 1 / 1, 0])


def test_mrr_by_hand():
    np.testing.assert_allclose(metrics.mrr(RANKED), [1 / 2, 1 / 1, 0])


def test_ndcg_by_hand():
    best = 1 / np.log2(2) + 1 / np.log2(3) + 1 / np.log2(4)
    at_4 = [(1 / np.log2(3) + 1 / np.log2(5)) / best, 1, 0]
    np.testing.assert_allclose(metrics.ndcg(RANKED, 4), at_4, rtol=1e-6)
    at_2 = [(1 / np.log2(3)) / (1 / np.log2(2) + 1 / np.log2(3)), 1, 0]
    np.testing.assert_allclose(metrics.ndcg(RANKED, 2), at_2, rtol=1e-6)
    np.testing.assert_allclose(metrics.ndcg(RANKED, 50), metrics.ndcg(RANKED, 5))


@pytest.mark.parametrize("k", [3, 10])
def test_ranking_metrics_agree_with_references(k: int):
    rng = np.random.default_rng(k)
    scores, labels = rng.random((40, 12), np.float32), (rng.random((40, 12)) < 0.3).astype(np.int32)
    labels[0] = 0  # a query without a relevant item
    order = np.argsort(-scores, 1)
    sorted_labels = np.take_along_axis(labels, order, 1)
    rows = metrics.rank_labels(jnp.asarray(scores), jnp.asarray(labels), jnp.ones((40, 12), bool))
    np.testing.assert_array_equal(rows, sorted_labels)
    np.testing.assert_allclose(metrics.ndcg(rows, k).mean(), sklearn.metrics.ndcg_score(labels, scores, k=k), rtol=1e-5)
    expected = [row[:k].sum() / max(row.sum(), 1) for row in sorted_labels]
    np.testing.assert_allclose(metrics.recall(rows, k), expected, rtol=1e-6)
    expected = [next((1 / (i + 1) for i, y in enumerate(row) if y), 0) for row in sorted_labels]
    np.testing.assert_allclose(metrics.mrr(rows), expected, rtol=1e-6)
    np.testing.assert_array_equal(metrics.hit_rate(rows, k), [row[:k].any() for row in sorted_labels])


def test_auc_by_hand_counts_ties_half():
    scores, labels = jnp.array([0.9, 0.5, 0.5, 0.1]), jnp.array([1.0, 1.0, 0.0, 0.0])
    # pairs (positive, negative): .9>.5, .9>.1, .5=.5, .5>.1
    assert metrics.auc(scores, labels, jnp.ones(4, bool)) == (1 + 1 + 0.5 + 1) / 4


@pytest.mark.parametrize("levels", [3, 50, 10**6])
def test_auc_agrees_with_scikit_learn(levels: int):
    rng = np.random.default_rng(levels)
    scores = rng.integers(levels, size=3000).astype(np.float32) - levels // 2
    labels, where = rng.integers(2, size=3000), rng.random(3000) < 0.8
    expected = sklearn.metrics.roc_auc_score(labels[where], scores[where])
    value = metrics.auc(jnp.asarray(scores), jnp.asarray(labels, jnp.float32), jnp.asarray(where))
    assert value == pytest.approx(expected, rel=1e-5)


@given(hnp.arrays(np.float32, 8, elements=st.floats(-5, 5, width=16)), st.permutations(range(8)))
def test_auc_is_free_of_order_and_of_monotone_maps(scores: np.ndarray, order: list[int]):
    labels, everything = np.array([0, 1, 1, 0, 0, 1, 0, 1], np.float32), jnp.ones(8, bool)
    value = metrics.auc(jnp.asarray(scores), jnp.asarray(labels), everything)
    permuted = metrics.auc(jnp.asarray(scores[order]), jnp.asarray(labels[order]), everything)
    mapped = metrics.auc(jnp.asarray(4 * scores), jnp.asarray(labels), everything)  # exact, and monotone
    turned = metrics.auc(jnp.asarray(-scores), jnp.asarray(labels), everything)
    np.testing.assert_allclose([permuted, mapped, 1 - turned], value, atol=1e-6)


def test_auc_needs_both_classes():
    assert np.isnan(metrics.auc(jnp.array([0.1, 0.2]), jnp.array([1.0, 1.0]), jnp.ones(2, bool)))
    assert np.isnan(metrics.auc(jnp.array([0.1, 0.2]), jnp.array([0.0, 0.0]), jnp.ones(2, bool)))
    assert np.isnan(metrics.auc(jnp.array([0.1, 0.2]), jnp.array([0.0, 1.0]), jnp.array([True, False])))


def test_logloss_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal(300).astype(np.float32), rng.integers(2, size=300).astype(np.float32)
    expected = sklearn.metrics.log_loss(labels, jax.nn.sigmoid(logits))
    value = metrics.logloss(jnp.asarray(logits), jnp.asarray(labels), jnp.ones(300, bool))
    assert value == pytest.approx(expected, rel=1e-5)
