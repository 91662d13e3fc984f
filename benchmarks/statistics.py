"""Latency samples in, percentiles with confidence intervals out; every sample counts, none is dropped.

Shapes: N samples.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from recjax.evaluation import Quality

CONFIDENCE = 0.95
MEAN_RESAMPLES, AUC_RESAMPLES = 2_000, 200  # an AUC needs a sort a resample
MIN_SAMPLES = {"p50": 1, "p90": 10, "p95": 20, "p99": 100, "p99_9": 10_000}
PER_MILLE = {"p50": 500, "p90": 900, "p95": 950, "p99": 990, "p99_9": 999}


@dataclasses.dataclass(frozen=True)
class LatencySummary:
    """Milliseconds; a percentile that N samples cannot carry is None, with the reason in `reasons`."""

    values: dict[str, float | list[float] | int | None]
    reasons: dict[str, str]


def summarize_latency(latency_ms: NDArray) -> LatencySummary:
    """Returns p50, p90, p95, p99, p99_9, max, mean, n and 95% intervals of p50 and p99.

    Percentiles are order statistics (the smallest sample that at least q% of the samples do not exceed);
    intervals are those of the binomial distribution of ranks, which assume independent samples.

    Source: Hahn and Meeker, Statistical Intervals (1991), section 5.2.
    """
    ordered = np.sort(latency_ms)
    n = len(ordered)
    values: dict[str, float | list[float] | int | None] = {}
    reasons = {}
    for name, per_mille in PER_MILLE.items():
        if n >= MIN_SAMPLES[name]:
            rank = -(-n * per_mille // 1000)  # whole numbers: 0.999 n in floating point can round up a rank
            values[name] = float(ordered[rank - 1])
        else:
            values[name] = None
            reasons[f"latency_ms.{name}"] = f"{n} samples; at least {MIN_SAMPLES[name]:,} are needed"
    values |= {"max": float(ordered[-1]), "mean": float(ordered.mean()), "n": n}
    for name in ("p50", "p99"):
        interval = percentile_interval(ordered, PER_MILLE[name] / 1000)
        values[f"ci95_{name}"] = interval
        if interval is None:
            reasons[f"latency_ms.ci95_{name}"] = f"{n} samples do not bracket {name} with 95% confidence"
    return LatencySummary(values, reasons)


def percentile_interval(ordered: NDArray, quantile: float) -> list[float] | None:
    """Returns the order statistics that bracket the quantile with 95% confidence, None if N is too small.

    The lower rank is the largest l with P(Binomial(N, q) < l) <= 2.5%, the upper the smallest u with
    P(Binomial(N, q) >= u) <= 2.5%.
    """
    n = len(ordered)
    tail = (1 - CONFIDENCE) / 2
    lower = int(scipy.stats.binom.ppf(tail, n, quantile))  # rank, from 1
    upper = int(scipy.stats.binom.ppf(1 - tail, n, quantile)) + 1
    if lower < 1 or upper > n:
        return None
    return [float(ordered[lower - 1]), float(ordered[upper - 1])]


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
