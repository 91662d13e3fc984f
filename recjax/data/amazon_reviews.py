"""Amazon Reviews, the releases of 2023 and 2018: ratings of one product category, from JSON lines."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64, Shaped
from numpy.typing import NDArray

from recjax.data.interactions import Interactions
from recjax.data.json_lines import INTEGER, NUMBER, TEXT, TEXTS, first_object, read_json_lines
from recjax.data.movies import list_column
from recjax.data.repeats import keep_first
from recjax.data.text_column import LAST_SECOND
from recjax.data.typed_column import encode_strings, rows_of
from recjax.errors import UserError

NAMES = ("amazon-reviews-2023", "amazon-reviews-2018")

_SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
_META = "meta_"
_HIGHEST_RATING = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Release:
    """The fields of one release: reviews first, then the meta file."""

    name: str
    user: str
    item: str
    rating: str
    time: str
    ticks_a_second: int
    categories: str


_RELEASES = (
    _Release(
        name=NAMES[0],
        user="user_id",
        item="parent_asin",
        rating="rating",
        time="timestamp",
        ticks_a_second=1000,
        categories="categories",
    ),
    _Release(
        name=NAMES[1],
        user="reviewerID",
        item="asin",
        rating="overall",
        time="unixReviewTime",
        ticks_a_second=1,
        categories="category",
    ),
)


def load(folder: Path) -> Interactions:
    """Returns each user's first rating of every product, sorted by user, time, product.

    `folder` holds the reviews of one category, as published: `All_Beauty.jsonl` (2023), `All_Beauty.json` or
    `All_Beauty_5.json` (2018), plain or with `.gz`. The first line tells the release. The set is named after both:
    `amazon-reviews-2023-All_Beauty`. Timestamps of 2023 are milliseconds and become seconds. Texts of reviews are
    not kept; memory follows the number of reviews, not the size of the file.

    With the category's `meta_*` file beside it, products have `title` ("" unknown) and `categories` (lists, empty
    where unknown); where a product stands there twice, its first line counts.

    Raises:
      UserError: there is no one file of reviews, or a file cannot be used; the files of 2014 that are Python dicts
        instead of JSON are refused, since nothing is evaluated.

    Source: Hou et al., "Bridging Language and Items for Retrieval and Recommendation", 2024 (release 2023); Ni, Li and
    McAuley, "Justifying Recommendations using Distantly-Labeled Reviews and Fine-Grained Aspects", 2019 (2018).
    """
    path = _find_one(folder, meta=False)
    if path is None:
        raise UserError(
            f"{NAMES[0]}: {folder} holds no reviews ({', '.join(f'*{suffix}' for suffix in _SUFFIXES)}); "
            f"python -m tools.fetch_data {NAMES[0]} brings them or says how"
        )
    release = _release_of(path)
    user, item, rating, timestamp = _read_reviews(path, release)
    user_code, user_ids = encode_strings(user)
    item_code, item_ids = encode_strings(item)
    meta = _find_one(folder, meta=True)
    return keep_first(
        Interactions(
            name=f"{release.name}-{path.name.split('.')[0]}",
            user=user_code,
            item=item_code,
            rating=rating,
            timestamp=timestamp,
            user_ids=user_ids,
            item_ids=item_ids,
            item_features={} if meta is None else _read_meta(meta, release, item_ids),
        )
    )


def _find_one(folder: Path, *, meta: bool) -> Path | None:
    """Returns the one file of reviews, or the one meta file, if there is any."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [path for path in paths if path.name.endswith(_SUFFIXES) and path.name.startswith(_META) == meta]
    if len(found) > 1:
        raise UserError(
            f"{folder}: {' and '.join(path.name for path in found)} are there; expected one file of "
            f"{'products' if meta else 'reviews'}, of one category"
        )
    return found[0] if found else None


def _release_of(path: Path) -> _Release:
    fields = first_object(path)
    for release in _RELEASES:
        if release.user in fields:
            return release
    users = " or ".join(f"{release.user!r} ({release.name})" for release in _RELEASES)
    raise UserError(
        f"{path}:1: no field {users} in {', '.join(fields) or 'an empty object'}; expected reviews of either"
    )


def _read_reviews(
    path: Path, release: _Release
) -> tuple[pa.ChunkedArray, pa.ChunkedArray, Float32[np.ndarray, "E"], Int64[np.ndarray, "E"]]:
    """Returns users, products, ratings and Unix seconds."""
    fields = {release.user: TEXT, release.item: TEXT, release.rating: NUMBER, release.time: INTEGER}
    users: list[pa.Array] = []
    items: list[pa.Array] = []
    ratings: list[NDArray] = []
    times: list[NDArray] = []
    # The least millisecond refuses seconds, which would all lie in January 1970.
    first_tick = 0 if release.ticks_a_second == 1 else 10**11
    for columns in read_json_lines(path, fields):
        for name, parts in ((release.user, users), (release.item, items)):
            columns[name].check_ids()
            parts += columns[name].values.chunks
        ratings.append(columns[release.rating].floats(0, _HIGHEST_RATING))
        ticks = columns[release.time].integers(first_tick, (LAST_SECOND + 1) * release.ticks_a_second - 1)
        times.append(ticks // release.ticks_a_second)
    return pa.chunked_array(users), pa.chunked_array(items), np.concatenate(ratings), np.concatenate(times)


def _read_meta(path: Path, release: _Release, item_ids: Shaped[np.ndarray, "V"]) -> dict[str, NDArray]:
    """Returns title and categories of each item."""
    wanted = pa.array(item_ids, pa.string())
    keys: list[NDArray] = []
    titles: list[NDArray] = []
    categories: list[list[str]] = []
    for columns in read_json_lines(path, {release.item: TEXT, "title": TEXT, release.categories: TEXTS}):
        columns[release.item].check_ids()
        kept = columns[release.item].are_in(wanted)
        keys.append(columns[release.item].texts()[kept])
        titles.append(columns["title"].texts()[kept])
        lists = columns[release.categories].values.filter(pa.array(kept)).to_pylist()
        categories += [[text for text in texts or () if text is not None] for texts in lists]
    found, row = rows_of(item_ids, np.concatenate(keys))
    if not found.any():
        raise UserError(f"{path}: none of the products that are reviewed; expected the meta file of the same category")
    return {
        "title": np.where(found, np.concatenate(titles)[row], ""),
        "categories": list_column(categories[i] if known else [] for i, known in zip(row, found, strict=True)),
    }
