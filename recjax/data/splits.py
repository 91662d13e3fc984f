"""Train, validation and test parts of a data set, which share no row and keep its order."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from recjax.config import Dataset
from recjax.data.interactions import Interactions
from recjax.errors import UserError

_TRAIN, _VALID, _TEST = range(3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """Three disjoint, non-empty parts of one data set; they share its codes and id tables.

    Attributes:
      folded_in: of strong generalisation alone, what is known of the held-out users of "valid" and of "test".
    """

    train: Interactions
    valid: Interactions
    test: Interactions
    folded_in: Mapping[str, Interactions] | None = None

    def known(self, part: str) -> Interactions:
        """Returns what is known, and so not recommended again, when `part` ("valid" or "test") is ranked."""
        if self.folded_in is not None:
            return self.folded_in[part]
        return self.train if part == "valid" else join(self.train, self.valid)


def join(first: Interactions, second: Interactions) -> Interactions:
    """Returns both sets of interactions, by user, `second` after `first`."""
    order = np.argsort(np.concatenate([first.user, second.user]), kind="stable")

    def joined(name: str) -> Any:
        return np.concatenate([getattr(first, name), getattr(second, name)])[order]

    columns: dict[str, Any] = {name: joined(name) for name in ("user", "item", "rating")}
    if first.timestamp is not None:
        columns["timestamp"] = joined("timestamp")
    return dataclasses.replace(first, **columns)


def split(interactions: Interactions, dataset: Dataset) -> Split:
    """Returns the parts that `dataset.split` asks for.

    Raises:
      UserError: timestamps that it needs are missing, or a part would be empty.
    """
    if dataset.split == "leave_last_one_out":
        return leave_last_one_out(interactions)
    if dataset.split == "random":
        return random_ratio(interactions, dataset.ratios, dataset.seed)
    if dataset.split == "random_by_user":
        return random_by_user(interactions, dataset.ratios, dataset.seed)
    if dataset.split == "strong_generalisation":
        return strong_generalisation(interactions, dataset.ratios, dataset.seed)
    return temporal(interactions, dataset.ratios)


def leave_last_one_out(interactions: Interactions) -> Split:
    """Returns each user's last interaction as test, the one before as validation, the rest as train.

    Last is by timestamp; of equal timestamps the later row. Users with fewer than 3 interactions stay in train.

    Raises:
      UserError: no timestamps, or no user has 3 interactions.
    """
    order = np.lexsort((_timestamps(interactions, "leave_last_one_out"), interactions.user))
    counts = np.bincount(interactions.user, minlength=interactions.n_users)
    user = interactions.user[order]
    from_end = np.cumsum(counts)[user] - 1 - np.arange(len(interactions))
    long_enough = counts[user] >= 3
    part = np.full(len(interactions), _TRAIN)
    part[order[long_enough & (from_end == 1)]] = _VALID
    part[order[long_enough & (from_end == 0)]] = _TEST
    return _split_by(part, interactions, "leave_last_one_out", "at least one user needs 3 interactions")


def random_ratio(interactions: Interactions, ratios: tuple[float, float, float], seed: int) -> Split:
    """Returns the interactions dealt at random to three parts of sizes `ratios`, rounded to whole rows.

    Args:
      interactions: timestamps are not needed.
      ratios: of train, validation and test; positive, sum 1.
      seed: the same seed gives the same parts.

    Raises:
      UserError: a part would be empty.
    """
    part = np.full(len(interactions), _TEST)
    train_end, valid_end = _part_ends(len(interactions), ratios)
    shuffled = np.random.default_rng(seed).permutation(len(interactions))
    part[shuffled[:valid_end]] = _VALID
    part[shuffled[:train_end]] = _TRAIN
    return _split_by(part, interactions, "random", f"use more interactions or other ratios than {ratios}")


def random_by_user(interactions: Interactions, ratios: tuple[float, float, float], seed: int) -> Split:
    """Returns each user's interactions dealt at random to three parts.

    Validation and test get their shares of the user's n interactions, rounded down but at least one where n >= 3;
    train gets the rest.

    Args:
      interactions: timestamps are not needed.
      ratios: of train, validation and test; positive, sum 1.
      seed: the same seed gives the same parts.

    Raises:
      UserError: a part would be empty.
    """
    counts = np.bincount(interactions.user, minlength=interactions.n_users)
    n_valid, n_test = (
        np.where(counts >= 3, np.maximum(np.floor(ratio * counts + 1e-9), 1), 0).astype(int) for ratio in ratios[1:]
    )
    order = _shuffled_by_user(interactions, seed)
    user = interactions.user[order]
    place = np.arange(len(interactions)) - (np.cumsum(counts) - counts)[user]  # among the user's own, from 0
    part = np.full(len(interactions), _TRAIN)
    part[order[place < (n_valid + n_test)[user]]] = _VALID
    part[order[place < n_test[user]]] = _TEST
    return _split_by(part, interactions, "random_by_user", "at least one user needs 3 interactions")


def strong_generalisation(interactions: Interactions, ratios: tuple[float, float, float], seed: int) -> Split:
    """Returns users dealt at random to three parts; of a held-out user, a fifth of the interactions is to be ranked.

    The other four fifths are folded in: the model sees them as that user's history, but never learns from them.
    Interactions with items that no training user has are dropped, as no model can know them.

    Args:
      interactions: timestamps are not needed.
      ratios: of training, validation and test users; positive, sum 1.
      seed: the same seed gives the same parts.

    Raises:
      UserError: a part would be empty.
    Source: Liang et al., Variational Autoencoders for Collaborative Filtering (WWW 2018), section 4.1.
    """
    users = np.random.default_rng((seed, 1)).permutation(interactions.n_users)
    train_end, valid_end = _part_ends(len(users), ratios)
    part_of_user = np.full(len(users), _TEST)
    part_of_user[users[:valid_end]] = _VALID
    part_of_user[users[:train_end]] = _TRAIN
    in_train = part_of_user[interactions.user] == _TRAIN
    known_item = np.bincount(interactions.item[in_train], minlength=interactions.n_items) > 0
    interactions = interactions.select(known_item[interactions.item])
    counts = np.bincount(interactions.user, minlength=interactions.n_users)
    order = _shuffled_by_user(interactions, seed)
    user = interactions.user[order]
    place = np.arange(len(interactions)) - (np.cumsum(counts) - counts)[user]
    ranked = np.zeros(len(interactions), bool)
    ranked[order[place < (counts // 5)[user]]] = True
    part = part_of_user[interactions.user]
    kept = (part == _TRAIN) | ranked
    parts = _split_by(
        part[kept],
        interactions.select(kept),
        "strong_generalisation",
        "more users, each with 5 interactions, are needed",
    )
    folded_in = {
        name: interactions.select((part == code) & ~ranked) for name, code in (("valid", _VALID), ("test", _TEST))
    }
    return dataclasses.replace(parts, folded_in=folded_in)


def _shuffled_by_user(interactions: Interactions, seed: int) -> NDArray:
    """Returns row numbers, by user, in random order within each user."""
    shuffled = np.random.default_rng(seed).permutation(len(interactions))
    return shuffled[np.argsort(interactions.user[shuffled], kind="stable")]


def temporal(interactions: Interactions, ratios: tuple[float, float, float]) -> Split:
    """Returns the interactions cut at two moments that hold for all users: train, then validation, then test.

    The moments are quantiles of the timestamps. Equal timestamps stay in one part, the earlier one, so that the
    parts may differ from `ratios` and nothing in train is later than validation, or in validation than test.

    Args:
      interactions: with timestamps.
      ratios: of train, validation and test; positive, sum 1.

    Raises:
      UserError: no timestamps, or a part would be empty.
    """
    timestamps = _timestamps(interactions, "temporal")
    part = np.full(len(interactions), _TEST)
    train_end, valid_end = _part_ends(len(interactions), ratios)
    by_time = np.sort(timestamps)
    if train_end > 0:
        part[timestamps <= by_time[valid_end - 1]] = _VALID
        part[timestamps <= by_time[train_end - 1]] = _TRAIN
    return _split_by(part, interactions, "temporal", f"use more distinct timestamps or other ratios than {ratios}")


def _timestamps(interactions: Interactions, method: str) -> Int64[np.ndarray, "E"]:
    if interactions.timestamp is None:
        raise UserError(
            f"the {method} split needs timestamps and {interactions.name} has none; "
            "add a timestamp column, or set Dataset.split=random (not for next-item models)"
        )
    return interactions.timestamp


def _part_ends(n_rows: int, ratios: tuple[float, float, float]) -> tuple[int, int]:
    """Returns how many rows train takes, and how many train and validation take together."""
    return round(ratios[0] * n_rows), round((ratios[0] + ratios[1]) * n_rows)


def _split_by(part: NDArray, interactions: Interactions, method: str, remedy: str) -> Split:
    """Returns the rows of each part, none of which may be empty."""
    for code, name in ((_TRAIN, "train"), (_VALID, "validation"), (_TEST, "test")):
        if not (part == code).any():
            raise UserError(
                f"the {method} split of {interactions.name} ({len(interactions)} interactions) leaves {name} empty; "
                f"{remedy}"
            )
    return Split(
        train=interactions.select(part == _TRAIN),
        valid=interactions.select(part == _VALID),
        test=interactions.select(part == _TEST),
    )
