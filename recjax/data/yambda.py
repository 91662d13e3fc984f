"""Yambda: listens, likes and dislikes of Yandex Music, from its flat Parquet files."""

from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32, Int32

from recjax.data.folders import require_files
from recjax.data.interactions import Interactions
from recjax.data.parquet_table import Kind, read_parquet
from recjax.data.repeats import keep_first
from recjax.data.typed_column import encode_integers
from recjax.errors import UserError, unknown_name

NAMES = ("yambda-50m", "yambda-500m")

Events = Literal["listen_plus", "listens", "likes", "dislikes"]

LISTENED_PCT = 50  # a listen counts as positive from here on, as in Yambda's own benchmark
_LARGEST_ID = 2**31 - 1
_LAST_SECOND = 2**32 - 1
_LARGEST_PCT = 2**16 - 1
_LONGEST_S = 2**32 - 1


def load(folder: Path) -> Interactions:
    """Returns each user's first Listen+ of every track: `load_events(folder, "listen_plus")`.

    Of the events that Yambda has, its own benchmark is about these and the likes.
    """
    return load_events(folder, "listen_plus")


def load_events(folder: Path, events: Events) -> Interactions:
    """Returns each user's first event with every track, sorted by user, time, track.

    The set is named `<folder's name>-<events>`, for instance `yambda-50m-likes`. Published sizes are 50m, 500m and 5b
    events; reading takes about 130 bytes of memory an event, so that 5b is out of reach.

    Timestamps are seconds, rounded down to 5, from a start that Yandex does not disclose: differences and order mean
    something, hours of the day and dates do not. `is_organic` (chosen by the user, or recommended) is not read, and
    `unlikes` and `undislikes`, which take an event back, are not either.

    Args:
      folder: with `listens.parquet`, or `likes.parquet` or `dislikes.parquet`, of `flat/50m` and the like.
      events: which file becomes the interactions, and with what rating.
        `listen_plus`: listens of which half of the track or more was played; the rating is the part of it that was
        played, above 1.0 where the user went back.
        `listens`: all, with that rating: positive_rating=0.5 gives the labels of Listen+.
        `likes`, `dislikes`: the rating is 1.0.
        Listens have the track's `duration_s` (float32, NaN unknown) as item feature.

    Raises:
      UserError: the file is missing or cannot be used.

    Source: Ploshkin et al., "Yambda-5B: A Large-Scale Multi-modal Dataset for Ranking And Retrieval", 2025, and the
    dataset's card; the seconds and the 50% from the constants of its benchmark.
    """
    if events not in get_args(Events):
        raise unknown_name("events of Yambda", events, get_args(Events))
    is_listen = events in ("listen_plus", "listens")
    file = "listens.parquet" if is_listen else f"{events}.parquet"
    require_files(folder.name, folder, file)
    kinds: dict[str, Kind] = {"uid": "integers", "item_id": "integers", "timestamp": "integers"}
    if is_listen:
        kinds |= {"played_ratio_pct": "numbers", "track_length_seconds": "numbers"}
    columns = read_parquet(folder / file, kinds)
    user = columns["uid"].integers(0, _LARGEST_ID)
    item = columns["item_id"].integers(0, _LARGEST_ID)
    timestamp = columns["timestamp"].integers(0, _LAST_SECOND)
    if is_listen:
        played_pct = columns["played_ratio_pct"].floats(0, _LARGEST_PCT)
        duration = columns["track_length_seconds"].floats(0, _LONGEST_S, missing=np.nan)
        rating = played_pct / 100
    else:
        duration = np.full(len(user), np.nan, np.float32)
        rating = np.ones(len(user), np.float32)
    if events == "listen_plus":
        kept = played_pct >= LISTENED_PCT
        if not kept.any():
            raise UserError(
                f"{folder / file}, column 'played_ratio_pct': below {LISTENED_PCT} in every row; expected Listen+"
            )
        user, item, timestamp, rating, duration = (x[kept] for x in (user, item, timestamp, rating, duration))
    user_code, user_ids = encode_integers(user)
    item_code, item_ids = encode_integers(item)
    return keep_first(
        Interactions(
            name=f"{folder.name}-{events}",
            user=user_code,
            item=item_code,
            rating=rating,
            timestamp=timestamp,
            user_ids=user_ids,
            item_ids=item_ids,
            item_features={"duration_s": _of_items(duration, item_code, len(item_ids))} if is_listen else {},
        )
    )


def _of_items(
    duration: Float32[np.ndarray, "E"], item: Int32[np.ndarray, "E"], n_items: int
) -> Float32[np.ndarray, "V"]:
    """Returns the longest known duration of each item."""
    longest = np.full(n_items, np.nan, np.float32)
    np.fmax.at(longest, item, duration)
    return longest
