import numpy as np
import pytest
import scipy.stats

from benchmarks.statistics import mean_interval, ratio_summary
from recjax.evaluation import Quality
from recjax.quality_interval import retained_interval


def test_ratios_are_summarised_by_median_and_range() -> None:
    assert ratio_summary(np.array([1.0, 4.0, 2.0])) == {"median": 2.0, "range": [1.0, 4.0], "rounds": 3}
    assert ratio_summary(np.array([3.0, 1.0])) == {"median": 2.0, "range": [1.0, 3.0], "rounds": 2}


def ranking(values: np.ndarray) -> Quality:
    return Quality("p", {"ndcg@10": float(values.mean())}, len(values), {"ndcg@10": values})


def binary(logits: np.ndarray, labels: np.ndarray) -> Quality:
    return Quality("p", {}, len(labels), {"logits": logits, "labels": labels.astype(np.float32)})


def test_a_model_keeps_all_of_its_own_quality() -> None:
    rng = np.random.default_rng(0)
    queries, labels = ranking(rng.random(50)), rng.random(60) < 0.4
    assert retained_interval(queries, queries, "ndcg@10", 0) == [1.0, 1.0]
    examples = binary(rng.normal(size=60), labels)
    assert retained_interval(examples, examples, "auc", 0) == [1.0, 1.0]


def test_a_constant_share_of_every_query_leaves_no_doubt() -> None:
    # The resampling is paired: however the queries are drawn, the ratio is one half.
    values = np.random.default_rng(1).random(40)
    assert retained_interval(ranking(values / 2), ranking(values), "ndcg@10", 0) == pytest.approx([0.5, 0.5])


def test_the_resampling_is_that_of_its_seed() -> None:
    rng = np.random.default_rng(2)
    quality, reference = ranking(rng.random(30)), ranking(rng.random(30) + 1)
    first, again, other = (retained_interval(quality, reference, "ndcg@10", seed) for seed in (3, 3, 4))
    assert first == again != other


def test_the_paired_interval_covers_the_true_ratio() -> None:
    rng, covered, n = np.random.default_rng(5), 0, 200
    for _ in range(200):
        shared = rng.exponential(size=n)
        interval = retained_interval(
            ranking(0.9 * shared + 0.1 * rng.exponential(size=n)), ranking(shared), "ndcg@10", 0
        )
        covered += interval[0] <= 1.0 <= interval[1]  # both means are 1
    assert covered >= 0.9 * 200  # 95% in truth; 200 trials have a standard error of 1.5%


def test_the_interval_of_an_auc_is_that_of_the_ratio_of_aucs() -> None:
    # A ranking without error has an AUC of 1 in every resample, so the ratio is the other model's AUC.
    rng = np.random.default_rng(6)
    labels = np.arange(200) % 2 == 1
    noisy = labels + rng.normal(size=200)
    positive, negative = noisy[labels], noisy[~labels]
    auc = (positive[:, None] > negative[None]).mean()
    low, high = retained_interval(binary(noisy, labels), binary(labels * 1.0, labels), "auc", 0)
    assert low < auc < high
    assert high - low < 4 * 1.96 * np.sqrt(auc * (1 - auc) / 200)


def test_ties_count_one_half_in_an_auc() -> None:
    labels = np.arange(100) % 2 == 1
    interval = retained_interval(binary(np.zeros(100), labels), binary(labels * 1.0, labels), "auc", 0)
    assert interval == [0.5, 0.5]


def test_rare_hits_make_no_nan() -> None:
    # Of five queries one is a hit: a third of all resamples have none, and no ratio.
    one_hit = ranking(np.array([1.0, 0.0, 0.0, 0.0, 0.0]))
    assert not np.isnan(retained_interval(one_hit, one_hit, "ndcg@10", 0)).any()


def test_the_interval_of_a_mean_is_students() -> None:
    values = np.random.default_rng(0).normal(3, 2, 9)
    low, high = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_interval(values.tolist()) == pytest.approx((high - low) / 2)
