"""Last.fm: who played which artist how often; 360K with users' profiles, HetRec 2011 with friends. No times."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64, Shaped
from numpy.typing import NDArray

from recjax.data.folders import require_files
from recjax.data.interactions import Interactions
from recjax.data.repeats import sum_ratings
from recjax.data.text_column import TextColumn, reject_repeats
from recjax.data.text_table import read_table
from recjax.data.trust import distinct_edges
from recjax.data.typed_column import encode_strings, rows_of

NAMES = ("lastfm-360k", "hetrec2011-lastfm-2k")

_PLAYS_360K = "usersha1-artmbid-artname-plays.tsv"
_PROFILES_360K = "usersha1-profile.tsv"
_NO_USER = "sep 20, 2008"
_MOST_PLAYS = 10**9
_YOUNGEST, _OLDEST = 1, 120


def load(folder: Path) -> Interactions:
    """Returns the plays of either set, sorted by user; the rating is the number of plays and there are no timestamps.

    If `folder` has the file `usersha1-artmbid-artname-plays.tsv`, it is Last.fm 360K: 17.6 million rows of 359,000
    users. An artist is told by the MusicBrainz id or, without one, by the name; the plays of an artist that a user has
    on several lines are added, and artists have `name`. Users have `gender` ("m", "f", "" unknown), `age` (float32,
    NaN unknown or not from 1 to 120, as some say) and `country` ("" unknown), from `usersha1-profile.tsv`. Rows of
    the user "sep 20, 2008", a slip of the published file, are left out. The whole text is held in memory.

    Otherwise it is HetRec 2011: `user_artists.dat` (92,834 rows, 1,892 users, 17,632 artists), `artists.dat` with each
    artist's `name`, and `user_friends.dat`, whose friendships, each in both directions, become `trust`.

    Raises:
      UserError: a file is missing or cannot be used.

    Source: Celma, "Music Recommendation and Discovery in the Long Tail", 2010 (360K); Cantador, Brusilovsky and
    Kuflik, "2nd Workshop on Information Heterogeneity and Fusion in Recommender Systems", RecSys 2011 (HetRec).
    """
    return _load_360k(folder) if (folder / _PLAYS_360K).exists() else _load_hetrec(folder)


def _load_360k(folder: Path) -> Interactions:
    require_files(NAMES[0], folder, _PLAYS_360K, _PROFILES_360K)
    plays = read_table(
        folder / _PLAYS_360K, ("user", "artist_mbid", "artist_name", "plays"), delimiter="\t", header=False
    )
    profiles = read_table(
        folder / _PROFILES_360K, ("user", "gender", "age", "country", "signup"), delimiter="\t", header=False
    )
    users = _texts(plays["user"], "a user")
    is_user = pc.not_equal(users, _NO_USER)
    user, user_ids = encode_strings(users.filter(is_user))
    mbid, name = (pc.utf8_trim_whitespace(plays[column].text) for column in ("artist_mbid", "artist_name"))
    artist = pc.if_else(pc.equal(mbid, ""), name, mbid)
    plays["artist_name"].check_rows(
        pc.not_equal(artist, "").to_numpy(), "a name, since there is no MusicBrainz id either"
    )
    item, item_ids = encode_strings(artist.filter(is_user))
    interactions = Interactions(
        name=NAMES[0],
        user=user,
        item=item,
        rating=plays["plays"].integers(0, _MOST_PLAYS).astype(np.float32)[is_user.to_numpy()],
        timestamp=None,
        user_ids=user_ids,
        item_ids=item_ids,
        item_features={"name": _of_rows(name.filter(is_user), _first_rows(item, len(item_ids)))},
        user_features=_profiles(profiles, user_ids),
    )
    return sum_ratings(interactions)


def _texts(column: TextColumn, expected: str) -> pa.ChunkedArray:
    """Returns the text without surrounding blanks; an empty one is refused."""
    text = pc.utf8_trim_whitespace(column.text)
    column.check_rows(pc.not_equal(text, "").to_numpy(), expected)
    return text


def _first_rows(codes: NDArray, n_codes: int) -> Int64[np.ndarray, "V"]:
    """Returns the first row of each code."""
    first = np.empty(n_codes, np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]  # of several values for one place, the last stays
    return first


def _of_rows(text: pa.ChunkedArray, rows: Int64[np.ndarray, "V"]) -> Shaped[np.ndarray, "V"]:
    return text.take(pa.array(rows)).to_numpy()


def _profiles(profiles: dict[str, TextColumn], user_ids: Shaped[np.ndarray, "U"]) -> dict[str, NDArray]:
    """Returns gender, age and country of each user; unknown for those without a profile."""
    codes, profile_ids = encode_strings(_texts(profiles["user"], "a user"))
    reject_repeats([profiles["user"]], codes.astype(np.int64))
    found, place = rows_of(user_ids, profile_ids)
    row = _first_rows(codes, len(profile_ids))[place]
    is_gender = pc.is_in(profiles["gender"].distinct[0], value_set=pa.array(["", "f", "m"]))
    profiles["gender"].check(is_gender, "f, m or nothing")
    ages = profiles["age"].floats(unknown=("",))
    ages[(ages < _YOUNGEST) | (ages > _OLDEST)] = np.nan
    return {
        "gender": np.where(found, profiles["gender"].texts()[row], ""),
        "age": np.where(found, ages[row], np.float32(np.nan)),
        "country": np.where(found, profiles["country"].texts()[row], ""),
    }


def _load_hetrec(folder: Path) -> Interactions:
    require_files(NAMES[1], folder, "user_artists.dat", "user_friends.dat", "artists.dat")
    plays = read_table(folder / "user_artists.dat", ("userID", "artistID", "weight"), delimiter="\t")
    friends = read_table(folder / "user_friends.dat", ("userID", "friendID"), delimiter="\t")
    artists = read_table(folder / "artists.dat", ("id", "name"), delimiter="\t")
    user, user_ids = plays["userID"].ids(integers=True)
    item_ids, artist_row = artists["id"].keys()
    item = plays["artistID"].lookup(item_ids, "an artist of artists.dat")
    reject_repeats([plays["userID"], plays["artistID"]], user.astype(np.int64) * len(item_ids) + item)
    ends = [friends[column].lookup(user_ids, "a user of user_artists.dat") for column in friends]
    interactions = Interactions(
        name=NAMES[1],
        user=user,
        item=item,
        rating=plays["weight"].integers(1, _MOST_PLAYS).astype(np.float32),
        timestamp=None,
        user_ids=user_ids,
        item_ids=item_ids,
        item_features={"name": artists["name"].texts()[artist_row]},
        trust=distinct_edges(np.stack(ends)),
    )
    return interactions.k_core(1).in_order()  # artists that are only tagged go
