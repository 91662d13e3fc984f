"""The rating task: a user and an item in, the rating that the user would give out.

Shapes: B batch, L row or sequence length, E ratings.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recjax.config import Dataset, Samples
from recjax.data.batches import NumpyBatch, row_chunks, shuffled_rows, take_batch
from recjax.data.histories import RatingsByOwner
from recjax.data.interactions import Interactions
from recjax.data.protocols import split_in_words
from recjax.data.splits import Split, split
from recjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class RatingSchema:
    """What a rating model must know of the data."""

    n_users: int
    n_items: int
    min_rating: float  # of the whole set: the scale
    max_rating: float
    mean_rating: float  # of the training part
    max_row: int = 0  # ratings of the longest row, for a model that reads rows
    max_history: int = 0  # interactions of a sequence, for a model that reads sequences


@dataclasses.dataclass(frozen=True)
class RatingData:
    """Ratings in three parts, with what the model reads beside (user, item).

    Attributes:
      rows: for a model of whole rows (unit "users" or "items"), the training ratings by user or by item.
      sequences: for a model that reads sequences, the training ratings by user and by item, each in time order.
    """

    name: str
    split: Split
    schema: RatingSchema
    samples: Samples
    protocol: str
    rows: RatingsByOwner | None
    sequences: Mapping[Literal["user", "item"], RatingsByOwner]
    context: Mapping[str, NDArray] = dataclasses.field(default_factory=dict)

    @property
    def selection_metric(self) -> str:
        """Returns the validation metric that chooses the epoch; lower is better."""
        return "rmse"

    @property
    def n_train(self) -> int:
        """Returns the number of training samples: ratings, or rows."""
        return len(self.split.train) if self.rows is None else len(np.unique(self.rows.owner))

    def train_batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[NumpyBatch]:
        """Yields the samples of one epoch, shuffled; `weight` [B] is 0 on padding rows.

        Unit "interactions": `user`, `item` [B] int32, `rating` [B] float32 and what `eval_batches` adds. Units
        "users" and "items": `row_ids` [B, L] int32, the items of a user or the users of an item, padded with
        PADDING_ID, and `row_ratings` [B, L] float32.
        """
        if self.rows is not None:
            owners = np.unique(self.rows.owner)
            for chosen in row_chunks(owners[shuffled_rows(len(owners), seed, epoch)], batch_size):
                yield take_batch(self._row_columns(chosen), np.arange(len(chosen)), batch_size)
            return
        for rows in row_chunks(shuffled_rows(len(self.split.train), seed, epoch), batch_size):
            yield take_batch(self._columns(self.split.train.select(rows)), np.arange(len(rows)), batch_size)

    def eval_batches(self, part: str, batch_size: int) -> Iterator[NumpyBatch]:
        """Yields the ratings of `part` ("valid" or "test") in order: `user`, `item` [B] int32, `rating` [B] float32.

        A model of rows gets the training row of the rating's user or item as `row_ids` and `row_ratings` [B, L],
        and `column` [B] int32, the item or user to predict in it. A model of sequences gets `user_items`,
        `user_ratings`, `item_users`, `item_ratings` [B, L]: the newest training ratings of the user, and of the
        item, that are older than this one, oldest first, with PADDING_ID (ratings: 0) at the end.
        """
        held_out = getattr(self.split, part)
        for rows in row_chunks(np.arange(len(held_out)), batch_size):
            yield take_batch(self._columns(held_out.select(rows)), np.arange(len(rows)), batch_size)

    def serving_samples(self) -> dict[str, NDArray]:
        """Returns the test part, at most 4,096 ratings of it, as request columns, without the ratings."""
        columns = self._columns(self.split.test.select(np.arange(min(len(self.split.test), 4096))))
        return {name: column for name, column in columns.items() if name != "rating"}

    def _columns(self, ratings: Interactions) -> dict[str, NDArray]:
        columns: dict[str, NDArray] = {"user": ratings.user, "item": ratings.item, "rating": ratings.rating}
        if self.rows is not None:
            by_user = self.samples.unit == "users"
            owner, column = (ratings.user, ratings.item) if by_user else (ratings.item, ratings.user)
            columns |= self._row_columns(owner) | {"column": column}
        for side, of_side in self.sequences.items():
            other = "items" if side == "user" else "users"
            ids, values = of_side.before(columns[side], ratings.timestamp, self.schema.max_history)
            columns |= {f"{side}_{other}": ids, f"{side}_ratings": values}
        return columns

    def _row_columns(self, owners: NDArray) -> dict[str, NDArray]:
        assert self.rows is not None
        ids, values = self.rows.before(owners, None, self.schema.max_row)
        return {"row_ids": ids, "row_ratings": values}


def rating_data(interactions: Interactions, dataset: Dataset, samples: Samples) -> RatingData:
    """Returns the task's data under the dataset's split.

    Raises:
      UserError: all ratings are equal; or the model reads sequences and the source has no times.
    """
    if interactions.rating.min() == interactions.rating.max():
        raise UserError(
            f"every rating of {interactions.name} is {interactions.rating[0]:g}, so that there is nothing to predict; "
            "use a source with ratings, or a top-n model"
        )
    if samples.history and interactions.timestamp is None:
        raise UserError(f"the model reads sequences and {interactions.name} has no times; add a timestamp column")
    parts = split(interactions, dataset)
    rows = None
    if samples.unit != "interactions":
        rows = RatingsByOwner(parts.train, "user" if samples.unit == "users" else "item")
    return RatingData(
        name=interactions.name,
        split=parts,
        schema=RatingSchema(
            n_users=interactions.n_users,
            n_items=interactions.n_items,
            min_rating=float(interactions.rating.min()),
            max_rating=float(interactions.rating.max()),
            mean_rating=float(parts.train.rating.mean()),
            max_row=int(np.bincount(rows.owner).max()) if rows else 0,
            max_history=dataset.max_history if samples.history else 0,
        ),
        samples=samples,
        protocol=f"{interactions.name}/{dataset.min_interactions}-core/{split_in_words(dataset)}/clipped_to_the_scale",
        rows=rows,
        sequences={"user": RatingsByOwner(parts.train, "user"), "item": RatingsByOwner(parts.train, "item")}
        if samples.history
        else {},
    )
