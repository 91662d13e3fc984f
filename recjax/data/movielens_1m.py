"""MovieLens 1M."""

from pathlib import Path

import numpy as np

from recjax.data.folders import require_files
from recjax.data.interactions import Interactions
from recjax.data.movies import split_genres, split_titles
from recjax.data.text_column import TextColumn, reject_repeats
from recjax.data.text_table import read_table

NAME = "ml-1m"

_GENDERS = ("F", "M")
# The lower end of each age group; 1 stands for everyone under 18.
_AGES = ("1", "18", "25", "35", "45", "50", "56")
_OCCUPATIONS = (
    *("other or not specified", "academic/educator", "artist", "clerical/admin", "college/grad student"),
    *("customer service", "doctor/health care", "executive/managerial", "farmer", "homemaker", "K-12 student"),
    *("lawyer", "programmer", "retired", "sales/marketing", "scientist", "self-employed", "technician/engineer"),
    *("tradesman/craftsman", "unemployed", "writer"),
)


def load(folder: Path) -> Interactions:
    """Returns 1,000,209 ratings by 6,040 users of 3,706 movies, sorted by user, timestamp, item.

    Movies have `title`, `year` and `genres`; users have `age` (the lower end of their age group; 1 stands for under
    18), `gender` and `occupation`. Movies that nobody rated are left out, and so are zip codes.

    Raises:
      UserError: `ratings.dat`, `users.dat` or `movies.dat` is missing or cannot be used.

    Source: Harper and Konstan, "The MovieLens Datasets: History and Context", 2015.
    """
    require_files(NAME, folder, "ratings.dat", "users.dat", "movies.dat")
    users = _read(folder / "users.dat", "user", "gender", "age", "occupation", "zip_code")
    movies = _read(folder / "movies.dat", "movie", "title", "genres")
    ratings = _read(folder / "ratings.dat", "user", "movie", "rating", "timestamp")

    user_ids, user_row = users["user"].keys()
    user_features = {
        "age": np.array(_AGES).astype(np.float32)[users["age"].choices(_AGES)],
        "gender": np.array(_GENDERS, object)[users["gender"].choices(_GENDERS)],
        "occupation": np.array(_OCCUPATIONS, object)[users["occupation"].integers(0, len(_OCCUPATIONS) - 1)],
    }
    item_ids, item_row = movies["movie"].keys()
    titles, years = split_titles(movies["title"].texts())
    item_features = {
        "title": titles,
        "year": years,
        "genres": split_genres(movies["genres"].texts(empty=False), "|", ()),
    }
    user = ratings["user"].lookup(user_ids, "a user of users.dat")
    item = ratings["movie"].lookup(item_ids, "a movie of movies.dat")
    reject_repeats([ratings["user"], ratings["movie"]], user.astype(np.int64) * len(item_ids) + item)
    return (
        Interactions(
            name=NAME,
            user=user,
            item=item,
            rating=ratings["rating"].floats(1, 5, step=1),
            timestamp=ratings["timestamp"].timestamps(),
            user_ids=user_ids,
            item_ids=item_ids,
            item_features={name: column[item_row] for name, column in item_features.items()},
            user_features={name: column[user_row] for name, column in user_features.items()},
        )
        .k_core(1)
        .in_order()
    )


def _read(path: Path, *columns: str) -> dict[str, TextColumn]:
    return read_table(path, columns, delimiter="::", header=False, encoding="latin-1")
