"""Features of the labelled task: dense columns and categorical ids of any interactions.

Shapes: E interactions, N dense features, T the fields' bag lengths summed, V items, U users, L bag length.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
from jaxtyping import Array, Float32, Int, Int32, Int64
from numpy.typing import NDArray

from recjax.data.batches import PADDING_ID
from recjax.data.histories import RatingsByOwner
from recjax.data.interactions import Interactions

SECONDS_A_DAY = 86_400
SECONDS_A_QUARTER = 91 * SECONDS_A_DAY
SECONDS_A_YEAR = 365.2425 * SECONDS_A_DAY

FeatureColumns = Callable[[Interactions], tuple[Float32[np.ndarray, "E N"], Int32[np.ndarray, "E T"]]]


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


def make_features(
    interactions: Interactions,
    train: Interactions,
    liked: Interactions | None = None,
    max_history: int = 0,
    *,
    time_features: bool = True,
) -> tuple[LabelledSchema, FeatureColumns]:
    """Returns the schema, and the function that makes `dense` [E, N] and `sparse_ids` [E, T] of any interactions.

    Categorical: user and item; hour, weekday and quarter where there are times; the item's year, and its
    genres as a bag, and the user's gender, age and occupation, where the source has them; and, asked for, `history`,
    the newest items in `liked` that the user had before the interaction, as a bag. Dense: year, number of genres,
    time, the item's age at that time. Dense features are standardised, and quarters are counted, by `train` alone.

    Args:
      interactions: the whole set, for its item and user features.
      train: the part that statistics come from.
      liked: the training interactions that make histories; None leaves `history` out.
      max_history: length of `history`.
      time_features: whether the moment of the interaction makes features, where there are times.
    """
    item_fields, user_fields = _item_fields(interactions), _user_fields(interactions)
    histories = None if liked is None else RatingsByOwner(liked, "user")
    quarters = _quarters(train.timestamp) if time_features and train.timestamp is not None else None
    time_fields = () if quarters is None else (Field("hour", 24), Field("weekday", 7), Field("quarter", quarters[1]))
    year = _filled_year(interactions)
    n_genres = (item_fields["genres"][1] != PADDING_ID).sum(1) if "genres" in item_fields else None

    def raw_dense(rows: Interactions) -> NDArray:
        columns = [np.zeros(len(rows))]  # so that there is a dense column even for bare interactions
        if year is not None:
            columns.append(year[rows.item])
        if n_genres is not None:
            columns.append(n_genres[rows.item])
        if time_features and rows.timestamp is not None:
            columns.append(1970 + rows.timestamp / SECONDS_A_YEAR)
            if year is not None:
                columns.append(columns[-1] - year[rows.item])
        return np.stack(columns[1:] or columns, 1)

    train_dense = raw_dense(train)
    mean, deviation = train_dense.mean(0), np.maximum(train_dense.std(0), 1e-6)

    def columns_of(rows: Interactions) -> tuple[NDArray, NDArray]:
        ids = [rows.user[:, None], rows.item[:, None]]
        if quarters is not None and rows.timestamp is not None:
            ids.append(_time_ids(rows.timestamp, *quarters))
        ids += [table[rows.item] for _, table in item_fields.values()]
        ids += [codes[rows.user, None] for _, codes in user_fields]
        if histories is not None:
            ids.append(histories.before(rows.user, rows.timestamp, max_history)[0])
        dense = (raw_dense(rows) - mean) / deviation
        return dense.astype(np.float32), np.concatenate(ids, 1).astype(np.int32)

    fields = (Field("user", interactions.n_users), Field("item", interactions.n_items), *time_fields)
    fields += tuple(field for field, _ in item_fields.values()) + tuple(field for field, _ in user_fields)
    if histories is not None:
        fields += (Field("history", interactions.n_items, max_history),)
    return LabelledSchema(train_dense.shape[1], fields), columns_of


def _item_fields(interactions: Interactions) -> dict[str, tuple[Field, Int32[np.ndarray, "V L"]]]:
    """Returns the item's categorical fields with every item's ids."""
    fields = {}
    if "year" in interactions.item_features:
        year = interactions.item_features["year"]
        known = ~np.isnan(year)
        table, codes = np.unique(year[known], return_inverse=True)
        ids = np.zeros((len(year), 1), np.int32)  # 0: unknown
        ids[known, 0] = codes + 1
        fields["year"] = Field("year", len(table) + 1), ids
    if "genres" in interactions.item_features:
        bags = interactions.item_features["genres"]
        names = sorted({genre for bag in bags for genre in bag})
        ids = np.full((len(bags), max(map(len, bags), default=0)), PADDING_ID, np.int32)
        for row, bag in enumerate(bags):
            ids[row, : len(bag)] = [names.index(genre) for genre in bag]
        if names:  # a source may have the column and no genre in it
            fields["genres"] = Field("genres", len(names), ids.shape[1]), ids
    return fields


def _user_fields(interactions: Interactions) -> list[tuple[Field, Int[np.ndarray, "U"]]]:
    """Returns the user's categorical fields with every user's code; unknown values share one."""
    fields = []
    for name in ("gender", "age", "occupation"):
        if name in interactions.user_features:
            table, codes = np.unique(interactions.user_features[name].astype(str), return_inverse=True)
            fields.append((Field(name, len(table)), codes))
    return fields


def _filled_year(interactions: Interactions) -> NDArray | None:
    """Returns each item's year, the mean where it is unknown; None where the source has no years, or knows none."""
    year = interactions.item_features.get("year")
    return None if year is None or np.isnan(year).all() else np.where(np.isnan(year), np.nanmean(year), year)


def _quarters(timestamp: Int64[np.ndarray, "E"]) -> tuple[int, int]:
    """Returns the first quarter (91 days, counted from 1970) of the timestamps, and how many there are."""
    quarter = timestamp // SECONDS_A_QUARTER
    return int(quarter.min()), int(quarter.max() - quarter.min() + 1)


def _time_ids(timestamp: Int64[np.ndarray, "E"], first_quarter: int, n_quarters: int) -> Int64[np.ndarray, "E 3"]:
    """Returns hour of the day, weekday (0 is Monday) and quarter; quarters outside the training part are clipped."""
    hour = timestamp % SECONDS_A_DAY // 3600
    weekday = (timestamp // SECONDS_A_DAY + 3) % 7  # January 1, 1970 was a Thursday
    quarter = np.clip(timestamp // SECONDS_A_QUARTER - first_quarter, 0, n_quarters - 1)
    return np.stack([hour, weekday, quarter], 1)
