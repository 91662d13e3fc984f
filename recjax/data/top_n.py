"""The top-n task: a user, or a user's items in no order, in; the items to recommend out.

Shapes: B batch, L longest history, V catalogue, K negatives, E training interactions.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int, Int64
from numpy.typing import NDArray

from recjax.config import Dataset, Samples
from recjax.data.batches import (
    NumpyBatch,
    row_chunks,
    sample_candidates,
    shuffled_rows,
    take_batch,
)
from recjax.data.histories import ItemsByUser
from recjax.data.interactions import Interactions
from recjax.data.protocols import candidates_in_words, ranking_metric_name, split_in_words
from recjax.data.splits import Split, split
from recjax.errors import UserError

PARTS = ("valid", "test")
MOST_REQUESTS = 4096  # users whose histories are held as requests
_REDRAWS = 50  # of negatives that the user knows; what is left after them stays


@dataclasses.dataclass(frozen=True)
class TopNSchema:
    """What a top-n model must know of the data; the graph's sizes are 0 where there is none."""

    n_users: int
    n_items: int
    max_history: int  # items of the longest history, to which all are padded
    n_entities: int = 0
    n_relations: int = 0


@dataclasses.dataclass(frozen=True)
class TopNData:
    """Training samples of the unit that the model learns from, and one evaluation sample a held-out user.

    Attributes:
      cutoffs: of the ranking metrics.
      context: arrays that every batch carries whole, of the graphs that the model asked for, and `item_counts` [V]
        float32, the training interactions of each item.
    """

    name: str
    split: Split
    schema: TopNSchema
    samples: Samples
    protocol: str
    cutoffs: tuple[int, ...]
    sampled_candidates: int
    seed: int
    context: Mapping[str, NDArray]

    @property
    def selection_metric(self) -> str:
        """Returns the validation metric that chooses the epoch; higher is better."""
        return ranking_metric_name("ndcg@100" if 100 in self.cutoffs else "ndcg@10", self.sampled_candidates)

    @property
    def n_train(self) -> int:
        """Returns the number of training samples of the model's unit."""
        train = self.split.train
        return {"interactions": len(train), "users": len(np.unique(train.user)), "everything": 1}[self.samples.unit]

    def train_batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[NumpyBatch]:
        """Yields the samples of one epoch, shuffled; `weight` [B] is 0 on padding rows.

        Unit "interactions": `user` and `item` [B] int32, `negatives` [B, K] int32 (items the user has not in
        training) and, asked for, `history` [B, L] int32, the user's training items, that item among them, padded
        with PADDING_ID. Unit "users": `user` and `history`. Unit "everything": one batch, `user` and `item` [E].
        """
        train = self.split.train
        if self.samples.unit == "everything":
            yield {"user": train.user, "item": train.item, "weight": np.ones(len(train), np.float32)}
            return
        histories, width = ItemsByUser(train), self.schema.max_history
        if self.samples.unit == "users":
            users = np.unique(train.user)
            for rows in row_chunks(users[shuffled_rows(len(users), seed, epoch)], batch_size):
                yield take_batch(
                    {"user": rows, "history": histories.padded(rows, width)}, np.arange(len(rows)), batch_size
                )
            return
        rng = np.random.default_rng((seed, epoch, 1))
        known = np.sort(_keys(train.user, train.item, self.schema.n_items))
        for rows in row_chunks(shuffled_rows(len(train), seed, epoch), batch_size):
            user, item = train.user[rows], train.item[rows]
            columns = {"user": user, "item": item}
            if self.samples.negatives:
                columns["negatives"] = draw_negatives(rng, user, self.samples.negatives, known, self.schema.n_items)
            if self.samples.history:
                columns["history"] = histories.padded(user, width)
            yield take_batch(columns, np.arange(len(rows)), batch_size)

    def eval_batches(self, part: str, batch_size: int) -> Iterator[NumpyBatch]:
        """Yields one sample a user who has held-out items in `part` ("valid" or "test").

        `user` [B] int32; `history` [B, L] int32, what the model may know, which is the training part (or what is
        folded in), for the test too; `relevant` [B, V] bool, the held-out items; `candidates` [B, V] bool, every
        item that is in no earlier part, or a sample of them.
        """
        held_out, known = ItemsByUser(getattr(self.split, part)), ItemsByUser(self.split.known(part))
        histories = ItemsByUser(self._history_part(part))
        for users in row_chunks(np.unique(held_out.user), batch_size):
            columns = {"user": users, "history": histories.padded(users, self.schema.max_history)}
            candidates_BV = ~known.members(users)
            relevant_BV = held_out.members(users) & candidates_BV
            if self.sampled_candidates:
                seed = (self.seed, PARTS.index(part), int(users[0]))
                candidates_BV = sample_candidates(candidates_BV, relevant_BV, self.sampled_candidates, seed)
            columns |= {"relevant": relevant_BV, "candidates": candidates_BV}
            yield take_batch(columns, np.arange(len(users)), batch_size)

    def serving_samples(self) -> dict[str, NDArray]:
        """Returns requests of test users: `user` [U] int32, `history` [U, L] int32, which is never recommended again.

        At most MOST_REQUESTS users, drawn at random, because a request holds a whole history.
        """
        users = np.unique(self.split.test.user)
        if len(users) > MOST_REQUESTS:
            users = np.sort(np.random.default_rng(self.seed).choice(users, MOST_REQUESTS, replace=False))
        histories = ItemsByUser(self._history_part("test"))
        return {"user": users, "history": histories.padded(users, self.schema.max_history)}

    def _history_part(self, part: str) -> Interactions:
        return self.split.train if self.split.folded_in is None else self.split.folded_in[part]


