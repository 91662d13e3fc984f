"""Which models' quality differs between two runs, and whether that is a loss."""

import dataclasses
import math
from collections.abc import Iterable

from benchmarks.results import Row
from recjax.evaluation import share_kept


@dataclasses.dataclass(frozen=True, kw_only=True)
class QualityChange:
    """A model whose quality differs between the runs.

    Attributes:
      case: experiment and variant.
      metric: the one that chose the epoch or, if that did not change, the first that did.
      before: its value in A.
      after: and in B.
      lost: whether that is a loss beyond what is allowed, of the metric that chose the epoch.
      in_words: what was kept, and what is allowed.
    """

    case: str
    metric: str
    before: float
    after: float
    lost: bool
    in_words: str


def quality_changes(pairs: Iterable[tuple[Row, Row]], threshold: float) -> tuple[list[QualityChange], int]:
    """Returns the changes, one a model, and how many models were looked at.

    A transformed model loses quality if the share of fp32's quality that it keeps falls by more than the two shares'
    95% intervals, taken together, explain. fp32 has no interval of its own: it loses quality if that falls by more than
    the threshold.

    Args:
      pairs: of rows of A and B that have one name.
      threshold: share.
    """
    models: dict[str, tuple[Row, Row]] = {}
    for a, b in pairs:
        if a.quality and b.quality and a.protocol == b.protocol:
            models.setdefault(a.case, (a, b))
    changes = [_change(a, b, threshold) for a, b in models.values()]
    return [change for change in changes if change is not None], len(models)


def _change(a: Row, b: Row, threshold: float) -> QualityChange | None:
    before, after = a.quality or {}, b.quality or {}
    changed = [name for name in before if name in after and before[name] != after[name]]
    if not changed:
        return None
    metric = a.quality_metric if a.quality_metric in changed else changed[0]
    assert metric is not None
    lost, words = _loss(a, b, share_kept(metric, after[metric], before[metric]), threshold)
    return QualityChange(
        case=a.case,
        metric=metric,
        before=before[metric],
        after=after[metric],
        lost=lost and metric == a.quality_metric,
        in_words=words,
    )


def _loss(a: Row, b: Row, share: float | None, threshold: float) -> tuple[bool, str]:
    """Returns whether quality was lost, and in words what was kept."""
    errors = [_half_width(row) for row in (a, b)]
    if a.quality_retained and b.quality_retained and all(errors):
        fall, allowed = a.quality_retained - b.quality_retained, math.hypot(*errors)
        kept = f"{a.quality_retained:.2%} of fp32's was kept and {b.quality_retained:.2%} is"
        return fall > allowed, f"{kept}; a fall by {allowed:.2%} is allowed"
    if share is None:
        return False, "there is no ratio"
    return share < 1 - threshold, f"x{share:.3f}; a loss of {threshold:.1%} is allowed"


def _half_width(row: Row) -> float:
    """Returns half of the interval of the share of fp32's quality; 0 for fp32 itself."""
    low, high = row.quality_retained_ci95 or (0.0, 0.0)
    return (high - low) / 2
