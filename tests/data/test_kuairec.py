import inspect
from pathlib import Path

import numpy as np
import pytest
from malformed import check_refused, write_files

from recjax.data.kuairec import load, load_matrix
from recjax.errors import UserError

HEADER = b"user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
FILES = {
    "big_matrix.csv": HEADER + b"14,148,13838,10867,2020-07-05 00:08:23.438,20200705,1593878903.438,1.273397441796264\n"
    b"0,183,3115,22200,2020-07-05 00:05:00,20200705,1593878700.0,0.5\n"
    b"0,183,9999,22200,2020-07-06 00:05:00,20200706,1593965100.0,3.0\n"
    b"0,148,10053,10867,2020-07-04 00:05:00,20200704,1593792300,0.0\n",
    "item_categories.csv": b'video_id,feat\n183,"[27, 9]"\n5,[3]\n148,[8]\n',
    "social_network.csv": b'user_id,friend_list\n14,"[0, 99]"\n0,[14]\n98,"[0]"\n',
    "user_features.csv": b"user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,"
    b"follow_user_num,follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,friend_user_num_range,register_days,"
    b"register_days_range,onehot_feat0\n"
    b'14,high_active,0,0,1,5,"(0,10]",4,"[1,10)",0,0,107,61-90,0\n'
    b'1,full_active,0,1,0,386,"(250,500]",4,"[1,10)",2,"[1,5)",327,181-365,1\n',
}
SMALL = {name: content for name, content in FILES.items() if name != "big_matrix.csv"} | {
    "small_matrix.csv": HEADER + b"14,148,4381,6067,,,,0.722103\n14,5,1,1000,,,,2.0\n"
}


def test_first_views_of_the_big_matrix(tmp_path: Path):
    read = load(write_files(tmp_path, FILES))
    assert read.name == "kuairec-big"
    np.testing.assert_array_equal(read.user_ids, np.array([0, 14]), strict=True)
    np.testing.assert_array_equal(read.item_ids, np.array([148, 183]), strict=True)
    np.testing.assert_array_equal(read.user, np.array([0, 0, 1], np.int32), strict=True)
    np.testing.assert_array_equal(read.item, np.array([0, 1, 0], np.int32), strict=True)
    np.testing.assert_array_equal(read.rating, np.array([0, 0.5, 1.273397441796264], np.float32), strict=True)
    np.testing.assert_array_equal(read.timestamp, np.array([1593792300, 1593878700, 1593878903]), strict=True)
    np.testing.assert_array_equal(read.item_features["duration_s"], np.array([10.867, 22.2], np.float32), strict=True)
    assert read.item_features["categories"].tolist() == [[8], [27, 9]]
    assert {name: column.tolist() for name, column in read.user_features.items()} == {
        "user_active_degree": ["", "high_active"],
        "is_live_streamer": ["", "0"],
        "is_video_author": ["", "1"],
        "follow_user_num_range": ["", "(0,10]"],
        "fans_user_num_range": ["", "[1,10)"],
        "friend_user_num_range": ["", "0"],
        "register_days_range": ["", "61-90"],
    }
    np.testing.assert_array_equal(read.trust, np.array([[0, 1], [1, 0]], np.int32), strict=True)


def test_the_small_matrix_has_no_times(tmp_path: Path):
    read = load_matrix(write_files(tmp_path, SMALL), "small")
    assert read.name == "kuairec-small"
    assert read.timestamp is None
    np.testing.assert_array_equal(read.rating, np.array([0.722103, 2.0], np.float32), strict=True)
    assert read.item_ids[read.item].tolist() == [148, 5]
    assert read.trust.shape == (2, 0)


def test_user_features_may_be_missing_and_lists_empty(tmp_path: Path):
    files = {name: content for name, content in FILES.items() if name != "user_features.csv"}
    files |= {"item_categories.csv": b"video_id,feat\n148,[]\n", "social_network.csv": b"user_id,friend_list\n0,[]\n"}
    read = load(write_files(tmp_path, files))
    assert read.user_features == {}
    assert read.item_features["categories"].tolist() == [[], []]
    assert read.trust.shape == (2, 0)


