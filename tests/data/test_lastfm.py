from pathlib import Path

import numpy as np
import pytest
from malformed import check_refused, write_files

from recjax.data.lastfm import load

PLAYS = "usersha1-artmbid-artname-plays.tsv"
PROFILES = "usersha1-profile.tsv"
USER_A, USER_B = "00000c289a1829a808ac09c00daf10bc3c4e223b", "fffe8c7f952d9b960a56ed4dcb40a415d924b224"
SLIP = "sep 20, 2008"
MBID = "3bd73256-3905-4f3a-97e2-8b341527f805"
FILES = {
    PLAYS: (
        f'{USER_B}\t{MBID}\tbetty "b" blowtorch\t2137\n'
        f"{USER_A}\t\tdie ärzte\t1099\n"
        f"{USER_B}\t{MBID}\tbetty blowtorch\t3\n"
        f"{SLIP}\t\tlily allen\t763\n"
        f"{USER_B}\t\tdie ärzte\t0\n"
    ).encode(),
    PROFILES: (
        f"{USER_A}\tf\t22\tGermany\tFeb 1, 2007\nunplayed\tm\t\t\tFeb 1, 2007\n{USER_B}\t\t-1337\t\tMay 3, 2006\n"
    ).encode(),
}
HETREC = {
    "user_artists.dat": b"userID\tartistID\tweight\n7\t51\t13883\n2\t52\t11690\n2\t51\t11351\n",
    "user_friends.dat": b"userID\tfriendID\n2\t7\n7\t2\n",
    "artists.dat": b'id\tname\turl\tpictureURL\n52\tMorcheeba\thttp://x\t\n50\tOnly "tagged"\thttp://x\thttp://y\n'
    b"51\tDuran Duran\thttp://x\thttp://y\n",
}


def test_plays_of_360k_with_profiles(tmp_path: Path):
    read = load(write_files(tmp_path, FILES))
    assert read.name == "lastfm-360k"
    np.testing.assert_array_equal(read.user_ids, np.array([USER_A, USER_B], object), strict=True)
    np.testing.assert_array_equal(read.item_ids, np.array([MBID, "die ärzte"], object), strict=True)
    np.testing.assert_array_equal(read.user, np.array([0, 1, 1], np.int32), strict=True)
    np.testing.assert_array_equal(read.item, np.array([1, 0, 1], np.int32), strict=True)
    np.testing.assert_array_equal(read.rating, np.array([1099, 2140, 0], np.float32), strict=True)
    assert read.timestamp is None
    assert read.item_features["name"].tolist() == ['betty "b" blowtorch', "die ärzte"]
    assert read.user_features["gender"].tolist() == ["f", ""]
    np.testing.assert_array_equal(read.user_features["age"], np.array([22, np.nan], np.float32), strict=True)
    assert read.user_features["country"].tolist() == ["Germany", ""]


def test_users_without_a_profile_are_unknown(tmp_path: Path):
    only_a = FILES[PROFILES].splitlines()[0]
    read = load(write_files(tmp_path, FILES | {PROFILES: only_a}))
    assert read.user_features["gender"].tolist() == ["f", ""]
    np.testing.assert_array_equal(read.user_features["age"], np.array([22, np.nan], np.float32), strict=True)


def test_plays_of_hetrec_with_friends(tmp_path: Path):
    read = load(write_files(tmp_path, HETREC))
    assert read.name == "hetrec2011-lastfm-2k"
    np.testing.assert_array_equal(read.user_ids, np.array([2, 7]), strict=True)
    np.testing.assert_array_equal(read.item_ids, np.array([51, 52]), strict=True)
    np.testing.assert_array_equal(read.user, np.array([0, 0, 1], np.int32), strict=True)
    np.testing.assert_array_equal(read.item, np.array([1, 0, 0], np.int32), strict=True)
    np.testing.assert_array_equal(read.rating, np.array([11690, 11351, 13883], np.float32), strict=True)
    assert read.timestamp is None
    assert read.item_features["name"].tolist() == ["Duran Duran", "Morcheeba"]
    np.testing.assert_array_equal(read.trust, np.array([[0, 1], [1, 0]], np.int32), strict=True)


