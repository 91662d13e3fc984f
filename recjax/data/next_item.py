"""The next-item task: histories in, the following item out.

Shapes: B batch, L history length, V catalogue, U users.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int32
from numpy.typing import NDArray

from recjax.config import Dataset
from recjax.data.batches import NumpyBatch, row_chunks, shuffled_rows, take_batch
from recjax.data.interactions import Interactions
from recjax.data.splits import Split, split
from recjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class NextItemSchema:
    """What a next-item model must know of the data: catalogue size V and history length L."""

    n_items: int
    max_history: int


@dataclasses.dataclass(frozen=True)
class NextItemData:
    """Training windows, and one evaluation sample a user.

    Training cuts every user's training items into windows of L + 1, the newest first, so that long
    histories are used whole; each window predicts its item i + 1 from its items up to i.
    """

    name: str
    split: Split
    schema: NextItemSchema
    windows: dict[str, NDArray]
    protocol: str

    @property
    def selection_metric(self) -> str:
        """Returns the validation metric that chooses the epoch; higher is better."""
        return "ndcg@10"

    @property
    def n_train(self) -> int:
        """Returns the number of training samples (windows)."""
        return len(self.windows["lengths"])

    def train_batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[NumpyBatch]:
        """Yields `history` and `labels` [B, L] int32, `lengths` [B] int32, `weight` [B], shuffled."""
        for rows in row_chunks(shuffled_rows(self.n_train, seed, epoch), batch_size):
            yield take_batch(self.windows, rows, batch_size)

    def eval_batches(self, part: str, batch_size: int) -> Iterator[NumpyBatch]:
        """Yields one sample a held-out user of `part` ("valid" or "test").

        Adds `target` [B] int32 and `candidates` [B, V] bool: every item that the user has not already
        interacted with before the held-out one.
        """
        samples, known = self._samples(part)
        by_user = np.split(known.item, np.searchsorted(known.user, np.arange(1, known.n_users)))
        for rows in row_chunks(np.arange(len(samples["target"])), batch_size):
            batch = take_batch(samples, rows, batch_size)
            candidates_BV = np.ones((batch_size, self.schema.n_items), bool)
            for row, user in enumerate(samples["user"][rows]):
                candidates_BV[row, by_user[user]] = False
            yield batch | {"candidates": candidates_BV}

    def serving_samples(self) -> dict[str, NDArray]:
        """Returns the test users' histories as request columns: `history` [U, L], `lengths` [U]."""
        samples, _ = self._samples("test")
        return {name: samples[name] for name in ("history", "lengths")}

    def _samples(self, part: str) -> tuple[dict[str, NDArray], Interactions]:
        known = self.split.train if part == "valid" else _join(self.split.train, self.split.valid)
        held_out = self.split.valid if part == "valid" else self.split.test
        user, first = np.unique(held_out.user, return_index=True)
        has_history = np.isin(user, known.user)
        user, target = user[has_history], held_out.item[first[has_history]]
        starts, ends = np.searchsorted(known.user, user), np.searchsorted(known.user, user, side="right")
        L = self.schema.max_history
        history, lengths = _gather_windows(known.item, np.maximum(starts, ends - L), ends, L)
        return {"history": history, "lengths": lengths, "target": target, "user": user}, known


def next_item_data(interactions: Interactions, dataset: Dataset) -> NextItemData:
    """Returns the task's data under the dataset's split.

    Args:
      interactions: sorted by user, then timestamp, as `load_interactions` gives them.
      dataset: the split and the history length L.

    Raises:
      UserError: a random split, whose training part would hold the future of its test part; a training part in
        which nothing follows anything; or a held-out part of which no user has a history.
      ValueError: interactions in another order, whose histories would be wrong.
    """
    if dataset.split == "random":
        raise UserError("a next-item model cannot use Dataset.split='random'; allowed: leave_last_one_out, temporal")
    _check_order(interactions)
    parts = split(interactions, dataset)
    L = dataset.max_history
    item, user = parts.train.item, parts.train.user
    starts = np.searchsorted(user, np.arange(parts.train.n_users))
    ends = np.searchsorted(user, np.arange(parts.train.n_users), side="right")
    window_ends = np.concatenate([np.arange(e, s + 1, -L) for s, e in zip(starts, ends, strict=True)])  # length >= 2
    window_starts = np.maximum(window_ends - L - 1, starts[user[window_ends - 1]])
    if not len(window_ends):
        raise UserError(
            f"the {dataset.split} split of {interactions.name} leaves no user two training items in a row; use data "
            "with more interactions a user, a higher Dataset.min_interactions or other Dataset.ratios"
        )
    history, lengths = _gather_windows(item, window_starts, window_ends - 1, L)
    labels, _ = _gather_windows(item, window_starts + 1, window_ends, L)
    for part, known, held_out in (
        ("validation", parts.train.user, parts.valid.user),
        ("test", np.concatenate([parts.train.user, parts.valid.user]), parts.test.user),
    ):
        if not np.isin(held_out, known).any():
            raise UserError(
                f"the {dataset.split} split of {interactions.name} leaves no user of the {part} part with a history; "
                "use leave_last_one_out or other Dataset.ratios"
            )
    return NextItemData(
        name=interactions.name,
        split=parts,
        schema=NextItemSchema(interactions.n_items, L),
        windows={"history": history, "labels": labels, "lengths": lengths},
        protocol=(
            f"{interactions.name}/{dataset.min_interactions}-core/{dataset.split}/full_catalogue/"
            f"seen_items_removed/ties_against_the_target/max_history={L}"
        ),
    )


def _check_order(interactions: Interactions) -> None:
    user, timestamp = interactions.user, interactions.timestamp
    out_of_order = user[1:] < user[:-1]
    if timestamp is not None:
        out_of_order |= (user[1:] == user[:-1]) & (timestamp[1:] < timestamp[:-1])
    if out_of_order.any():
        raise ValueError(f"interactions of {interactions.name} must be sorted by user, then timestamp")


def _gather_windows(
    item: Int32[np.ndarray, "E"], starts: NDArray, ends: NDArray, width: int
) -> tuple[Int32[np.ndarray, "W L"], Int32[np.ndarray, "W"]]:
    """Returns item[start:end] of each window, padded at the end with 0 to `width`, and the lengths."""
    lengths = (ends - starts).astype(np.int32)
    positions = np.arange(width)
    used = positions[None] < lengths[:, None]
    return np.where(used, item[np.where(used, starts[:, None] + positions, 0)], 0).astype(np.int32), lengths


def _join(first: Interactions, second: Interactions) -> Interactions:
    """Returns both sets of interactions, by user, `second` after `first`."""
    order = np.argsort(np.concatenate([first.user, second.user]), kind="stable")

    def joined(name: str) -> Any:
        return np.concatenate([getattr(first, name), getattr(second, name)])[order]

    columns: dict[str, Any] = {name: joined(name) for name in ("user", "item", "rating", "timestamp")}
    return dataclasses.replace(first, **columns)
