"""What each user (or item) has: padded rows of it, made for a batch at a time.

Shapes: B batch, L history length, V catalogue.
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from recjax.data.batches import PADDING_ID, gather_windows
from recjax.data.interactions import Interactions


class ItemsByUser:
    """Items of chosen users, padded or as a mask, made when asked for: all at once would be users x items."""

    def __init__(self, interactions: Interactions) -> None:
        """Sorts the interactions by user; a user's items keep their order."""
        order = np.argsort(interactions.user, kind="stable")
        self.item, self.user, self.n_items = interactions.item[order], interactions.user[order], interactions.n_items

    def padded(self, users: NDArray, width: int) -> Int[np.ndarray, "B L"]:
        """Returns each user's last `width` items, padded at the end with PADDING_ID."""
        starts, ends = self._windows(users)
        return gather_windows(self.item, np.maximum(starts, ends - width), ends, width, PADDING_ID)[0]

    def members(self, users: NDArray) -> Bool[np.ndarray, "B V"]:
        """Returns which items each user has."""
        starts, ends = self._windows(users)
        lengths = ends - starts
        positions = np.arange(lengths.sum()) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
        members = np.zeros((len(users), self.n_items), bool)
        members[np.repeat(np.arange(len(users)), lengths), self.item[positions]] = True
        return members

    def _windows(self, users: NDArray) -> tuple[NDArray, NDArray]:
        return np.searchsorted(self.user, users), np.searchsorted(self.user, users, side="right")


class RatingsByOwner:
    """Training ratings by owner (a user or an item), in time order where there are times."""

    def __init__(self, train: Interactions, side: Literal["user", "item"]) -> None:
        """Sorts the ratings by owner, then time; `side` says which of the two codes is the owner."""
        owner, other = (train.user, train.item) if side == "user" else (train.item, train.user)
        time = np.zeros(len(train), np.int64) if train.timestamp is None else train.timestamp
        order = np.lexsort((time, owner))
        self.owner, self.other, self.rating = owner[order], other[order], train.rating[order]
        # One ascending key a rating, so that "the owner's ratings before a moment" is a single binary search.
        self._first, self._span = (int(time.min()), int(np.ptp(time)) + 2) if len(time) else (0, 2)
        self._keys = self._key(self.owner, time[order])

    def before(
        self, owners: NDArray, times: NDArray | None, width: int
    ) -> tuple[Int[np.ndarray, "B L"], Float[np.ndarray, "B L"]]:
        """Returns ids and ratings [B, width] of each owner's newest ratings older than `times`, oldest first.

        Without `times`: of all of the owner's ratings.
        """
        starts = np.searchsorted(self.owner, owners)
        if times is None:
            ends = np.searchsorted(self.owner, owners, side="right")
        else:
            ends = np.searchsorted(self._keys, self._key(owners, times))
        starts = np.maximum(starts, ends - width)
        ids, _ = gather_windows(self.other, starts, ends, width, PADDING_ID)
        return ids, gather_windows(self.rating, starts, ends, width)[0]

    def _key(self, owner: NDArray, time: NDArray) -> NDArray:
        return owner.astype(np.int64) * self._span + np.clip(time - self._first, 0, self._span - 1)
