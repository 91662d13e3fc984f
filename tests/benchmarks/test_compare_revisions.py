import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import compare_revisions
from benchmarks.compare import load_run, main
from benchmarks.compare_revisions import measure_revisions, revision_of
from recjax.errors import UserError

ROOT = Path(__file__).parent.parent.parent
# Stands for the side of a revision: takes three turns, and says from where it was imported.
SIDE = """
import json, os, sys
from pathlib import Path
from benchmarks.turns import await_turn

request, folder = json.loads(sys.argv[1]), None
if request["name"] == "broken":
    sys.exit("error: the suite is broken")
for turn in range(3):
    await_turn()
    with (Path(request["folder"]).parent / "turns").open("a") as file:
        file.write(Path(request["folder"]).name)
import recjax
imported = [__file__, recjax.__file__, VERSION]
Path(request["folder"], "imported.json").write_text(json.dumps(imported + [request["processes"]]))
"""
ARGUMENTS = {"suite": "any", "config": None, "overrides": [], "device": "cpu", "processes": 3}


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a repository of three revisions: `old` has no sides, `one` and `two` say their names."""
    folder = tmp_path / "repository"
    (folder / "benchmarks").mkdir(parents=True)
    (folder / "recjax").mkdir()
    (folder / "configs/suites").mkdir(parents=True)
    for name in ("any", "broken"):
        (folder / f"configs/suites/{name}.py").touch()
    git(folder, "init", "--quiet")
    for name in ("benchmarks/__init__.py", "recjax/__init__.py", "recjax/errors.py"):
        shutil.copy(ROOT / name, folder / name)
    for tag in ("old", "one", "two"):
        if tag != "old":
            shutil.copy(ROOT / "benchmarks/turns.py", folder / "benchmarks/turns.py")
            (folder / "benchmarks/compare_side.py").write_text(f"VERSION = {tag!r}\n{SIDE}")
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--message", tag)
        git(folder, "tag", tag)
    monkeypatch.setattr(compare_revisions, "REPOSITORY", folder)
    return folder


def worktrees(repository: Path) -> int:
    return len(git(repository, "worktree", "list").splitlines())


def test_names_of_revisions(repository: Path) -> None:
    commits = [git(repository, "rev-parse", name) for name in ("one", "two")]
    assert revision_of("one") == revision_of("HEAD~1") == commits[0]
    assert revision_of("two") == revision_of("HEAD") == revision_of(commits[1][:9]) == commits[1]
    for name in ("three", "--help", "one:recjax"):
        with pytest.raises(UserError, match="is neither a results file or folder nor a revision that git knows"):
            revision_of(name)


def test_each_revision_runs_its_own_code_in_turns_and_leaves_no_worktree(repository: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert measure_revisions(revision_of("one"), revision_of("two"), out=out, **ARGUMENTS) == out
    for side, tag in (("a", "one"), ("b", "two")):
        file, package, version, processes = json.loads((out / side / "imported.json").read_text())
        assert (version, processes) == (tag, 3)
        assert Path(file).parent.parent == Path(package).parent.parent != repository
    letters = (out / "turns").read_text()
    assert [sorted(letters[k : k + 2]) for k in (0, 2, 4)] == [["a", "b"]] * 3
    assert worktrees(repository) == 1


def test_a_revision_that_lacks_the_interface_is_refused(repository: Path, tmp_path: Path) -> None:
    message = (
        "has no benchmarks/compare_side.py and no benchmarks/turns.py, so it cannot be measured in turns; run both"
    )
    with pytest.raises(UserError, match=message):
        measure_revisions(revision_of("two"), revision_of("old"), out=tmp_path / "out", **ARGUMENTS)
    assert worktrees(repository) == 1


def test_a_side_that_fails_is_told_with_its_commit(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the run of \w{9} ended with code 1: the suite is broken$"):
        measure_revisions(
            revision_of("one"), revision_of("two"), out=tmp_path / "out", **ARGUMENTS | {"suite": "broken"}
        )
    assert worktrees(repository) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suite": "ani"}, r"^unknown suite of \w{9} 'ani'; valid: any, broken; did you mean 'any'\?$"),
        ({"config": "configs/mine.py"}, r"^\w{9} has no configs/mine.py; give the path of a config file that both"),
    ],
)
def test_what_a_revision_lacks_is_told_before_anything_is_made(
    repository: Path, tmp_path: Path, changes: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        measure_revisions(revision_of("one"), revision_of("two"), out=tmp_path / "out", **ARGUMENTS | changes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "tpu"}, "--device=tpu: both revisions hold the device at once"),
        ({"processes": 2}, "--processes=2; all"),
    ],
)
def test_what_cannot_be_measured_in_turns(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        measure_revisions("a", "b", out=tmp_path, **ARGUMENTS | changes)


TINY = """
from benchmarks.suite import Case, Measurement, Suite
from recjax.config import Dataset, Experiment, Serving, Training
from recjax.models.sasrec import SASRecConfig
from recjax.transforms import chain


