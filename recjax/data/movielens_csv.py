"""The MovieLens sets that come as CSV files: 20M, 25M, 32M and the two `latest` sets."""

from pathlib import Path

import numpy as np

from recjax.data.folders import require_files
from recjax.data.interactions import Interactions
from recjax.data.movies import split_genres, split_titles
from recjax.data.text_column import reject_repeats
from recjax.data.text_table import read_table

NAMES = ("ml-20m", "ml-25m", "ml-32m", "ml-latest", "ml-latest-small")

_NO_GENRES = "(no genres listed)"


def load(folder: Path) -> Interactions:
    """Returns the ratings of `ratings.csv`, sorted by user, timestamp, item; the set is named as its folder is.

    Movies have `title`, `year` and `genres`, from `movies.csv`; those that nobody rated are left out. In millions of
    ratings, thousands of users and thousands of movies rated: ml-20m 20, 138, 27; ml-25m 25, 163, 59; ml-32m 32, 201,
    84; the `latest` sets grow.

    Raises:
      UserError: a file is missing or cannot be used.

    Source: Harper and Konstan, "The MovieLens Datasets: History and Context", 2015.
    """
    require_files(folder.name, folder, "ratings.csv", "movies.csv")
    movies = read_table(folder / "movies.csv", ("movieId", "title", "genres"))
    item_ids, row = movies["movieId"].keys()
    titles, years = split_titles(movies["title"].texts())
    genres = split_genres(movies["genres"].texts(empty=False), "|", (_NO_GENRES,))

    ratings = read_table(folder / "ratings.csv", ("userId", "movieId", "rating", "timestamp"))
    user, user_ids = ratings["userId"].ids(integers=True)
    item = ratings["movieId"].lookup(item_ids, "a movie of movies.csv")
    reject_repeats([ratings["userId"], ratings["movieId"]], user.astype(np.int64) * len(item_ids) + item)
    return (
        Interactions(
            name=folder.name,
            user=user,
            item=item,
            rating=ratings["rating"].floats(0.5, 5, step=0.5),
            timestamp=ratings["timestamp"].timestamps(),
            user_ids=user_ids,
            item_ids=item_ids,
            item_features={"title": titles[row], "year": years[row], "genres": genres[row]},
        )
        .k_core(1)
        .in_order()
    )
