"""What becomes of a user who meets an item more than once.

recjax ranks items that a user does not have yet, so that a set of listens or purchases keeps one row a pair.
Shapes: E interactions.
"""

import numpy as np
from jaxtyping import Int64

from recjax.data.interactions import Interactions


def pair_keys(interactions: Interactions) -> Int64[np.ndarray, "E"]:
    """Returns one number for each (user, item)."""
    return interactions.user.astype(np.int64) * interactions.n_items + interactions.item


def keep_first(interactions: Interactions) -> Interactions:
    """Returns the interactions in order, each user's first with every item alone.

    The first, not the last: whether a row stays in a training part must not depend on what happens after it.
    Of equal timestamps, and without timestamps, the earlier row counts as first.
    """
    ordered = interactions.in_order()
    keys = pair_keys(ordered)
    order = np.argsort(keys, kind="stable")
    if len(order) == 0 or not (repeats := np.diff(keys[order]) == 0).any():
        return ordered
    return ordered.select(np.sort(order[np.insert(~repeats, 0, True)]))