def get_suite():
    experiment = Experiment(
        name="tiny",
        dataset=Dataset(source={source!r}, min_interactions=1, max_history=6),
        model=SASRecConfig(embedding_dim=8, heads=2, mlp_dims=(16,), dropout_rate=0.1, loss_chunk=32),
        training=Training(epochs=1, batch_size=16),
        finetuning=Training(epochs=1, batch_size=16),
        serving=Serving(buckets=(1, 8, 16), slo_ms=500.0, top_k=5),
    )
    measurement = Measurement(
        processes=1, rounds=2, window_s=0.02, min_queries=3, probe_s=0.02, search_steps=1, curve=(0.5,)
    )
    return Suite(name="tiny", description="tiny", cases=(Case(experiment=experiment),), measurement=measurement)
"""


@pytest.fixture
def whole_repository(tmp_path: Path, ratings_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a repository of one revision: this working tree with a tiny suite."""
    folder = tmp_path / "whole"
    for name in ("benchmarks", "recjax", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("results", "__pycache__"))
    (folder / "configs/suites/tiny.py").write_text(TINY.format(source=str(ratings_file)))
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "all")
    monkeypatch.setattr(compare_revisions, "REPOSITORY", folder)
    return folder


@pytest.mark.slow
def test_a_real_suite_of_two_revisions(
    whole_repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code = main(["HEAD", "HEAD", "--suite=tiny", "--processes=3", "--threshold=0.9", f"--out={out}"])
    printed, told = capsys.readouterr()
    assert code == 0, told
    runs = [load_run(out / side) for side in ("a", "b")]
    commit = git(whole_repository, "rev-parse", "HEAD")
    for run in runs:
        assert len(run.rows) == 8  # fp32 and the null model in four scenarios
        assert {row.processes for row in run.rows.values()} == {3}
        assert {row.environment["git"]["commit"] for row in run.rows.values()} == {commit}
    assert "processes in pairs" in printed
    assert "tiny / fp32, single_stream, batch 1" in printed
    assert worktrees(whole_repository) == 1


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_removes_the_worktrees(whole_repository: Path, tmp_path: Path, sent: signal.Signals) -> None:
    code = (
        "import sys; from pathlib import Path; from benchmarks import compare, compare_revisions\n"
        f"compare_revisions.REPOSITORY = Path({str(whole_repository)!r})\n"
        f"sys.exit(compare.main(['HEAD', 'HEAD', '--suite=tiny', '--processes=3', '--out={tmp_path / 'out'}']))"
    )
    program = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "out" / "a.log"
    while not (log.is_file() and log.read_text()):
        assert program.poll() is None
        time.sleep(0.1)
    os.kill(program.pid, sent)
    _, error = program.communicate(timeout=100)
    assert program.returncode == 130
    assert error.splitlines()[-1] == "interrupted"
    assert worktrees(whole_repository) == 1
