"""How sure a comparison is: intervals of qualities and of means, ranges of ratios.

Percentiles of latencies are those of `recjax.measurement.percentiles`, under their names here.
"""

from collections.abc import Sequence

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from recjax.evaluation import Quality
from recjax.measurement.percentiles import (
    CONFIDENCE,
    MIN_SAMPLES,
    PER_MILLE,
    LatencySummary,
    percentile_interval,
    summarize_latency,
)

__all__ = [
    "CONFIDENCE",
    "MIN_SAMPLES",
    "PER_MILLE",
    "LatencySummary",
    "mean_interval",
    "percentile_interval",
    "ratio_summary",
    "retained_interval",
    "summarize_latency",
]

MEAN_RESAMPLES, AUC_RESAMPLES = 2_000, 200  # an AUC needs a sort a resample


def retained_interval(quality: Quality, reference: Quality, metric: str, seed: int) -> list[float]:
    """Returns the 95% interval of quality / reference quality, by resampling both on the same queries or examples.

    Two models that were asked the same questions err on the same ones, so a paired interval is far narrower
    than either model's own.

    Args:
      quality: of the variant.
      reference: of fp32, on the same part in the same order.
      metric: a ranking metric (mean over queries), "auc" or "rmse".
      seed: of the resampling.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13, percentile intervals.
    """
    rng = np.random.default_rng(seed)
    if metric == "auc":
        picks = rng.integers(quality.n, size=(AUC_RESAMPLES, quality.n))
        labels = reference.samples["labels"] > 0
        aucs = [[_auc(q.samples["logits"], labels, rows) for rows in picks] for q in (quality, reference)]
        values, of = np.array(aucs)
    elif metric == "rmse":
        picks = rng.integers(quality.n, size=(MEAN_RESAMPLES, quality.n))
        of, values = (
            np.sqrt((q.samples["errors"] ** 2)[picks].mean(1)) for q in (quality, reference)
        )  # lower is better
    else:
        picks = rng.integers(quality.n, size=(MEAN_RESAMPLES, quality.n))
        values, of = quality.samples[metric][picks].mean(1), reference.samples[metric][picks].mean(1)
    ratios = np.divide(values, of, out=np.full(len(of), np.nan), where=of > 0)  # a resample without a hit has none
    tail = 50 * (1 - CONFIDENCE)
    return [float(bound) for bound in np.percentile(ratios[np.isfinite(ratios)], [tail, 100 - tail])]


def mean_interval(values: Sequence[float]) -> float:
    """Returns half the width of Student's 95% interval of the mean of two or more values."""
    return float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * scipy.stats.sem(values))


def _auc(scores: NDArray, labels: NDArray, picks: NDArray) -> float:
    """Returns the area under the ROC curve of the picked examples, by ranks with ties averaged."""
    positive = labels[picks]
    n_positive = positive.sum()
    rank_sum = scipy.stats.rankdata(scores[picks])[positive].sum()
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * (len(picks) - n_positive))


def ratio_summary(ratios: NDArray) -> dict[str, float | int | list[float]]:
    """Returns the median of paired ratios and the range that all of them lie in."""
    return {
        "median": float(np.median(ratios)),
        "range": [float(ratios.min()), float(ratios.max())],
        "rounds": len(ratios),
    }
