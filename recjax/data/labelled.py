"""The binary task: features of a (user, item, moment) in, probability of a positive label out.

Shapes: B batch, N dense features, F categorical fields, T the fields' bag lengths summed, E interactions.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
from jaxtyping import Array, Int
from numpy.typing import NDArray

from recjax.config import Dataset
from recjax.data.batches import PADDING_ID, NumpyBatch, row_chunks, shuffled_rows, take_batch
from recjax.data.interactions import Interactions
from recjax.data.splits import Split, split

SECONDS_A_DAY = 86_400
SECONDS_A_QUARTER = 91 * SECONDS_A_DAY
SECONDS_A_YEAR = 365.2425 * SECONDS_A_DAY

FeatureColumns = Callable[[Interactions], tuple[NDArray, NDArray]]


@dataclasses.dataclass(frozen=True)
class Field:
    """One categorical field: ids in [0, vocab_size), `length` of them a sample (a bag when above 1)."""

    name: str
    vocab_size: int
    length: int = 1
    combiner: Literal["sum", "mean"] = "mean"


@dataclasses.dataclass(frozen=True)
class LabelledSchema:
    """What a binary model must know of the data."""

    n_dense: int
    fields: tuple[Field, ...]

    def split_fields(self, sparse_ids_BT: Int[Array, "B T"]) -> Iterator[tuple[Field, Int[Array, "B L"]]]:
        """Yields each field with its own columns of `sparse_ids`."""
        start = 0
        for field in self.fields:
            yield field, sparse_ids_BT[:, start : start + field.length]
            start += field.length


@dataclasses.dataclass(frozen=True)
class LabelledData:
    """Feature columns and labels of every part."""

    name: str
    schema: LabelledSchema
    parts: dict[str, dict[str, NDArray]]
    protocol: str

    @property
    def selection_metric(self) -> str:
        """Returns the validation metric that chooses the epoch; higher is better."""
        return "auc"

    @property
    def n_train(self) -> int:
        """Returns the number of training samples."""
        return len(self.parts["train"]["labels"])

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


def labelled_data(interactions: Interactions, dataset: Dataset) -> LabelledData:
    """Returns the task's data under the dataset's split; a label is `rating >= positive_rating`."""
    parts = split(interactions, dataset)
    schema, feature_columns = _features(interactions, parts)
    columns = {}
    for part in ("train", "valid", "test"):
        rows = getattr(parts, part)
        dense, sparse_ids = feature_columns(rows)
        labels = (rows.rating >= dataset.positive_rating).astype(np.float32)
        columns[part] = {"dense": dense, "sparse_ids": sparse_ids, "labels": labels}
    ratios = ":".join(f"{10 * ratio:g}" for ratio in dataset.ratios)
    return LabelledData(
        name=interactions.name,
        schema=schema,
        parts=columns,
        protocol=(
            f"{interactions.name}/{dataset.min_interactions}-core/{dataset.split}_{ratios}/seed={dataset.seed}/"
            f"label=rating>={dataset.positive_rating:g}"
        ),
    )


def _features(interactions: Interactions, parts: Split) -> tuple[LabelledSchema, FeatureColumns]:
    """Returns the schema and the function that makes `dense` and `sparse_ids` of any interactions.

    Categorical: user and item; hour, weekday and quarter where there are times; the item's year, and its
    genres as a bag, where the source has them. Dense: year, time, the item's age at that time, and how
    many genres it has. Dense features are standardised, and quarters are counted, by the training part.
    """
    item_dense: dict[str, NDArray] = {}
    item_fields: list[tuple[Field, NDArray]] = []
    if "year" in interactions.item_features:
        year = interactions.item_features["year"]
        known = ~np.isnan(year)
        table, codes = np.unique(year[known], return_inverse=True)
        ids = np.zeros(len(year), np.int32)  # 0: unknown
        ids[known] = codes + 1
        item_fields.append((Field("year", len(table) + 1), ids[:, None]))
        item_dense["year"] = np.where(known, year, np.nanmean(year))
    if "genres" in interactions.item_features:
        bags = interactions.item_features["genres"]
        names = sorted({genre for bag in bags for genre in bag})
        ids = np.full((len(bags), max(map(len, bags))), PADDING_ID, np.int32)
        for row, bag in enumerate(bags):
            ids[row, : len(bag)] = [names.index(genre) for genre in bag]
        item_fields.append((Field("genres", len(names), ids.shape[1]), ids))
        item_dense["n_genres"] = (ids != PADDING_ID).sum(1)

    has_time = interactions.timestamp is not None
    first_quarter = parts.train.timestamp.min() // SECONDS_A_QUARTER if has_time else 0
    n_quarters = int(parts.train.timestamp.max() // SECONDS_A_QUARTER - first_quarter + 1) if has_time else 0
    time_fields = (Field("hour", 24), Field("weekday", 7), Field("quarter", n_quarters)) if has_time else ()

    def raw_dense(rows: Interactions) -> NDArray:
        columns = [values[rows.item] for values in item_dense.values()]
        if has_time:
            columns.append(rows.timestamp / SECONDS_A_YEAR)
            if "year" in item_dense:
                columns.append(1970 + rows.timestamp / SECONDS_A_YEAR - item_dense["year"][rows.item])
        return np.stack(columns, 1) if columns else np.zeros((len(rows), 1))

    train_dense = raw_dense(parts.train)
    mean, deviation = train_dense.mean(0), np.maximum(train_dense.std(0), 1e-6)

    def columns_of(rows: Interactions) -> tuple[NDArray, NDArray]:
        ids = [rows.user[:, None], rows.item[:, None]]
        if has_time:
            quarter = np.clip(rows.timestamp // SECONDS_A_QUARTER - first_quarter, 0, n_quarters - 1)
            weekday = (rows.timestamp // SECONDS_A_DAY + 3) % 7  # January 1, 1970 was a Thursday; 0 is Monday
            ids += [column[:, None] for column in (rows.timestamp % SECONDS_A_DAY // 3600, weekday, quarter)]
        ids += [table[rows.item] for _, table in item_fields]
        dense = (raw_dense(rows) - mean) / deviation
        return dense.astype(np.float32), np.concatenate(ids, 1).astype(np.int32)

    fields = (
        Field("user", interactions.n_users),
        Field("item", interactions.n_items),
        *time_fields,
        *(field for field, _ in item_fields),
    )
    return LabelledSchema(train_dense.shape[1], fields), columns_of
