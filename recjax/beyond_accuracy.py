"""What a recommender does beside being right: whom and what it serves, and how evenly.

Every measure is of the lists of at most K items that U users were given; NOTHING stands where a list is shorter.

Shapes: U users, K items of a list, V catalogue, E training interactions.
"""

from collections.abc import Mapping

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

NOTHING = -1  # in the place of an item, after the last one of a list with fewer than K
SMALLEST_GROUP = 10  # users; the mean of fewer says little


def catalogue_coverage(lists: Int[np.ndarray, "U K"], n_items: int) -> float:
    """Returns the share of the catalogue that is in at least one list.

    Example:
      >>> catalogue_coverage(np.array([[0, 1], [0, 2]]), 4)
      0.75
    """
    return len(np.unique(lists[lists != NOTHING])) / n_items


def gini(lists: Int[np.ndarray, "U K"], n_items: int) -> float:
    """Returns the Gini coefficient of exposure: 0 if all items are listed equally often, near 1 if one has it all.

    Formula: sum_v (2 v - V - 1) x_v / (V sum_v x_v), x_v the times that item v is listed, ascending, v from 1.

    Example:
      >>> gini(np.array([[0, 1], [0, 1]]), 2), gini(np.array([[0], [0]]), 2)
      (0.0, 0.5)
    """
    exposure_V = np.sort(np.bincount(lists[lists != NOTHING], minlength=n_items))
    return float(((2 * np.arange(1, n_items + 1) - n_items - 1) * exposure_V).sum() / (n_items * exposure_V.sum()))


def average_popularity(lists: Int[np.ndarray, "U K"], item_counts: Float[np.ndarray, "V"]) -> float:
    """Returns the mean number of training interactions of the listed items."""
    return float(item_counts[lists[lists != NOTHING]].mean())


def head_items(item_counts: Float[np.ndarray, "V"]) -> Bool[np.ndarray, "V"]:
    """Returns the fewest most popular items that have at least half of the training interactions between them."""
    order = np.argsort(-item_counts, kind="stable")
    before = np.cumsum(item_counts[order]) - item_counts[order]
    head = np.zeros(len(item_counts), bool)
    head[order] = before < item_counts.sum() / 2
    return head


def exposure_gap(lists: Int[np.ndarray, "U K"], item_counts: Float[np.ndarray, "V"]) -> float:
    """Returns the head items' share of the lists minus their share of the training interactions.

    0 if popular items are recommended as often as they are chosen; above 0 if popularity feeds itself.

    Source: Abdollahpouri et al., The Unfairness of Popularity Bias in Recommendation (RMSE at RecSys 2019).
    """
    head = head_items(item_counts)
    return float(head[lists[lists != NOTHING]].mean() - item_counts[head].sum() / item_counts.sum())


def intra_list_diversity(lists: Int[np.ndarray, "U K"], user: NDArray, item: NDArray, n_items: int) -> float:
    """Returns the mean over lists of two items or more of 1 - the mean cosine similarity of two of its items.

    Items are the sets of users who have them in training; an item that nobody has is similar to none. nan if no list
    has two items.

    Formula: for unit vectors, the sum of all pairs' products is (|sum of them|^2 - how many are not zero) / 2.

    Args:
      lists: whole or shorter.
      user: [E] training interactions.
      item: [E] likewise.
      n_items: V.
    Source: Ziegler et al., Improving Recommendation Lists Through Topic Diversification (WWW 2005), with
      interactions in the place of topics.
    """
    length_U = (lists != NOTHING).sum(1)
    lists, length_U = lists[length_U >= 2], length_U[length_U >= 2]
    if not len(lists):
        return float("nan")
    listed_items = lists[lists != NOTHING]
    ones = np.ones(len(item))
    item_user = scipy.sparse.csr_matrix((ones, (item, user)), shape=(n_items, int(user.max()) + 1))
    item_user.data[:] = 1  # a repeated interaction counts once
    norm_V = np.sqrt(np.diff(item_user.indptr))
    unit = scipy.sparse.diags(1 / np.maximum(norm_V, 1)) @ item_user
    starts = np.concatenate([[0], np.cumsum(length_U)])
    listed = scipy.sparse.csr_matrix((np.ones(len(listed_items)), listed_items, starts), (len(lists), n_items))
    sums = listed @ unit
    squared_U = np.asarray(sums.multiply(sums).sum(1)).ravel()
    known_U = np.add.reduceat(norm_V[listed_items] > 0, starts[:-1], dtype=np.int64)
    return float(np.mean(1 - (squared_U - known_U) / (length_U * (length_U - 1))))


def user_groups(features: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Returns the group of every user under each feature that splits users: `gender` as it is, `age` in bands.

    Bands are under 25, 25 to 34, 35 to 49, and 50 or more; unknown values are the group "".
    """
    groups = {}
    if "gender" in features:
        groups["gender"] = np.array([str(value or "") for value in features["gender"]], object)
    if "age" in features:
        age = np.asarray(features["age"], np.float64)
        bands = np.array(["under 25", "25-34", "35-49", "50+", ""], object)
        groups["age"] = bands[np.where(np.isnan(age), 4, np.digitize(age, [25, 35, 50]))]
    return groups


def group_gap(values: Float[np.ndarray, "U"], group: NDArray) -> float | None:
    """Returns the highest minus the lowest group mean, None with fewer than two groups of SMALLEST_GROUP users."""
    means = [
        values[group == name].mean()
        for name in np.unique(group[group != ""])
        if (group == name).sum() >= SMALLEST_GROUP
    ]
    return float(max(means) - min(means)) if len(means) >= 2 else None
