"""The labelled task: features of a (user, item, moment) in, probability of a positive label out.

Shapes: B batch, N dense features, T the fields' bag lengths summed, E interactions.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from recjax.config import SINGLE_INTERACTIONS, Dataset, Samples
from recjax.data.batches import NumpyBatch, row_chunks, shuffled_rows, take_batch
from recjax.data.features import LabelledSchema, make_features
from recjax.data.interactions import Interactions
from recjax.data.protocols import split_in_words
from recjax.data.splits import split
from recjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class LabelledData:
    """Feature columns and labels of every part."""

    name: str
    schema: LabelledSchema
    parts: dict[str, dict[str, NDArray]]
    protocol: str
    context: Mapping[str, NDArray] = dataclasses.field(default_factory=dict)

    @property
    def selection_metric(self) -> str:
        """Returns the validation metric that chooses the epoch; higher is better."""
        return "auc"

    @property
    def n_train(self) -> int:
        """Returns the number of training samples."""
        return len(self.parts["train"]["labels"])

    @property
    def train_positive_share(self) -> float:
        """Returns the share of positive labels in the training part."""
        return float(self.parts["train"]["labels"].mean())

    def train_batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[NumpyBatch]:
        """Yields `dense` [B, N], `sparse_ids` [B, T], `labels` [B], `weight` [B], shuffled."""
        for rows in row_chunks(shuffled_rows(self.n_train, seed, epoch), batch_size):
            yield take_batch(self.parts["train"], rows, batch_size)

    def eval_batches(self, part: str, batch_size: int) -> Iterator[NumpyBatch]:
        """Yields the samples of `part` ("valid" or "test") in order."""
        for rows in row_chunks(np.arange(len(self.parts[part]["labels"])), batch_size):
            yield take_batch(self.parts[part], rows, batch_size)

    def serving_samples(self) -> dict[str, NDArray]:
        """Returns the test samples as request columns: `dense` [E, N], `sparse_ids` [E, T]."""
        return {name: self.parts["test"][name] for name in ("dense", "sparse_ids")}


def labelled_data(interactions: Interactions, dataset: Dataset, samples: Samples = SINGLE_INTERACTIONS) -> LabelledData:
    """Returns the task's data under the dataset's split; a label is `rating >= positive_rating`.

    Args:
      interactions: of any order.
      dataset: the split, the labels, and the length of a history.
      samples: whether each sample has the user's history.

    Raises:
      UserError: a part has labels of one kind only.
    """
    parts = split(interactions, dataset)
    liked = None
    if samples.history:
        if interactions.timestamp is None:
            raise UserError(f"the model reads histories and {interactions.name} has no times; add a timestamp column")
        liked = parts.train.select(parts.train.rating >= dataset.positive_rating)
    schema, feature_columns = make_features(
        interactions, parts.train, liked, dataset.max_history, time_features=dataset.time_features
    )
    columns = {}
    for part in ("train", "valid", "test"):
        rows = getattr(parts, part)
        dense, sparse_ids = feature_columns(rows)
        labels = (rows.rating >= dataset.positive_rating).astype(np.float32)
        if labels.min() == labels.max():
            raise UserError(
                f"every label of the {part} part of {interactions.name} is {labels[0]:g}, so that there is nothing to "
                f"tell apart; positive is rating >= {dataset.positive_rating:g}: change Dataset.positive_rating or the "
                "split"
            )
        columns[part] = {"dense": dense, "sparse_ids": sparse_ids, "labels": labels}
    return LabelledData(
        name=interactions.name,
        schema=schema,
        parts=columns,
        protocol=(
            f"{interactions.name}/{dataset.min_interactions}-core/{split_in_words(dataset)}/label=rating>={dataset.positive_rating:g}"
            + ("" if dataset.time_features else "/no_time_features")
        ),
    )