def test_a_friendship_counts_once_and_not_with_oneself(tmp_path: Path):
    read = load(write_files(tmp_path, HETREC | {"user_friends.dat": b"userID\tfriendID\n2\t7\n2\t2\n2\t7\n"}))
    np.testing.assert_array_equal(read.trust, np.array([[0], [1]], np.int32), strict=True)


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        (
            (PROFILES, None),
            f"lastfm-360k: FOLDER/{PROFILES} is not there; "
            "python -m tools.fetch_data lastfm-360k brings it or says how",
        ),
        (
            (PLAYS, b""),
            f"FOLDER/{PLAYS}:1: the file is empty; expected lines of user, artist_mbid, artist_name, plays",
        ),
        (
            (PLAYS, "\tdie ärzte\t1099".encode(), "\tdie ärzte\t1\t9".encode()),
            f"FOLDER/{PLAYS}:2: 5 columns in '{USER_A}\\t\\tdie ärzte\\t1\\t9'; "
            "expected 4: user, artist_mbid, artist_name, plays",
        ),
        (
            (PLAYS, b"\t2137", b""),
            f"FOLDER/{PLAYS}:1: 3 columns in '{USER_B}\\t{MBID[:16]}...'; "
            "expected 4: user, artist_mbid, artist_name, plays",
        ),
        ((PLAYS, USER_A.encode(), b" "), f"FOLDER/{PLAYS}:2, column 'user': ''; expected a user"),
        (
            (PLAYS, "die ärzte\t1099".encode(), b"\t1099"),
            f"FOLDER/{PLAYS}:2, column 'artist_name': ''; expected a name, since there is no MusicBrainz id either",
        ),
        (
            (PLAYS, b"2137", b"many"),
            f"FOLDER/{PLAYS}:1, column 'plays': 'many'; expected an integer from 0 to 1000000000",
        ),
        (
            (PLAYS, b"2137", b"21.5"),
            f"FOLDER/{PLAYS}:1, column 'plays': '21.5'; expected an integer from 0 to 1000000000",
        ),
        ((PLAYS, b"2137", b"-1"), f"FOLDER/{PLAYS}:1, column 'plays': '-1'; expected an integer from 0 to 1000000000"),
        ((PLAYS, b"1099\n", b"\n"), f"FOLDER/{PLAYS}:2, column 'plays': ''; expected an integer from 0 to 1000000000"),
        (
            (PLAYS, b"betty blowtorch", b"betty\xff"),
            f"FOLDER/{PLAYS}:3: byte 0xff is not UTF-8; save the file as UTF-8",
        ),
        ((PROFILES, b"\tf\t", b"\tx\t"), f"FOLDER/{PROFILES}:1, column 'gender': 'x'; expected f, m or nothing"),
        (
            (PROFILES, b"\t22\t", b"\told\t"),
            f"FOLDER/{PROFILES}:1, column 'age': 'old'; expected a finite number, or ''",
        ),
        (
            (PROFILES, b"unplayed", USER_A.encode()),
            f"FOLDER/{PROFILES}:2, column 'user': '{USER_A}' stands already on line 1; expected each once",
        ),
        (
            (PROFILES, b"\tGermany", b""),
            f"FOLDER/{PROFILES}:1: 4 columns in '{USER_A}\\tf\\t22\\tFeb 1, 2007'; "
            "expected 5: user, gender, age, country, signup",
        ),
    ],
)
def test_malformed_files_of_360k_are_refused(tmp_path: Path, defect: tuple, message: str):
    check_refused(load, tmp_path, FILES, defect, message)


