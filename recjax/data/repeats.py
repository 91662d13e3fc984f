"""What becomes of a user who meets an item more than once.

recjax ranks items that a user does not have yet, so that a set of plays or purchases keeps one row a pair.
"""

import dataclasses

import numpy as np

from recjax.data.delimited import rows_without_duplicates
from recjax.data.interactions import Interactions


def keep_first(interactions: Interactions) -> Interactions:
    """Returns the interactions in order, each user's first with every item alone.

    The first, not the last: whether a row stays in a training part must not depend on what happens after it.
    Of equal timestamps, and without timestamps, the earlier row counts as first.
    """
    return interactions.select(rows_without_duplicates(interactions, "keep_first")).in_order()


def sum_ratings(interactions: Interactions) -> Interactions:
    """Returns one row for each user and item, sorted by both, with the sum of the ratings; timestamps are dropped."""
    keys = interactions.user.astype(np.int64) * interactions.n_items + interactions.item
    pairs, pair_of_row = np.unique(keys, return_inverse=True)
    user, item = np.divmod(pairs, max(interactions.n_items, 1))
    return dataclasses.replace(
        interactions,
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        rating=np.bincount(pair_of_row, interactions.rating, len(pairs)).astype(np.float32),
        timestamp=None,
    )
