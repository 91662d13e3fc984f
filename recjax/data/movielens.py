"""The MovieLens latest-small set that travels inside the package (its LICENSE.md stands beside it)."""

from importlib.resources import as_file, files

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from recjax.data.interactions import Interactions, encode_ids

NAME = "movielens-latest-small"


def load_movielens_latest_small() -> Interactions:
    """Returns 100,004 ratings by 671 users of 9,066 movies, with `title`, `year` and `genres` of each movie.

    Rows are sorted by user, time, then movie id; no user rates a movie twice.

    Source: GroupLens, ml-latest-small of October 17, 2016.
    """
    with as_file(files("recjax.data") / "movielens_latest_small") as folder:
        ratings = pyarrow.parquet.read_table(folder / "ratings.parquet")
        movies = pyarrow.parquet.read_table(folder / "movies.parquet")
    user, user_ids = encode_ids(ratings["user"].to_numpy())
    item, item_ids = encode_ids(ratings["item"].to_numpy())
    row_of = np.searchsorted(movies["item"].to_numpy(), item_ids)
    genres = [text.split("|") if text and not text.startswith("(") else [] for text in movies["genres"].to_pylist()]
    genre_column = np.empty(len(genres), object)
    genre_column[:] = genres
    return Interactions(
        name=NAME,
        user=user,
        item=item,
        rating=ratings["rating"].to_numpy(),
        timestamp=ratings["timestamp"].to_numpy(),
        user_ids=user_ids,
        item_ids=item_ids,
        item_features={
            "title": np.array(movies["title"].to_pylist(), object)[row_of],
            "year": movies["year"].cast(pa.float32()).to_numpy()[row_of],
            "genres": genre_column[row_of],
        },
    )
