import gzip
from pathlib import Path

import numpy as np
import pytest
from malformed import check_refused, write_files

from recjax.data.mind import load, load_impressions

TAIL = b"\thttps://assets.msn.com/x.html\t[]\t[]\n"
FILES = {
    "behaviors.tsv": (
        b"1\tU87243\t11/10/2019 11:30:54 AM\tN30 N10\tN20-1 N10-0 N40-0\n"
        b"2\tU598\t11/9/2019 12:00:00 AM\t\tN10-0 N20-1\n"
        b"3\tU87243\t11/9/2019 1:05:09 PM\tN30\tN10-1\n"
        b"4\tU598\t11/12/2019 12:45:01 PM\tN30\tN20-1 N10-1\n"
    ),
    "news.tsv": (
        b'N30\thealth\tmedical\t"Dispose" of unwanted drugs\t\t' + TAIL.lstrip(b"\t")
        + b"N10\tlifestyle\tlifestyleroyals\tThe Brands Queen Elizabeth Swears By\tShop the notebooks" + TAIL
        + b"N40\tnews\tnewsworld\tNever clicked\t" + TAIL
        + b"N20\tsports\tfootball_nfl\tThe Cost\tLt. Ivan" + TAIL
    ),
}  # fmt: skip
# "day hour minute second" of November 2019, by Python's own calendar: 1 November is 1572566400.
NOVEMBER = 1_572_566_400


def moment(day: int, hour: int, minute: int = 0, second: int = 0) -> int:
    return NOVEMBER + (day - 1) * 86_400 + hour * 3600 + minute * 60 + second


def test_first_clicks(tmp_path: Path):
    folder = write_files(tmp_path / "mind-small", FILES)
    read = load(folder)
    assert read.name == "mind-small"
    np.testing.assert_array_equal(read.user_ids, np.array(["U598", "U87243"], object), strict=True)
    np.testing.assert_array_equal(read.item_ids, np.array(["N10", "N20"], object), strict=True)
    np.testing.assert_array_equal(read.user, np.array([0, 0, 1, 1], np.int32), strict=True)
    np.testing.assert_array_equal(read.item, np.array([1, 0, 0, 1], np.int32), strict=True)
    np.testing.assert_array_equal(read.rating, np.ones(4, np.float32), strict=True)
    expected = [moment(9, 0), moment(12, 12, 45, 1), moment(9, 13, 5, 9), moment(10, 11, 30, 54)]
    np.testing.assert_array_equal(read.timestamp, np.array(expected), strict=True)
    assert {name: column.tolist() for name, column in read.item_features.items()} == {
        "category": ["lifestyle", "sports"],
        "subcategory": ["lifestyleroyals", "football_nfl"],
        "title": ["The Brands Queen Elizabeth Swears By", "The Cost"],
        "abstract": ["Shop the notebooks", "Lt. Ivan"],
    }


def test_impressions_with_labels_and_histories(tmp_path: Path):
    read = load_impressions(write_files(tmp_path, FILES))
    assert read.item_ids.tolist() == ["N10", "N20", "N30", "N40"]
    np.testing.assert_array_equal(read.user, np.array([1, 0, 1, 0], np.int32), strict=True)
    np.testing.assert_array_equal(read.history, np.array([2, 0, 2, 2], np.int32), strict=True)
    np.testing.assert_array_equal(read.history_start, np.array([0, 2, 2, 3, 4]), strict=True)
    np.testing.assert_array_equal(read.impression, np.array([0, 0, 0, 1, 1, 2, 3, 3], np.int32), strict=True)
    np.testing.assert_array_equal(read.item, np.array([1, 0, 3, 0, 1, 0, 1, 0], np.int32), strict=True)
    np.testing.assert_array_equal(read.label, np.array([1, 0, 0, 0, 1, 1, 1, 1], np.float32), strict=True)
    assert read.timestamp.tolist() == [moment(10, 11, 30, 54), moment(9, 0), moment(9, 13, 5, 9), moment(12, 12, 45, 1)]
    assert read.item_features["title"].tolist()[2:] == ['"Dispose" of unwanted drugs', "Never clicked"]


