"""The next-item task: histories in, the following item out.

Shapes: B batch, L history length, V catalogue, U users.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Int32
from numpy.typing import NDArray

from recjax.config import SINGLE_INTERACTIONS, Dataset, Samples
from recjax.data.batches import (
    NumpyBatch,
    gather_windows,
    row_chunks,
    sample_candidates,
    shuffled_rows,
    take_batch,
)
from recjax.data.interactions import Interactions
from recjax.data.protocols import candidates_in_words, ranking_metric_name
from recjax.data.splits import Split, split
from recjax.errors import UserError

ORDERED_SPLITS = ("leave_last_one_out", "temporal")
PARTS = ("valid", "test")
_DRAW = 1  # tells the generator of windows from that of the order in which they are taken


@dataclasses.dataclass(frozen=True)
class NextItemSchema:
    """What a next-item model must know of the data: catalogue size V and history length L."""

    n_items: int
    max_history: int


@dataclasses.dataclass(frozen=True)
class NextItemData:
    """Training windows, and one evaluation sample a user.

    Training cuts every user's training items into windows of L + 1, the newest first, so that long
    histories are used whole; each window predicts its item i + 1 from its items up to i. With `drawn_windows`,
    every epoch takes a user's newest window and draws where the others end: as many windows, other contexts.
    """

    name: str
    split: Split
    schema: NextItemSchema
    windows: dict[str, NDArray]
    window_ends: NDArray  # [W] of the fixed cut, as positions in split.train; a user's newest window first
    protocol: str
    with_times: bool = False
    drawn_windows: bool = False
    sampled_candidates: int = 0
    seed: int = 0
    context: Mapping[str, NDArray] = dataclasses.field(default_factory=dict)
    cutoffs: tuple[int, ...] = (5, 10, 20)

    @property
    def selection_metric(self) -> str:
        """Returns the validation metric that chooses the epoch; higher is better."""
        return ranking_metric_name("ndcg@10", self.sampled_candidates)

    @property
    def n_train(self) -> int:
        """Returns the number of training samples (windows)."""
        return len(self.windows["lengths"])

    def train_batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[NumpyBatch]:
        """Yields `history` and `labels` [B, L] int32, `lengths` [B] int32, `weight` [B], shuffled.

        With times, `times` and `label_times` [B, L] int32 too: Unix seconds of `history` and of `labels`.
        """
        windows = self._draw_windows(seed, epoch) if self.drawn_windows else self.windows
        for rows in row_chunks(shuffled_rows(self.n_train, seed, epoch), batch_size):
            yield take_batch(windows, rows, batch_size)

    def eval_batches(self, part: str, batch_size: int) -> Iterator[NumpyBatch]:
        """Yields one sample a held-out user of `part` ("valid" or "test").

        Adds `user` and `target` [B] int32 and `candidates` [B, V] bool: every item that the user has not already
        interacted with before the held-out one, or a sample of them.
        """
        samples, known = self._samples(part)
        by_user = np.split(known.item, np.searchsorted(known.user, np.arange(1, known.n_users)))
        for rows in row_chunks(np.arange(len(samples["target"])), batch_size):
            batch = take_batch(samples, rows, batch_size)
            candidates_BV = np.ones((batch_size, self.schema.n_items), bool)
            for row, user in enumerate(samples["user"][rows]):
                candidates_BV[row, by_user[user]] = False
            if self.sampled_candidates:
                target_BV = np.arange(self.schema.n_items)[None] == batch["target"][:, None]
                seed = (self.seed, PARTS.index(part), int(rows[0]))
                candidates_BV = sample_candidates(candidates_BV, target_BV, self.sampled_candidates, seed)
            yield batch | {"candidates": candidates_BV}

    def serving_samples(self) -> dict[str, NDArray]:
        """Returns the test users' histories as requests: `history` [U, L], `lengths` [U] and, asked for, times."""
        samples, _ = self._samples("test")
        names = ("history", "lengths", "times", "target_time") if self.with_times else ("history", "lengths")
        return {name: samples[name] for name in names}

    def _draw_windows(self, seed: int, epoch: int) -> dict[str, NDArray]:
        """Returns as many windows of each user as the fixed cut has: the newest, and others of full length."""
        train, L = self.split.train, self.schema.max_history
        user = train.user[self.window_ends - 1]
        starts, ends = np.searchsorted(train.user, user), np.searchsorted(train.user, user, side="right")
        drawn = np.random.default_rng((seed, epoch, _DRAW)).integers(np.minimum(starts + L + 1, ends), ends + 1)
        is_newest = self.window_ends == ends
        return _cut(train, np.where(is_newest, ends, drawn), L, self.with_times)

    def _samples(self, part: str) -> tuple[dict[str, NDArray], Interactions]:
        known = self.split.known(part)
        held_out = self.split.valid if part == "valid" else self.split.test
        user, first = np.unique(held_out.user, return_index=True)
        has_history = np.isin(user, known.user)
        user, target = user[has_history], held_out.item[first[has_history]]
        starts, ends = np.searchsorted(known.user, user), np.searchsorted(known.user, user, side="right")
        L = self.schema.max_history
        history, lengths = gather_windows(known.item, np.maximum(starts, ends - L), ends, L)
        samples = {"history": history, "lengths": lengths, "target": target, "user": user}
        if self.with_times:
            samples["times"] = gather_windows(_seconds(known), np.maximum(starts, ends - L), ends, L)[0]
            samples["target_time"] = _seconds(held_out)[first[has_history]]
        return samples, known


