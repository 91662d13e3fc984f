"""Ratings and trust statements among the people who rate, as FilmTrust and Epinions have them."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, Int32, Shaped

from recjax.data.delimited import rows_without_duplicates
from recjax.data.interactions import Interactions
from recjax.data.text_column import TextColumn


def join_trust(
    name: str,
    ratings: Mapping[str, TextColumn],
    rating: Float32[np.ndarray, "E"],
    edges: Mapping[str, TextColumn],
) -> Interactions:
    """Returns ratings with trust edges, sorted by user, then as in the file; there are no timestamps.

    Of a pair of user and item that stands more than once, the last row counts. A user is who rates: an edge that
    touches anyone else is left out, since nothing can be learned or asked of a user without ratings.

    Args:
      name: of the data set.
      ratings: columns `user` and `item`.
      rating: of each row.
      edges: columns `truster`, `trustee` and `trust`, which is 1 throughout.
    """
    user, user_ids = ratings["user"].ids(integers=True)
    item, item_ids = ratings["item"].ids(integers=True)
    interactions = Interactions(
        name=name,
        user=user,
        item=item,
        rating=rating,
        timestamp=None,
        user_ids=user_ids,
        item_ids=item_ids,
        trust=_trust(edges, user_ids),
    )
    return interactions.select(rows_without_duplicates(interactions, "keep_last")).in_order()


def _trust(edges: Mapping[str, TextColumn], user_ids: Shaped[np.ndarray, "U"]) -> Int32[np.ndarray, "2 S"]:
    """Returns the edges between two different users, each once, sorted."""
    ends = []
    for name in ("truster", "trustee"):
        edges[name].ids(integers=True)  # for its checks: whoever is nobody's user must be a user id all the same
        ends.append(edges[name].find(user_ids))
    edges["trust"].choices(("1", "1.0"))
    return distinct_edges(np.stack(ends))


def distinct_edges(edges: Int32[np.ndarray, "2 N"]) -> Int32[np.ndarray, "2 S"]:
    """Returns the edges between two different users, each once, sorted; a code below 0 is nobody."""
    between_users = (edges >= 0).all(0) & (edges[0] != edges[1])
    return np.unique(edges[:, between_users], axis=1)
