"""MovieLens 100K, from RecBole's atomic files (with a knowledge graph) or from GroupLens' own."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Integer
from numpy.typing import NDArray

from recjax.data.folders import require_files
from recjax.data.interactions import Interactions, KnowledgeGraph
from recjax.data.movies import list_column, split_genres, split_titles
from recjax.data.text_column import TextColumn, reject_repeats
from recjax.data.text_table import read_table

NAME = "ml-100k"

_RATING_COLUMNS = ("user_id", "item_id", "rating", "timestamp")
_USER_COLUMNS = ("user_id", "age", "gender", "occupation")
_GENDERS = ("F", "M")
_NO_GENRE = "unknown"
_GENRES = (
    *(_NO_GENRE, "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
_FIRST_YEAR, _LAST_YEAR = 1900, 2000
# RecBole's years of a movie without any data, and of one whose title ends with "(1995) (V)".
_NO_YEAR = ("unkonwn", "V")


def load(folder: Path) -> Interactions:
    """Returns 100,000 ratings by 943 users of 1,682 movies, sorted by user, then timestamp.

    Many of a user's ratings have the same second. They keep the order of the file, which GroupLens shuffled: sorted by
    item they would end with the newest and least known movies, and every sequence model would score lower.

    Movies have `title`, `year` and `genres`; users have `age`, `gender` and `occupation`.

    Either `folder` holds RecBole's `ml-100k.inter`, `.user` and `.item`; with `.kg` and `.link` beside them, there is
    a knowledge graph of 91,631 triples and 24 relations. Or it holds GroupLens' `u.data`, `u.user` and `u.item`, and
    there is no knowledge graph.

    Raises:
      UserError: a file is missing or cannot be used.

    Source: Harper and Konstan, "The MovieLens Datasets: History and Context", 2015; the graph: Zhao et al., "KB4Rec:
    A Data Set for Linking Knowledge Bases with Recommender Systems", 2019.
    """
    if (folder / "u.data").exists() and not _atomic(folder, "inter").exists():
        return _load_grouplens(folder)
    return _load_recbole(folder)


def _load_recbole(folder: Path) -> Interactions:
    require_files(NAME, folder, *(_atomic(folder, kind).name for kind in ("inter", "user", "item")))
    ratings = read_table(_atomic(folder, "inter"), _RATING_COLUMNS, delimiter="\t")
    users = read_table(_atomic(folder, "user"), _USER_COLUMNS, delimiter="\t")
    items = read_table(_atomic(folder, "item"), ("item_id", "movie_title", "release_year", "class"), delimiter="\t")
    titles, title_years = split_titles(items["movie_title"].texts())
    years = items["release_year"].floats(_FIRST_YEAR, _LAST_YEAR, step=1, unknown=_NO_YEAR)
    features = {
        "title": titles,
        "year": np.where(np.isnan(years), title_years, years),
        "genres": split_genres(items["class"].texts(), " ", (_NO_GENRE,)),
    }
    interactions = _join(ratings, users, items["item_id"], features)
    graph = [_atomic(folder, kind) for kind in ("kg", "link")]
    if not any(path.exists() for path in graph):
        return interactions
    require_files(NAME, folder, *(path.name for path in graph))
    return dataclasses.replace(interactions, knowledge=_read_knowledge(folder, interactions.item_ids))


def _load_grouplens(folder: Path) -> Interactions:
    require_files(NAME, folder, "u.data", "u.user", "u.item")
    ratings = read_table(folder / "u.data", _RATING_COLUMNS, delimiter="\t", header=False)
    users = read_table(folder / "u.user", (*_USER_COLUMNS, "zip_code"), delimiter="|", header=False, encoding="latin-1")
    items = read_table(
        folder / "u.item",
        ("item_id", "movie_title", "release_date", "video_release_date", "imdb_url", *_GENRES),
        delimiter="|",
        header=False,
        encoding="latin-1",
    )
    titles, years = split_titles(items["movie_title"].texts())
    flags = np.stack([items[genre].choices(("0", "1")) for genre in _GENRES], 1)
    genres = [[genre for genre in np.array(_GENRES)[row == 1].tolist() if genre != _NO_GENRE] for row in flags]
    return _join(ratings, users, items["item_id"], {"title": titles, "year": years, "genres": list_column(genres)})


def _atomic(folder: Path, kind: str) -> Path:
    return folder / f"{NAME}.{kind}"


def _join(
    ratings: Mapping[str, TextColumn],
    users: Mapping[str, TextColumn],
    item_id: TextColumn,
    item_features: Mapping[str, NDArray],
) -> Interactions:
    """Returns the interactions of three tables; rows of users and items may stand in any order."""
    user_ids, user_row = users["user_id"].keys()
    item_ids, item_row = item_id.keys()
    user_features = {
        "age": users["age"].floats(0, 120, step=1),
        "gender": np.array(_GENDERS, object)[users["gender"].choices(_GENDERS)],
        "occupation": users["occupation"].texts(empty=False),
    }
    user = ratings["user_id"].lookup(user_ids, f"a user of {users['user_id'].path.name}")
    item = ratings["item_id"].lookup(item_ids, f"an item of {item_id.path.name}")
    reject_repeats([ratings["user_id"], ratings["item_id"]], user.astype(np.int64) * len(item_ids) + item)
    return Interactions(
        name=NAME,
        user=user,
        item=item,
        rating=ratings["rating"].floats(1, 5, step=1),
        timestamp=ratings["timestamp"].timestamps(),
        user_ids=user_ids,
        item_ids=item_ids,
        item_features={name: column[item_row] for name, column in item_features.items()},
        user_features={name: column[user_row] for name, column in user_features.items()},
    ).in_order(ties="row")


def _read_knowledge(folder: Path, item_ids: Integer[np.ndarray, "V"]) -> KnowledgeGraph:
    """Returns the graph whose first entities are the items, linked to an entity of the file or not."""
    triples = read_table(_atomic(folder, "kg"), ("head_id", "relation_id", "tail_id"), delimiter="\t")
    links = read_table(_atomic(folder, "link"), ("item_id", "entity_id"), delimiter="\t")
    for column in triples.values():
        column.check(pc.not_equal(column.distinct[0], pa.scalar(column.name)), "no second header")
    relation, relations = triples["relation_id"].ids()
    head, tail = (triples[name].texts(empty=False) for name in ("head_id", "tail_id"))
    entities, codes = np.unique(np.concatenate([head, tail]), return_inverse=True)

    links["item_id"].keys()
    links["entity_id"].keys(integers=False)
    linked = links["entity_id"].lookup(entities, f"an entity of {_atomic(folder, 'kg').name}")
    code_of = np.full(len(entities), -1, np.int32)
    code_of[linked] = links["item_id"].lookup(item_ids, f"an item of {_atomic(folder, 'item').name}")
    others = code_of < 0
    code_of[others] = len(item_ids) + np.arange(others.sum())
    return KnowledgeGraph(
        head=code_of[codes[: len(head)]],
        relation=relation,
        tail=code_of[codes[len(head) :]],
        n_entities=len(item_ids) + int(others.sum()),
        n_relations=len(relations),
    )