def _seconds(interactions: Interactions) -> Int32[np.ndarray, "E"]:
    if interactions.timestamp is None:
        raise UserError(f"the model reads times and {interactions.name} has none; add a timestamp column")
    latest = int(interactions.timestamp.max(initial=0))
    if latest > np.iinfo(np.int32).max:
        raise UserError(
            f"the model reads times of 32 bits and {interactions.name} has the Unix second {latest}; allowed: up to "
            f"{np.iinfo(np.int32).max} (January 2038)"
        )
    return interactions.timestamp.astype(np.int32)


def next_item_data(
    interactions: Interactions, dataset: Dataset, samples: Samples = SINGLE_INTERACTIONS
) -> NextItemData:
    """Returns the task's data under the dataset's split.

    Args:
      interactions: sorted by user, then timestamp, as `load_interactions` gives them.
      dataset: the split and the history length L.
      samples: whether batches carry times.

    Raises:
      UserError: a random split, whose training part would hold the future of its test part; a training part in
        which nothing follows anything; or a held-out part of which no user has a history.
      ValueError: interactions in another order, whose histories would be wrong.
    """
    if dataset.split not in ORDERED_SPLITS:
        raise UserError(
            f"a next-item model cannot use Dataset.split={dataset.split!r}; allowed: {', '.join(ORDERED_SPLITS)}"
        )
    _check_order(interactions)
    parts = split(interactions, dataset)
    L = dataset.max_history
    user = parts.train.user
    starts = np.searchsorted(user, np.arange(parts.train.n_users))
    ends = np.searchsorted(user, np.arange(parts.train.n_users), side="right")
    window_ends = np.concatenate([np.arange(e, s + 1, -L) for s, e in zip(starts, ends, strict=True)])  # length >= 2
    if not len(window_ends):
        raise UserError(
            f"the {dataset.split} split of {interactions.name} leaves no user two training items in a row; use data "
            "with more interactions a user, a higher Dataset.min_interactions or other Dataset.ratios"
        )
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
        windows=_cut(parts.train, window_ends, L, samples.times),
        window_ends=window_ends,
        protocol=(
            f"{interactions.name}/{dataset.min_interactions}-core/{dataset.split}/{candidates_in_words(dataset)}/"
            f"seen_items_removed/ties_against_the_target/max_history={L}"
        ),
        with_times=samples.times,
        drawn_windows=dataset.windows == "drawn",
        sampled_candidates=dataset.sampled_candidates,
        seed=dataset.seed,
    )


def _cut(train: Interactions, ends: NDArray, max_history: int, with_times: bool) -> dict[str, NDArray]:
    """Returns the windows of at most L + 1 training items that end there, each of one user."""
    starts = np.maximum(ends - max_history - 1, np.searchsorted(train.user, train.user[ends - 1]))
    history, lengths = gather_windows(train.item, starts, ends - 1, max_history)
    windows = {"history": history, "labels": gather_windows(train.item, starts + 1, ends, max_history)[0]}
    if with_times:
        seconds = _seconds(train)
        windows["times"] = gather_windows(seconds, starts, ends - 1, max_history)[0]
        windows["label_times"] = gather_windows(seconds, starts + 1, ends, max_history)[0]
    return windows | {"lengths": lengths}


def _check_order(interactions: Interactions) -> None:
    user, timestamp = interactions.user, interactions.timestamp
    out_of_order = user[1:] < user[:-1]
    if timestamp is not None:
        out_of_order |= (user[1:] == user[:-1]) & (timestamp[1:] < timestamp[:-1])
    if out_of_order.any():
        raise ValueError(f"interactions of {interactions.name} must be sorted by user, then timestamp")