INTEGER_ID = "a non-negative integer id of at most 18 digits without leading zeros"
WEIGHT = "an integer from 1 to 1000000000"


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        (
            ("user_artists.dat", None),
            "hetrec2011-lastfm-2k: FOLDER/user_artists.dat is not there; "
            "python -m tools.fetch_data hetrec2011-lastfm-2k brings it or says how",
        ),
        (
            ("user_artists.dat", b"weight", b"plays"),
            "FOLDER/user_artists.dat:1: no column 'weight' in the header 'userID, artistID, plays'; "
            "expected userID, artistID, weight",
        ),
        (
            ("user_artists.dat", b"7\t51", b"x\t51"),
            f"FOLDER/user_artists.dat:2, column 'userID': 'x'; expected {INTEGER_ID}",
        ),
        (
            ("user_artists.dat", b"7\t51", b"7\t53"),
            "FOLDER/user_artists.dat:2, column 'artistID': '53'; expected an artist of artists.dat",
        ),
        (
            ("user_artists.dat", b"7\t51", b"2\t51"),
            "FOLDER/user_artists.dat:4: userID '2' and artistID '51' stand already on line 2; expected each pair once",
        ),
        (("user_artists.dat", b"13883", b"0"), f"FOLDER/user_artists.dat:2, column 'weight': '0'; expected {WEIGHT}"),
        (
            ("user_artists.dat", b"13883", b"1e3"),
            f"FOLDER/user_artists.dat:2, column 'weight': '1e3'; expected {WEIGHT}",
        ),
        (
            ("user_artists.dat", b"\t13883", b""),
            "FOLDER/user_artists.dat:2: 2 columns in '7\\t51'; expected 3, as on line 1",
        ),
        (
            ("user_friends.dat", b"7\t2\n", b"7\t3\n"),
            "FOLDER/user_friends.dat:3, column 'friendID': '3'; expected a user of user_artists.dat",
        ),
        (
            ("user_friends.dat", b"userID\tfriendID\n", b""),
            "FOLDER/user_friends.dat:1: no column 'userID' in the header '2, 7'; expected userID, friendID",
        ),
        (
            ("artists.dat", b"50\t", b"52\t"),
            "FOLDER/artists.dat:3, column 'id': '52' stands already on line 2; expected each once",
        ),
        (
            ("user_artists.dat", b"userID\tartistID\tweight\n"),
            "FOLDER/user_artists.dat:1: no row follows the header; expected lines of userID, artistID, weight",
        ),
        (
            ("user_artists.dat", b"\tartistID", b"\tuserID"),
            "FOLDER/user_artists.dat:1: the header 'userID, userID, weight' names column 'userID' 2 times; "
            "expected once",
        ),
        (
            ("user_artists.dat", b"13883", b"NaN"),
            f"FOLDER/user_artists.dat:2, column 'weight': 'NaN'; expected {WEIGHT}",
        ),
        (
            ("user_artists.dat", b"13883", b"9" * 20),
            f"FOLDER/user_artists.dat:2, column 'weight': '{'9' * 20}'; expected {WEIGHT}",
        ),
        (
            ("artists.dat", b"Morcheeba", b"Morch\xe9eba"),
            "FOLDER/artists.dat:2: byte 0xe9 is not UTF-8; save the file as UTF-8",
        ),
        (
            ("artists.dat", b"Morcheeba", b"Mor\x00cheeba"),
            "FOLDER/artists.dat:2: byte 0x00 in the text, of a damaged file or one in UTF-16; save it as UTF-8",
        ),
        (("artists.dat", b"50\t", b"05\t"), f"FOLDER/artists.dat:3, column 'id': '05'; expected {INTEGER_ID}"),
    ],
)
def test_malformed_files_of_hetrec_are_refused(tmp_path: Path, defect: tuple, message: str):
    check_refused(load, tmp_path, HETREC, defect, message)