def top_n_data(interactions: Interactions, dataset: Dataset, samples: Samples) -> TopNData:
    """Returns the task's data under the dataset's split; every interaction is a positive, whatever its rating.

    An item that a user has more than once counts once, in the part that holds its first row.

    Args:
      interactions: of any order.
      dataset: the split and the candidates.
      samples: what the model learns from.

    Raises:
      UserError: the split's held-out users are unknown in training and the model reads no history; or the source
        lacks a graph that the model asks for.
    """
    _, first = np.unique(_keys(interactions.user, interactions.item, interactions.n_items), return_index=True)
    parts = split(interactions.select(np.sort(first)), dataset)
    reads_rows = (samples.history or samples.unit == "users") and not samples.known_users_only
    if parts.folded_in is not None and not reads_rows:
        raise UserError(
            "a model of user embeddings knows no user outside its training part, which Dataset.split="
            "'strong_generalisation' asks for; use a model that reads histories, or split='random_by_user'"
        )
    longest = max(
        int(np.bincount(part.user).max(initial=0)) for part in (parts.train, *(parts.folded_in or {}).values())
    )
    knowledge = interactions.knowledge if "knowledge" in samples.context else None
    return TopNData(
        name=interactions.name,
        split=parts,
        schema=TopNSchema(
            n_users=interactions.n_users,
            n_items=interactions.n_items,
            max_history=longest,
            n_entities=knowledge.n_entities if knowledge else 0,
            n_relations=knowledge.n_relations if knowledge else 0,
        ),
        samples=samples,
        protocol=(
            f"{interactions.name}/{dataset.min_interactions}-core/{split_in_words(dataset)}/"
            f"{candidates_in_words(dataset)}/seen_items_removed/ties_against_the_target"
        ),
        cutoffs=(20, 50, 100) if parts.folded_in is not None else (5, 10, 20),
        sampled_candidates=dataset.sampled_candidates,
        seed=dataset.seed,
        context=_context(interactions, parts.train, samples),
    )


def draw_negatives(
    rng: np.random.Generator, user: NDArray, n: int, known: Int64[np.ndarray, "E"], n_items: int
) -> Int[np.ndarray, "B K"]:
    """Returns n items for each user, uniform over those that the user does not have in `known` (sorted keys).

    A user who has nearly every item may get some that are known: redrawing stops after 50 rounds.
    """
    negatives = rng.integers(n_items, size=(len(user), n))
    for _ in range(_REDRAWS):
        keys = _keys(user[:, None], negatives, n_items)
        place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        taken = known[place] == keys
        if not taken.any():
            break
        negatives[taken] = rng.integers(n_items, size=int(taken.sum()))
    return negatives.astype(np.int32)


def _keys(user: NDArray, item: NDArray, n_items: int) -> NDArray:
    """Returns one int64 a (user, item) pair."""
    return user.astype(np.int64) * n_items + item


def _context(interactions: Interactions, train: Interactions, samples: Samples) -> dict[str, NDArray]:
    context: dict[str, Any] = {}
    context["item_counts"] = np.bincount(train.item, minlength=train.n_items).astype(np.float32)
    if "interactions" in samples.context:
        context |= {"train_user": train.user, "train_item": train.item}
    if "trust" in samples.context:
        if interactions.trust is None:
            raise UserError(f"the model needs trust edges and {interactions.name} has none; use filmtrust or epinions")
        context |= {"truster": interactions.trust[0], "trustee": interactions.trust[1]}
    if "knowledge" in samples.context:
        if interactions.knowledge is None:
            raise UserError(f"the model needs a knowledge graph and {interactions.name} has none; use ml-100k")
        graph = interactions.knowledge
        context |= {"head": graph.head, "relation": graph.relation, "tail": graph.tail}
    return context
