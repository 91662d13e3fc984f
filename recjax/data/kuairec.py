"""KuaiRec: who watched how much of which short video; a sparse matrix, and a small one that is almost full."""

import dataclasses
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int32, Int64
from numpy.typing import NDArray

from recjax.data.folders import require_files
from recjax.data.interactions import Interactions
from recjax.data.movies import list_column
from recjax.data.repeats import keep_first
from recjax.data.text_column import TextColumn
from recjax.data.text_table import read_table
from recjax.data.trust import distinct_edges
from recjax.data.typed_column import rows_of
from recjax.errors import unknown_name

NAME = "kuairec"

Matrix = Literal["big", "small"]

_USER_TEXTS = (
    *("user_active_degree", "is_live_streamer", "is_video_author", "follow_user_num_range", "fans_user_num_range"),
    *("friend_user_num_range", "register_days_range"),
)
_INTEGER_LIST = r"^\[((0|[1-9][0-9]{0,17})(, ?(0|[1-9][0-9]{0,17}))*)?\]$"
_SECONDS = r"^[0-9]{1,18}(\.[0-9]*)?$"


def load(folder: Path) -> Interactions:
    """Returns the big matrix: `load_matrix(folder, "big")`."""
    return load_matrix(folder, "big")


def load_matrix(folder: Path, matrix: Matrix) -> Interactions:
    """Returns each user's first view of every video, sorted by user, time, video; the rating is the watch ratio.

    That is the time watched over the length of the video, above 1 where it was played again; KuaiRec's authors take
    more than 2 as liked. Named `kuairec-big` (12.5 million rows, 7,176 users, 10,728 videos) or `kuairec-small` (4.7
    million rows, 1,411 users, 3,327 videos). Timestamps of the big matrix are Unix seconds. The small one lacks some
    and so has none here: only splits without times can be made of it.

    Videos have `duration_s` (float32) and `categories` (lists of integers). With `user_features.csv`, users have the
    texts `user_active_degree`, `is_live_streamer`, `is_video_author`, `follow_user_num_range`, `fans_user_num_range`,
    `friend_user_num_range` and `register_days_range` ("" unknown). Friendships between users of the matrix, as
    `social_network.csv` lists them, become `trust`.

    Args:
      folder: with `big_matrix.csv` or `small_matrix.csv`, `item_categories.csv`, `social_network.csv` and perhaps
        `user_features.csv`.
      matrix: "big" or "small".

    Raises:
      UserError: a file is missing or cannot be used; the lists in it are parsed, not evaluated.

    Source: Gao et al., "KuaiRec: A Fully-observed Dataset and Insights for Evaluating Recommender Systems", CIKM 2022.
    """
    if matrix not in get_args(Matrix):
        raise unknown_name("matrix of KuaiRec", matrix, get_args(Matrix))
    file = f"{matrix}_matrix.csv"
    require_files(NAME, folder, file, "item_categories.csv", "social_network.csv")
    names = ("user_id", "video_id", "video_duration", "watch_ratio", "timestamp")
    views = read_table(folder / file, names if matrix == "big" else names[:-1])
    user, user_ids = views["user_id"].ids(integers=True)
    item, item_ids = views["video_id"].ids(integers=True)
    duration_ms = views["video_duration"].floats(0)
    durations = np.zeros(len(item_ids), np.float32)
    np.maximum.at(durations, item, duration_ms)
    return keep_first(
        Interactions(
            name=f"{NAME}-{matrix}",
            user=user,
            item=item,
            rating=views["watch_ratio"].floats(0),
            timestamp=_unix_seconds(views["timestamp"]) if matrix == "big" else None,
            user_ids=user_ids,
            item_ids=item_ids,
            item_features={
                "duration_s": durations / np.float32(1000),
                "categories": _read_categories(folder / "item_categories.csv", item_ids),
            },
            user_features=_read_users(folder / "user_features.csv", user_ids),
            trust=_read_friends(folder / "social_network.csv", user_ids),
        )
    )


def _unix_seconds(column: TextColumn) -> Int64[np.ndarray, "E"]:
    """Returns whole seconds of texts such as "1593878903.438"."""
    text = pc.utf8_trim_whitespace(column.text)
    column.check_rows(pc.match_substring_regex(text, _SECONDS).to_numpy(), "non-negative Unix seconds")
    whole = pc.replace_substring_regex(text, r"\..*$", "")
    return dataclasses.replace(column, text=whole).timestamps()


def _read_categories(path: Path, item_ids: NDArray) -> NDArray:
    """Returns the list of categories of each video, empty where the file does not have it."""
    table = read_table(path, ("video_id", "feat"))
    video_ids, video_row = table["video_id"].keys()
    categories, lengths = _integer_lists(table["feat"])
    bags = [bag.tolist() for bag in np.split(categories, np.cumsum(lengths)[:-1])]
    found, place = rows_of(item_ids, video_ids)
    return list_column(bags[row] if known else [] for row, known in zip(video_row[place], found, strict=True))


def _read_friends(path: Path, user_ids: NDArray) -> Int32[np.ndarray, "2 S"]:
    """Returns who lists whom as a friend, each pair once; those with a user who watched nothing are left out."""
    table = read_table(path, ("user_id", "friend_list"))
    users, row = table["user_id"].keys()
    friends, lengths = _integer_lists(table["friend_list"])
    user_of_row = np.empty(len(row), np.int64)
    user_of_row[row] = users
    is_user, user = rows_of(np.repeat(user_of_row, lengths), user_ids)
    is_friend, friend = rows_of(friends, user_ids)
    return distinct_edges(np.stack([user, friend])[:, is_user & is_friend].astype(np.int32))


def _read_users(path: Path, user_ids: NDArray) -> dict[str, NDArray]:
    """Returns the texts of each user, "" where the file, if it is there at all, does not have one."""
    if not path.exists():
        return {}
    table = read_table(path, ("user_id", *_USER_TEXTS))
    users, user_row = table["user_id"].keys()
    found, place = rows_of(user_ids, users)
    return {name: np.where(found, table[name].texts()[user_row[place]], "") for name in _USER_TEXTS}


def _integer_lists(column: TextColumn) -> tuple[Int64[np.ndarray, "T"], Int64[np.ndarray, "E"]]:
    """Returns the integers of all rows such as "[8, 27]", one after the other, and how many each row has."""
    text = pc.utf8_trim_whitespace(column.text)
    is_list = pc.match_substring_regex(text, _INTEGER_LIST)
    column.check_rows(is_list.to_numpy(), "a list of non-negative integers such as '[8, 27]'")
    inside = pc.utf8_trim(text, "[]")
    numbers = pc.split_pattern(inside, ",")
    lengths = np.where(pc.equal(inside, "").to_numpy(), 0, pc.list_value_length(numbers).to_numpy())
    flat = pc.utf8_trim_whitespace(pc.list_flatten(numbers))
    return flat.filter(pc.not_equal(flat, "")).cast(pa.int64()).to_numpy(), lengths.astype(np.int64)
