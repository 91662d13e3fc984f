"""MIND: clicks on news, and the impressions that they come from, of one part (train or dev) as published."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float32, Int32, Int64, Shaped
from numpy.typing import NDArray

from recjax.data.folders import require_files
from recjax.data.interactions import Interactions
from recjax.data.repeats import keep_first
from recjax.data.text_column import TextColumn, shown
from recjax.data.text_table import read_table
from recjax.errors import UserError

NAMES = ("mind-small", "mind-large")

_BEHAVIORS = ("impression_id", "user_id", "time", "history", "impressions")
_NEWS = ("news_id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities")
_NEWS_TEXTS = ("category", "subcategory", "title", "abstract")
_MOMENT = (
    r"^(?P<month>[0-9]{1,2})/(?P<day>[0-9]{1,2})/(?P<year>[0-9]{4}) "
    r"(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2}) (?P<half>AM|PM)$"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Impressions:
    """R impressions, each of which showed some of E news in all to a user who had clicked on some of H before.

    Attributes:
      user: [R] int32 codes that index `user_ids`.
      timestamp: [R] int64 Unix seconds; the source names no time zone and UTC is assumed.
      history: [H] int32 codes of news; impression r has history[history_start[r] : history_start[r + 1]], oldest first.
      history_start: [R + 1] int64.
      impression: [E] int32, which of the R a shown item belongs to; ascending.
      item: [E] int32 codes that index `item_ids`.
      label: [E] float32, 1.0 for a click, else 0.0.
      user_ids: [n_users] as in the source.
      item_ids: [n_items] all of `news.tsv`.
      item_features: `category`, `subcategory`, `title` and `abstract`, texts of n_items rows.
    """

    user: Int32[np.ndarray, "R"]
    timestamp: Int64[np.ndarray, "R"]
    history: Int32[np.ndarray, "H"]
    history_start: Int64[np.ndarray, "R+1"]
    impression: Int32[np.ndarray, "E"]
    item: Int32[np.ndarray, "E"]
    label: Float32[np.ndarray, "E"]
    user_ids: NDArray
    item_ids: NDArray
    item_features: dict[str, NDArray]


def load(folder: Path) -> Interactions:
    """Returns each user's first click on every news item, sorted by user, time, item; the set is named as its folder.

    Clicks are those inside impressions: the clicks of the history have no times. The rating is 1.0. News have the
    texts `category`, `subcategory`, `title` and `abstract`; news that nobody clicked on are left out.

    Args:
      folder: with `behaviors.tsv` and `news.tsv` of one part with labels, such as MINDsmall_train.

    Raises:
      UserError: a file is missing or cannot be used, or nothing was clicked on.

    Source: Wu et al., "MIND: A Large-scale Dataset for News Recommendation", ACL 2020.
    """
    shown_news = load_impressions(folder)
    clicked = shown_news.label == 1
    if not clicked.any():
        raise UserError(f"{folder / 'behaviors.tsv'}, column 'impressions': no click in any row; expected some 'N1-1'")
    row = shown_news.impression[clicked]
    clicks = Interactions(
        name=folder.name,
        user=shown_news.user[row],
        item=shown_news.item[clicked],
        rating=np.ones(len(row), np.float32),
        timestamp=shown_news.timestamp[row],
        user_ids=shown_news.user_ids,
        item_ids=shown_news.item_ids,
        item_features=shown_news.item_features,
    )
    return keep_first(clicks.k_core(1))


def load_impressions(folder: Path) -> Impressions:
    """Returns the impressions with their labels, in the order of the file: the data of a click-through-rate model.

    Args:
      folder: with `behaviors.tsv` and `news.tsv` of one part with labels, such as MINDsmall_train.

    Raises:
      UserError: a file is missing or cannot be used, such as that of MINDlarge_test, which has no labels.
    """
    require_files(folder.name, folder, "behaviors.tsv", "news.tsv")
    news = read_table(folder / "news.tsv", _NEWS, delimiter="\t", header=False)
    item_ids, news_row = news["news_id"].keys(integers=False)
    rows = read_table(folder / "behaviors.tsv", _BEHAVIORS, delimiter="\t", header=False)
    rows["impression_id"].keys()
    user, user_ids = rows["user_id"].ids()

    history, lengths = _split(rows["history"])
    history_item = _news_of(history, rows["history"], lengths, item_ids)
    candidates, n_candidates = _split(rows["impressions"])
    rows["impressions"].check_rows(n_candidates > 0, "news and labels such as 'N1-0 N2-1'")
    item, label = _labelled_news_of(candidates, rows["impressions"], n_candidates, item_ids)
    return Impressions(
        user=user,
        timestamp=_unix_seconds(rows["time"]),
        history=history_item,
        history_start=np.concatenate([[0], np.cumsum(lengths)]),
        impression=np.repeat(np.arange(len(user), dtype=np.int32), n_candidates),
        item=item,
        label=label,
        user_ids=user_ids,
        item_ids=item_ids,
        item_features={name: news[name].texts()[news_row] for name in _NEWS_TEXTS},
    )


def _split(column: TextColumn) -> tuple[pa.DictionaryArray, Int64[np.ndarray, "R"]]:
    """Returns the words of all rows, one after the other, and how many each row has."""
    text = pc.utf8_trim_whitespace(column.text)
    words = pc.utf8_split_whitespace(text)
    lengths = np.where(pc.equal(text, "").to_numpy(), 0, pc.list_value_length(words).to_numpy())
    flat = pc.list_flatten(words)
    return flat.filter(pc.not_equal(flat, "")).dictionary_encode().combine_chunks(), lengths.astype(np.int64)


def _news_of(
    words: pa.DictionaryArray, column: TextColumn, lengths: NDArray, item_ids: Shaped[np.ndarray, "V"]
) -> Int32[np.ndarray, "H"]:
    """Returns the code of every word, which must be a news id."""
    found = pc.index_in(words.dictionary, value_set=pa.array([str(name) for name in item_ids.tolist()], pa.string()))
    _check_words(found.is_valid(), words, column, lengths, "ids of news.tsv")
    return found.to_numpy()[words.indices.to_numpy()]


def _labelled_news_of(
    words: pa.DictionaryArray, column: TextColumn, lengths: NDArray, item_ids: Shaped[np.ndarray, "V"]
) -> tuple[Int32[np.ndarray, "E"], Float32[np.ndarray, "E"]]:
    """Returns the code and the label of every word, which must be a news id, a dash and 0 or 1."""
    is_labelled = pc.match_substring_regex(words.dictionary, "^.+-[01]$")
    _check_words(is_labelled, words, column, lengths, "news and labels such as 'N1-0 N2-1' (train and dev have labels)")
    labels = pc.ends_with(words.dictionary, "1").to_numpy(zero_copy_only=False).astype(np.float32)
    ids = pa.DictionaryArray.from_arrays(words.indices, pc.utf8_slice_codeunits(words.dictionary, 0, -2))
    return _news_of(ids, column, lengths, item_ids), labels[words.indices.to_numpy()]


def _check_words(
    valid: pa.BooleanArray, words: pa.DictionaryArray, column: TextColumn, lengths: NDArray, expected: str
) -> None:
    """Raises UserError at the first row that has a word whose distinct value is not `valid`."""
    if pc.all(valid).as_py() is not False:
        return
    bad = int(np.argmin(valid.to_numpy(zero_copy_only=False)[words.indices.to_numpy()]))
    row = int(np.searchsorted(np.cumsum(lengths), bad, side="right"))
    raise UserError(
        f"{column.path}:{column.line(row)}, column {column.name!r}: {shown(words[bad].as_py())}; expected {expected}"
    )


def _unix_seconds(column: TextColumn) -> Int64[np.ndarray, "R"]:
    """Returns Unix seconds of moments such as "11/9/2019 8:55:22 AM", taken as UTC."""
    expected = "a moment such as '11/9/2019 8:55:22 AM'"
    values, codes = column.distinct
    fields = pc.extract_regex(values, _MOMENT)
    column.check(fields.is_valid(), expected)
    number = {
        name: pc.struct_field(fields, name).cast(pa.int64()).to_numpy()
        for name in ("year", "month", "day", "hour", "minute", "second")
    }
    is_pm = pc.equal(pc.struct_field(fields, "half"), "PM").to_numpy(zero_copy_only=False)
    month = ((number["year"] - 1970) * 12 + number["month"] - 1).astype("datetime64[M]")
    day = month.astype("datetime64[D]") + (number["day"] - 1)
    is_date = (
        (number["year"] >= 1970)
        & (number["month"] >= 1)
        & (number["month"] <= 12)
        & (day.astype("datetime64[M]") == month)
    )
    is_time = (number["hour"] >= 1) & (number["hour"] <= 12) & (number["minute"] < 60) & (number["second"] < 60)
    column.check(pa.array(is_date & is_time), expected)
    hour = number["hour"] % 12 + 12 * is_pm
    return (day.astype(np.int64) * 86_400 + hour * 3600 + number["minute"] * 60 + number["second"])[codes]