def test_agrees_with_plain_python(tmp_path: Path):
    rng = np.random.default_rng(0)
    news = b"".join(b"N%d\tc\ts\tt\ta" % n + TAIL for n in range(30))
    lines, histories, candidates = [], [], []
    for row in range(200):
        histories.append([f"N{n}" for n in rng.integers(0, 30, rng.integers(0, 5))])
        candidates.append([(f"N{n}", int(rng.integers(2))) for n in rng.integers(0, 30, rng.integers(1, 6))])
        pairs = " ".join(f"{name}-{label}" for name, label in candidates[-1])
        lines.append(f"{row}\tU{row % 7}\t11/1/2019 1:00:00 AM\t{' '.join(histories[-1])}\t{pairs}\n")
    read = load_impressions(write_files(tmp_path, {"news.tsv": news, "behaviors.tsv": "".join(lines).encode()}))
    names = read.item_ids
    for row in range(200):
        start, end = read.history_start[row : row + 2]
        assert names[read.history[start:end]].tolist() == histories[row]
        shown = read.impression == row
        assert list(zip(names[read.item[shown]], read.label[shown], strict=True)) == candidates[row]
    assert set(read.timestamp.tolist()) == {moment(1, 1)}


LABELS = "news and labels such as 'N1-0 N2-1'"
TRAIN = f"{LABELS} (train and dev have labels)"
A_MOMENT = "a moment such as '11/9/2019 8:55:22 AM'"
BEHAVIORS = "impression_id, user_id, time, history, impressions"


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        (
            ("news.tsv", None),
            "mind-small: FOLDER/news.tsv is not there; python -m tools.fetch_data mind-small brings it or says how",
        ),
        (("behaviors.tsv", b"\n"), f"FOLDER/behaviors.tsv:1: the file is empty; expected lines of {BEHAVIORS}"),
        (
            ("behaviors.tsv", b"\t\tN10-0 N20-1", b"\tN10-0 N20-1"),
            "FOLDER/behaviors.tsv:2: 4 columns in '2\\tU598\\t11/9/2019 12:00:00 AM\\tN10-0 N20-1'; "
            f"expected 5: {BEHAVIORS}",
        ),
        (("behaviors.tsv", b"2\tU598\t", b"2\t\t"), "FOLDER/behaviors.tsv:2, column 'user_id': ''; expected an id"),
        (
            ("behaviors.tsv", b"N30\tN10-1", b"N31\tN10-1"),
            "FOLDER/behaviors.tsv:3, column 'history': 'N31'; expected ids of news.tsv",
        ),
        (
            ("behaviors.tsv", b"\t\tN10-0 N20-1", b"\t\tN10-0 N21-1"),
            "FOLDER/behaviors.tsv:2, column 'impressions': 'N21'; expected ids of news.tsv",
        ),
        (
            ("behaviors.tsv", b"N30\tN10-1", b"N30\tN10"),  # as MINDlarge_test has them
            f"FOLDER/behaviors.tsv:3, column 'impressions': 'N10'; expected {TRAIN}",
        ),
        (
            ("behaviors.tsv", b"N30\tN10-1", b"N30\tN10-2"),
            f"FOLDER/behaviors.tsv:3, column 'impressions': 'N10-2'; expected {TRAIN}",
        ),
        (
            ("behaviors.tsv", b"N30\tN10-1", b"N30\t-1"),
            f"FOLDER/behaviors.tsv:3, column 'impressions': '-1'; expected {TRAIN}",
        ),
        (
            ("behaviors.tsv", b"N30\tN10-1", b"N30\t"),
            f"FOLDER/behaviors.tsv:3, column 'impressions': ''; expected {LABELS}",
        ),
        (
            ("behaviors.tsv", b"5\tU1\t11/15/2019 8:55:22 AM\t\tN10-0\n"),
            "FOLDER/behaviors.tsv, column 'impressions': no click in any row; expected some 'N1-1'",
        ),
        (
            ("behaviors.tsv", b"1:05:09 PM", b"13:05:09"),
            f"FOLDER/behaviors.tsv:3, column 'time': '11/9/2019 13:05:09'; expected {A_MOMENT}",
        ),
        (
            ("behaviors.tsv", b"1:05:09 PM", b"13:05:09 PM"),
            f"FOLDER/behaviors.tsv:3, column 'time': '11/9/2019 13:05:09 PM'; expected {A_MOMENT}",
        ),
        (
            ("behaviors.tsv", b"1:05:09 PM", b"0:05:09 PM"),
            f"FOLDER/behaviors.tsv:3, column 'time': '11/9/2019 0:05:09 PM'; expected {A_MOMENT}",
        ),
        (
            ("behaviors.tsv", b"1:05:09 PM", b"1:05:60 PM"),
            f"FOLDER/behaviors.tsv:3, column 'time': '11/9/2019 1:05:60 PM'; expected {A_MOMENT}",
        ),
        (
            ("behaviors.tsv", b"11/10/2019", b"11/31/2019"),
            f"FOLDER/behaviors.tsv:1, column 'time': '11/31/2019 11:30:54 AM'; expected {A_MOMENT}",
        ),
        (
            ("behaviors.tsv", b"11/10/2019", b"13/10/2019"),
            f"FOLDER/behaviors.tsv:1, column 'time': '13/10/2019 11:30:54 AM'; expected {A_MOMENT}",
        ),
        (
            ("behaviors.tsv", b"11/10/2019", b"11/0/2019"),
            f"FOLDER/behaviors.tsv:1, column 'time': '11/0/2019 11:30:54 AM'; expected {A_MOMENT}",
        ),
        (
            ("behaviors.tsv", b"11/10/2019", b"11/10/1969"),
            f"FOLDER/behaviors.tsv:1, column 'time': '11/10/1969 11:30:54 AM'; expected {A_MOMENT}",
        ),
        (
            ("behaviors.tsv", b"4\tU598", b"2\tU598"),
            "FOLDER/behaviors.tsv:4, column 'impression_id': '2' stands already on line 2; expected each once",
        ),
        (
            ("behaviors.tsv", b"4\tU598", b"-4\tU598"),
            "FOLDER/behaviors.tsv:4, column 'impression_id': '-4'; "
            "expected a non-negative integer id of at most 18 digits without leading zeros",
        ),
        (
            ("behaviors.tsv", b"4\tU598", b"4\tU5\x0098"),
            "FOLDER/behaviors.tsv:4: byte 0x00 in the text, of a damaged file or one in UTF-16; save it as UTF-8",
        ),
        (
            ("behaviors.tsv", gzip.compress(FILES["behaviors.tsv"], compresslevel=0, mtime=0)[:-12]),
            "FOLDER/behaviors.tsv:4: the gzip stream is truncated here; expected a complete gzip file",
        ),
        (
            ("news.tsv", b"N40\t", b"N10\t"),
            "FOLDER/news.tsv:3, column 'news_id': 'N10' stands already on line 2; expected each once",
        ),
        (("news.tsv", b"N40\t", b"\t"), "FOLDER/news.tsv:3, column 'news_id': ''; expected an id"),
        (
            ("news.tsv", b"N40\tnews\t", b"N40\t"),
            "FOLDER/news.tsv:3: 7 columns in 'N40\\tnewsworld\\tNever clicked\\t\\thttps://assets.msn.com/x.htm...'; "
            "expected 8: news_id, category, subcategory, title, abstract, url, title_entities, abstract_entities",
        ),
        (("news.tsv", b"Lt. Ivan", b"Lt.\xff"), "FOLDER/news.tsv:4: byte 0xff is not UTF-8; save the file as UTF-8"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, defect: tuple, message: str):
    check_refused(load, tmp_path / "mind-small", FILES, defect, message)
