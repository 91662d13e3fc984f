"""Columns of movies as the MovieLens sets write them: a title that ends with its year, and a list of genres."""

import re
from collections.abc import Collection, Iterable

import numpy as np
from jaxtyping import Float32, Shaped

# "Heat (1995)", a series "Fawlty Towers (1975-1979)", a video "Aladdin and the King of Thieves (1996) (V)".
_TITLE_AND_YEAR = re.compile(r"(.*?)\s*\(([0-9]{4})(?:[-–] ?[0-9]{0,4})?\)(?:\s*\(V\))?\s*", re.DOTALL)


def split_titles(titles: Iterable[str]) -> tuple[Shaped[np.ndarray, "V"], Float32[np.ndarray, "V"]]:
    """Returns titles without the year in parentheses at their end, and that year (of a series: its first) or NaN."""
    plain, years = [], []
    for title in titles:
        found = _TITLE_AND_YEAR.fullmatch(title)
        plain.append(found[1] if found else title)
        years.append(float(found[2]) if found else np.nan)
    return np.array(plain, object), np.array(years, np.float32)


def split_genres(texts: Iterable[str], separator: str, none: Collection[str]) -> Shaped[np.ndarray, "V"]:
    """Returns the list of genres of each movie.

    Args:
      texts: genres joined by `separator`.
      separator: between two genres.
      none: what stands in the place of a genre if the movie has none.
    """
    return list_column([genre for genre in text.split(separator) if genre and genre not in none] for text in texts)


def list_column(lists: Iterable[list[str]]) -> Shaped[np.ndarray, "V"]:
    """Returns a column (dtype object) whose values are lists, also where all have one length."""
    values = list(lists)
    column = np.empty(len(values), object)
    column[:] = values
    return column
