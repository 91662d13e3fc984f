"""The MovieLens latest-small set that travels inside the package (its LICENSE.md stands beside it)."""

from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64
from numpy.typing import NDArray

from recjax.data.interactions import Interactions
from recjax.data.movies import split_genres
from recjax.data.parquet_table import read_parquet
from recjax.data.text_column import LAST_SECOND
from recjax.data.typed_column import TypedColumn, encode_integers, rows_of
from recjax.errors import UserError

NAME = "movielens-latest-small"

_LARGEST_ID = 2**31 - 1
_FIRST_YEAR, _LAST_YEAR = 1870, 2100
_NO_GENRES = "(no genres listed)"


def load_movielens_latest_small() -> Interactions:
    """Returns 100,004 ratings by 671 users of 9,066 movies, with `title`, `year` and `genres` of each movie.

    Rows are sorted by user, time, then movie id; no user rates a movie twice.

    Source: GroupLens, ml-latest-small of October 17, 2016.
    """
    with as_file(files("recjax.data") / "movielens_latest_small") as folder:
        return load(folder)


def load(folder: Path) -> Interactions:
    """Returns the ratings of a folder that `tools.pack_movielens` wrote: `ratings.parquet` and `movies.parquet`.

    Raises:
      UserError: a file is missing or cannot be used.
    """
    ratings = read_parquet(
        folder / "ratings.parquet",
        {"user": "integers", "item": "integers", "rating": "numbers", "timestamp": "integers"},
    )
    movies = read_parquet(
        folder / "movies.parquet", {"item": "integers", "title": "texts", "year": "integers", "genres": "texts"}
    )
    movie_ids = movies["item"].integers(0, _LARGEST_ID)
    movies["item"].check_distinct(movie_ids)
    user, user_ids = encode_integers(ratings["user"].integers(0, _LARGEST_ID))
    item, item_ids = encode_integers(ratings["item"].integers(0, _LARGEST_ID))
    found, row = rows_of(item_ids, movie_ids)
    ratings["item"].check(found[item], "a movie of movies.parquet")
    _reject_repeats(ratings["user"], user, item)
    return Interactions(
        name=NAME,
        user=user,
        item=item,
        rating=ratings["rating"].floats(0.5, 5, step=0.5),
        timestamp=ratings["timestamp"].integers(0, LAST_SECOND),
        user_ids=user_ids,
        item_ids=item_ids,
        item_features={
            "title": movies["title"].texts()[row],
            "year": movies["year"].floats(_FIRST_YEAR, _LAST_YEAR, missing=np.nan)[row],
            "genres": split_genres(movies["genres"].texts(), "|", (_NO_GENRES,))[row],
        },
    ).in_order()


def _reject_repeats(column: TypedColumn, user: Int32[np.ndarray, "E"], item: Int32[np.ndarray, "E"]) -> None:
    """Raises UserError at the first row whose pair of user and movie was there before."""
    pairs: Int64[np.ndarray, "E"] = user.astype(np.int64) << 32 | item
    _, first = np.unique(pairs, return_index=True)
    again: NDArray = np.setdiff1d(np.arange(len(pairs)), first)
    if again.size:
        earlier = int(np.argmax(pairs == pairs[again[0]]))
        raise UserError(
            f"{column.path}:{column.first_line + int(again[0])}: the user's rating of the movie stands already in row "
            f"{column.first_line + earlier}; expected each pair once"
        )
