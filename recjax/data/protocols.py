"""The evaluation protocols that the field names, as data: which split, and what is ranked.

A figure counts only under its own protocol. `under("random_8_1_1/full", source="ml-100k")` is the Dataset of
one; every quality that recjax prints says in words which one it was had under.
"""

from collections.abc import Mapping
from typing import Any

from recjax.config import Dataset
from recjax.errors import unknown_name

PROTOCOLS: Mapping[str, Mapping[str, Any]] = {
    # Each user's last item is the test, the one before it the validation; all unseen items are ranked.
    "leave_one_out/full": {"split": "leave_last_one_out"},
    # The same, but the target is ranked among 99 unseen items only: figures are higher, and not comparable.
    "leave_one_out/sampled(99)": {"split": "leave_last_one_out", "sampled_candidates": 99},
    # RecBole's default for general recommendation.
    "random_8_1_1/full": {"split": "random_by_user", "ratios": (0.8, 0.1, 0.1)},
    # Published with four fifths for training and no validation part; here a tenth of them chooses the epoch.
    "random_80_20": {"split": "random", "ratios": (0.72, 0.08, 0.2)},
    # Users in the test part are unknown in training; four fifths of their items are folded in.
    "strong_generalisation": {"split": "strong_generalisation", "ratios": (0.8, 0.1, 0.1)},
    # AutoRec's: a tenth of the ratings is the test, a twentieth of the rest chooses the epoch.
    "rating_90_10": {"split": "random", "ratios": (0.855, 0.045, 0.1)},
    # RecBole's default for click-through models, whose features are the user's and the item's alone.
    "labelled_8_1_1": {"split": "random", "ratios": (0.8, 0.1, 0.1), "time_features": False},
}


def under(protocol: str, **fields: Any) -> Dataset:
    """Returns the Dataset of a named protocol; `fields` are its other values, `source` first of all.

    Raises:
      UserError: no such protocol.
    """
    if protocol not in PROTOCOLS:
        raise unknown_name("protocol", protocol, PROTOCOLS)
    return Dataset(**{"min_interactions": 1, **PROTOCOLS[protocol], **fields})


def split_in_words(dataset: Dataset) -> str:
    """Returns the split with its ratios and seed where it has them, as in `random_8:1:1/seed=0`."""
    words: str = dataset.split
    if dataset.split != "leave_last_one_out":
        words += "_" + ":".join(f"{10 * ratio:g}" for ratio in dataset.ratios)
    if dataset.split not in ("leave_last_one_out", "temporal"):
        words += f"/seed={dataset.seed}"
    return words


def candidates_in_words(dataset: Dataset) -> str:
    """Returns what is ranked, as it stands in a protocol."""
    return f"sampled({dataset.sampled_candidates})" if dataset.sampled_candidates else "full_catalogue"


def ranking_metric_name(metric: str, sampled_candidates: int) -> str:
    """Returns the metric's name; one that was had by ranking a sample says so, as in `ndcg@10/sampled(99)`."""
    return f"{metric}/sampled({sampled_candidates})" if sampled_candidates else metric