INTEGER_ID = "a non-negative integer id of at most 18 digits without leading zeros"
LIST = "a list of non-negative integers such as '[8, 27]'"
NAMES = "user_id, video_id, video_duration, watch_ratio, timestamp"


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        (
            ("social_network.csv", None),
            "kuairec: FOLDER/social_network.csv is not there; python -m tools.fetch_data kuairec brings it or says how",
        ),
        (("big_matrix.csv", b""), f"FOLDER/big_matrix.csv:1: the file is empty; expected lines of {NAMES}"),
        (("big_matrix.csv", HEADER), f"FOLDER/big_matrix.csv:1: no row follows the header; expected lines of {NAMES}"),
        (
            ("big_matrix.csv", b"watch_ratio", b"ratio"),
            "FOLDER/big_matrix.csv:1: no column 'watch_ratio' in the header 'user_id, video_id, play_duration, "
            f"video_duration, time, d...'; expected {NAMES}",
        ),
        (
            ("big_matrix.csv", b"\n14,148", b"\n-14,148"),
            f"FOLDER/big_matrix.csv:2, column 'user_id': '-14'; expected {INTEGER_ID}",
        ),
        (
            ("big_matrix.csv", b"\n14,148", b"\n14,x"),
            f"FOLDER/big_matrix.csv:2, column 'video_id': 'x'; expected {INTEGER_ID}",
        ),
        (
            ("big_matrix.csv", b"1.273397441796264", b"nan"),
            "FOLDER/big_matrix.csv:2, column 'watch_ratio': 'nan'; expected a finite number from 0",
        ),
        (
            ("big_matrix.csv", b"1.273397441796264", b"-1"),
            "FOLDER/big_matrix.csv:2, column 'watch_ratio': '-1'; expected a finite number from 0",
        ),
        (
            ("big_matrix.csv", b"13838,10867", b"13838,"),
            "FOLDER/big_matrix.csv:2, column 'video_duration': ''; expected a finite number from 0",
        ),
        (
            ("big_matrix.csv", b"1593878903.438", b""),
            "FOLDER/big_matrix.csv:2, column 'timestamp': ''; expected non-negative Unix seconds",
        ),
        (
            ("big_matrix.csv", b"1593878903.438", b"-5.5"),
            "FOLDER/big_matrix.csv:2, column 'timestamp': '-5.5'; expected non-negative Unix seconds",
        ),
        (
            ("big_matrix.csv", b"1593878903.438", b"1.5e9"),
            "FOLDER/big_matrix.csv:2, column 'timestamp': '1.5e9'; expected non-negative Unix seconds",
        ),
        (
            ("big_matrix.csv", b"1593878903.438", b"1593878903438"),
            "FOLDER/big_matrix.csv:2, column 'timestamp': '1593878903438'; expected Unix seconds up to 9999999999; "
            "divide milliseconds by 1000",
        ),
        (
            ("big_matrix.csv", b",20200706", b""),
            "FOLDER/big_matrix.csv:4: 7 columns in '0,183,9999,22200,2020-07-06 00:05:00,1593965100.0,3.0'; "
            "expected 8, as on line 1",
        ),
        (
            ("item_categories.csv", b'"[27, 9]"', b"__import__('os')"),
            f"FOLDER/item_categories.csv:2, column 'feat': \"__import__('os')\"; expected {LIST}",
        ),
        (("item_categories.csv", b"[3]", b"[3"), f"FOLDER/item_categories.csv:3, column 'feat': '[3'; expected {LIST}"),
        (
            ("item_categories.csv", b"[3]", b"[-3]"),
            f"FOLDER/item_categories.csv:3, column 'feat': '[-3]'; expected {LIST}",
        ),
        (
            ("item_categories.csv", b"[3]", b'"[3,]"'),
            f"FOLDER/item_categories.csv:3, column 'feat': '[3,]'; expected {LIST}",
        ),
        (
            ("item_categories.csv", b"5,[3]", b"183,[3]"),
            "FOLDER/item_categories.csv:3, column 'video_id': '183' stands already on line 2; expected each once",
        ),
        (
            ("item_categories.csv", b'"[27, 9]"', b"[27, 9]"),
            "FOLDER/item_categories.csv:2: 3 columns in '183,[27, 9]'; expected 2, as on line 1",
        ),
        (
            ("social_network.csv", b'"[0, 99]"', b'"[0, 99.5]"'),
            f"FOLDER/social_network.csv:2, column 'friend_list': '[0, 99.5]'; expected {LIST}",
        ),
        (
            ("social_network.csv", b'"[0, 99]"', b'"[[0], 99]"'),
            f"FOLDER/social_network.csv:2, column 'friend_list': '[[0], 99]'; expected {LIST}",
        ),
        (
            ("social_network.csv", b"98,", b"14,"),
            "FOLDER/social_network.csv:4, column 'user_id': '14' stands already on line 2; expected each once",
        ),
        (
            ("user_features.csv", b"\n1,full", b"\n14,full"),
            "FOLDER/user_features.csv:3, column 'user_id': '14' stands already on line 2; expected each once",
        ),
        (
            ("user_features.csv", b"user_active_degree", b"degree"),
            "FOLDER/user_features.csv:1: no column 'user_active_degree' in the header 'user_id, degree, "
            "is_lowactive_period, is_live_streamer, i...'; expected user_id, user_active_degree, is_live_streamer, "
            "is_video_author, follow_user_num_range, fans_user_num_range, friend_user_num_range, register_days_range",
        ),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, defect: tuple, message: str):
    check_refused(load, tmp_path, FILES, defect, message)


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        (
            ("small_matrix.csv", None),
            "kuairec: FOLDER/small_matrix.csv is not there; python -m tools.fetch_data kuairec brings it or says how",
        ),
        (
            ("small_matrix.csv", HEADER.replace(b",timestamp", b",user_id") + b"14,148,4381,6067,,,,0.722103\n"),
            "FOLDER/small_matrix.csv:1: the header 'user_id, video_id, play_duration, video_duration, time, d...' "
            "names column 'user_id' 2 times; expected once",
        ),
        (
            ("small_matrix.csv", b"0.722103", b"inf"),
            "FOLDER/small_matrix.csv:2, column 'watch_ratio': 'inf'; expected a finite number from 0",
        ),
        (
            ("small_matrix.csv", b"\n14,5,", b"\n14,5\x00,"),
            "FOLDER/small_matrix.csv:3: byte 0x00 in the text, of a damaged file or one in UTF-16; save it as UTF-8",
        ),
    ],
)
def test_a_malformed_small_matrix_is_refused(tmp_path: Path, defect: tuple, message: str):
    check_refused(lambda folder: load_matrix(folder, "small"), tmp_path, SMALL, defect, message)


def test_a_friendship_counts_once_and_not_with_oneself(tmp_path: Path):
    files = FILES | {"social_network.csv": b'user_id,friend_list\n14,"[0, 0, 14]"\n'}
    read = load(write_files(tmp_path, files))
    np.testing.assert_array_equal(read.trust, np.array([[1], [0]], np.int32), strict=True)


def test_an_unknown_matrix_is_refused(tmp_path: Path):
    with pytest.raises(UserError) as error:
        inspect.unwrap(load_matrix)(tmp_path, "medium")
    assert str(error.value) == "unknown matrix of KuaiRec 'medium'; valid: big, small"
