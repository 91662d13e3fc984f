import dataclasses
from typing import Any

import numpy as np
from compared_runs import make_row

from benchmarks.quality_changes import quality_changes

LATENCIES = np.linspace(1.0, 2.0, 2_000)


def changed(**changes: Any) -> Any:
    return dataclasses.replace(make_row(LATENCIES), **changes)


def test_equal_qualities_are_no_change() -> None:
    assert quality_changes([(make_row(LATENCIES), make_row(LATENCIES))], 0.05) == ([], 1)


def test_a_model_is_told_once_and_fp32_may_lose_the_threshold() -> None:
    pairs = [(make_row(LATENCIES), changed(quality={"ndcg@10": 0.24, "mrr": 0.125}))]  # 0.24 / 0.25 = 0.96
    (change,), n_models = quality_changes(pairs * 2, 0.05)
    assert (change.case, change.metric, change.before, change.after) == ("sasrec/fp32", "ndcg@10", 0.25, 0.24)
    assert not change.lost
    assert change.in_words == "x0.960; a loss of 5.0% is allowed"
    assert n_models == 1
    (change,), _ = quality_changes(pairs, 0.03)
    assert change.lost


def test_a_transformed_model_may_lose_what_its_intervals_explain() -> None:
    before = changed(quality_retained=0.99, quality_retained_ci95=[0.96, 1.02])
    for kept, lost in ((0.945, False), (0.93, True)):  # 0.05 = hypot(0.03, 0.04)
        after = changed(
            quality={"ndcg@10": 0.2, "mrr": 0.125},
            quality_retained=kept,
            quality_retained_ci95=[kept - 0.04, kept + 0.04],
        )
        (change,), _ = quality_changes([(before, after)], 0.05)
        assert change.lost is lost
    assert change.in_words == "99.00% of fp32's was kept and 93.00% is; a fall by 5.00% is allowed"


def test_a_lower_error_is_better() -> None:
    before = changed(quality={"rmse": 0.8}, quality_metric="rmse")
    better, worse = (changed(quality={"rmse": value}, quality_metric="rmse") for value in (0.7, 0.9))
    assert not quality_changes([(before, better)], 0.05)[0][0].lost
    assert quality_changes([(before, worse)], 0.05)[0][0].lost


def test_another_metric_is_told_and_is_no_loss() -> None:
    (change,), _ = quality_changes([(make_row(LATENCIES), changed(quality={"ndcg@10": 0.25, "mrr": 0.01}))], 0.05)
    assert (change.metric, change.lost) == ("mrr", False)


def test_no_ratio_and_nothing_to_compare() -> None:
    nothing, something = changed(quality={"ndcg@10": 0.0}), changed(quality={"ndcg@10": 0.1})
    (change,), _ = quality_changes([(nothing, something)], 0.05)
    assert change.in_words == "there is no ratio"
    other = changed(protocol="tiny/valid", quality={"ndcg@10": 0.0})
    assert quality_changes([(changed(quality=None), something), (nothing, other)], 0.05) == ([], 0)
