import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recjax.data.yambda import load, load_events
from recjax.errors import UserError

LISTENS: dict[str, Any] = {
    "uid": pa.array([100, 100, 100, 300, 300], pa.uint32()),
    "timestamp": pa.array([0, 5, 10, 0, 25_999_995], pa.uint32()),
    "item_id": pa.array([7, 9, 7, 9, 8], pa.uint32()),
    "is_organic": pa.array([1, 0, 1, 1, 0], pa.uint8()),
    "played_ratio_pct": pa.array([10, 50, 120, 49, 100], pa.uint16()),
    "track_length_seconds": pa.array([200, None, 200, 180, None], pa.uint32()),
}
EVENTS = {name: LISTENS[name] for name in ("uid", "timestamp", "item_id", "is_organic")}


def write(tmp_path: Path, columns: dict[str, Any], file: str = "listens") -> Path:
    folder = tmp_path / "yambda-50m"
    folder.mkdir()
    pq.write_table(
        pa.table({name: value for name, value in columns.items() if value is not None}), folder / f"{file}.parquet"
    )
    return folder


def test_listens_of_half_the_track_or_more(tmp_path: Path):
    read = load(write(tmp_path, LISTENS))
    assert read.name == "yambda-50m-listen_plus"
    np.testing.assert_array_equal(read.user_ids, np.array([100, 300]), strict=True)
    np.testing.assert_array_equal(read.item_ids, np.array([7, 8, 9]), strict=True)
    np.testing.assert_array_equal(read.user, np.array([0, 0, 1], np.int32), strict=True)
    np.testing.assert_array_equal(read.item, np.array([2, 0, 1], np.int32), strict=True)
    np.testing.assert_array_equal(read.rating, np.array([0.5, 1.2, 1.0], np.float32), strict=True)
    np.testing.assert_array_equal(read.timestamp, np.array([5, 10, 25_999_995]), strict=True)
    np.testing.assert_array_equal(
        read.item_features["duration_s"], np.array([200, np.nan, np.nan], np.float32), strict=True
    )


def test_all_listens_keep_the_first_of_each_track(tmp_path: Path):
    read = load_events(write(tmp_path, LISTENS), "listens")
    assert read.name == "yambda-50m-listens"
    assert read.item_ids[read.item].tolist() == [7, 9, 9, 8]
    np.testing.assert_array_equal(read.rating, np.array([0.1, 0.5, 0.49, 1.0], np.float32))
    np.testing.assert_array_equal(read.item_features["duration_s"], np.array([200, np.nan, 180], np.float32))


@pytest.mark.parametrize("events", ["likes", "dislikes"])
def test_likes_have_a_rating_of_one(tmp_path: Path, events: Any):
    read = load_events(write(tmp_path, EVENTS, events), events)
    assert read.name == f"yambda-50m-{events}"
    assert read.rating.tolist() == [1, 1, 1, 1]
    assert read.item_ids[read.item].tolist() == [7, 9, 9, 8]
    assert read.item_features == {}


def changed(**columns: Any) -> dict[str, Any]:
    return LISTENS | columns


NAMES = "uid, item_id, timestamp, played_ratio_pct, track_length_seconds"
ID = "an integer from 0 to 2147483647"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            changed(uid=None),
            ": no column 'uid' in timestamp, item_id, is_organic, played_ratio_pct, track_length_seconds; "
            f"expected {NAMES}",
        ),
        (
            EVENTS,
            f": no column 'played_ratio_pct' in uid, timestamp, item_id, is_organic; expected {NAMES}",
        ),
        ({name: value[:0] for name, value in LISTENS.items()}, f": has no row; expected rows of {NAMES}"),
        (changed(uid=["a"] * 5), ", column 'uid': values of type string; expected integers"),
        (
            changed(item_id=pa.array([[1], [2], [3], [4], [5]], pa.list_(pa.uint32()))),  # the sequential files
            ", column 'item_id': values of type list<element: uint32>; expected integers",
        ),
        (changed(timestamp=[0.0] * 5), ", column 'timestamp': values of type double; expected integers"),
        (changed(uid=[1, 2, None, 3, 4]), f":3, column 'uid': nothing; expected {ID}"),
        (changed(uid=[1, -2, 3, 3, 4]), f":2, column 'uid': -2; expected {ID}"),
        (changed(item_id=[1, 2, 3, 3, 2**31]), f":5, column 'item_id': 2147483648; expected {ID}"),
        (
            changed(timestamp=[0, 5, 10, -5, 0]),
            ":4, column 'timestamp': -5; expected an integer from 0 to 4294967295",
        ),
        (
            changed(played_ratio_pct=pa.array([1, None, 3, 4, 5], pa.uint16())),
            ":2, column 'played_ratio_pct': nothing; expected a number from 0 to 65535",
        ),
        (
            changed(played_ratio_pct=[1.0, 2.0, 3.0, 4.0, float("nan")]),
            ":5, column 'played_ratio_pct': nan; expected a number from 0 to 65535",
        ),
        (
            changed(played_ratio_pct=[1, 2, 3, 4, 49]),
            ", column 'played_ratio_pct': below 50 in every row; expected Listen+",
        ),
        (
            changed(track_length_seconds=[1, 2, -3, 4, 49]),
            ":3, column 'track_length_seconds': -3; expected a number from 0 to 4294967295",
        ),
        (
            changed(track_length_seconds=["3:20"] * 5),
            ", column 'track_length_seconds': values of type string; expected numbers",
        ),
    ],
)
def test_a_table_of_other_values_is_refused(tmp_path: Path, columns: dict[str, Any], message: str):
    folder = write(tmp_path, columns)
    with pytest.raises(UserError) as error:
        load(folder)
    assert str(error.value) == f"{folder}/listens.parquet{message}"


def test_a_missing_file_and_unknown_events_are_refused(tmp_path: Path):
    folder = write(tmp_path, LISTENS)
    with pytest.raises(UserError) as error:
        load_events(folder, "likes")
    assert str(error.value) == (
        f"yambda-50m: {folder}/likes.parquet is not there; python -m tools.fetch_data yambda-50m brings it or says how"
    )
    with pytest.raises(UserError) as error:
        inspect.unwrap(load_events)(folder, "like")
    assert str(error.value) == (
        "unknown events of Yambda 'like'; valid: dislikes, likes, listen_plus, listens; did you mean 'likes'?"
    )
