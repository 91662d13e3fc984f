"""How sure a ratio of two qualities is: both are resampled on the same queries or examples."""

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from recjax.evaluation import Quality

CONFIDENCE = 0.95
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


def _auc(scores: NDArray, labels: NDArray, picks: NDArray) -> float:
    """Returns the area under the ROC curve of the picked examples, by ranks with ties averaged."""
    positive = labels[picks]
    n_positive = positive.sum()
    rank_sum = scipy.stats.rankdata(scores[picks])[positive].sum()
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * (len(picks) - n_positive))
