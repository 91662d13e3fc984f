"""Measures two git revisions in turns, each in a worktree of its own, with the packages of this environment.

Each revision runs `benchmarks.compare_side`, which it must have. Training and compiling are done by one revision while
the other waits; then they measure a window each in turn, in fresh processes, until both suites are done.
"""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.bench_extra import require_bench_extra
from benchmarks.turns import TurnTaker, take_turns
from recjax.command_line import make_output_folder
from recjax.errors import UserError, unknown_name
from recjax.progress import LOG_EVERY_S, console

REPOSITORY = Path(__file__).parent.parent
NEEDED = ("benchmarks/compare_side.py", "benchmarks/turns.py")
MIN_PROCESSES = 3


def revision_of(name: str) -> str:
    """Returns the commit that a name means.

    Raises:
      UserError: git knows none.
    """
    found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}", check=False)
    if found is None:
        raise UserError(f"{name!r} is neither a results file or folder nor a revision that git knows in {REPOSITORY}")
    return found


def measure_revisions(
    a: str,
    b: str,
    *,
    suite: str,
    config: str | None,
    overrides: Sequence[str],
    device: str,
    processes: int,
    out: Path | None,
) -> Path:
    """Returns the folder whose a/ and b/ hold the rows of both revisions.

    Args:
      a: a commit.
      b: another one.
      suite: to be run, if there is no
      config: path of an experiment's file in both revisions.
      overrides: of the experiments' values.
      device: "cpu" or "gpu".
      processes: fresh ones that measure each revision; at least 3.
      out: folder to be made.

    Raises:
      UserError: the extra `bench` is not installed; a revision cannot be measured in turns, or lacks the suite or the
        config; or its run ended with an error.
    """
    if device not in ("cpu", "gpu"):
        raise UserError(
            f"--device={device}: both revisions hold the device at once, which a cpu or gpu allows; measure each with "
            "python -m benchmarks.run, and compare the folders"
        )
    if processes < MIN_PROCESSES:
        raise UserError(f"--processes={processes}; allowed: >= {MIN_PROCESSES}, and 8 or more find changes of 10%")
    require_bench_extra()
    for commit in (a, b):
        _check_revision(commit, suite, config)
    folder = out or Path("runs") / f"compare-{a[:9]}-{b[:9]}"
    make_output_folder(folder)
    request = {
        "loader": "suite_of_config" if config else "load_suite",
        "name": config or suite,
        "overrides": list(overrides),
        "device": device,
        "processes": processes,
    }
    with tempfile.TemporaryDirectory(prefix="recjax-") as work, contextlib.ExitStack() as stack:
        stack.enter_context(_ends_as_interrupted())
        takers = []
        for side, commit in (("a", a), ("b", b)):
            tree = stack.enter_context(_worktree(commit, Path(work) / side))
            of_side = request | {"folder": str((folder / side).resolve()), "tree": str(tree)}
            (folder / side).mkdir(exist_ok=True)
            log = (folder / f"{side}.log").resolve()
            log.unlink(missing_ok=True)
            console.print(f"{side.upper()} is {commit[:9]}; it says what it does in {log}", markup=False)
            command = [sys.executable, "-m", "benchmarks.compare_side", json.dumps(of_side)]
            variables = {"PYTHONPATH": str(tree)} | (
                {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if device == "gpu" else {}
            )
            path = Path(work) / f"{side}.turns"
            taker = stack.enter_context(TurnTaker(f"the run of {commit[:9]}", command, log, path, tree, variables))
            taker.asks()  # trained and compiled, it waits; now the next one may begin
            takers.append(taker)
        take_turns(takers, 0, _teller())
    return folder


def _check_revision(commit: str, suite: str, config: str | None) -> None:
    """Raises UserError if the commit lacks what a comparison in turns needs, the suite or, in its place, the config."""
    missing = [name for name in NEEDED if not _is_in(commit, name)]
    if missing:
        raise UserError(
            f"{commit[:9]} has no {' and no '.join(missing)}, so it cannot be measured in turns; run both "
            "revisions with python -m benchmarks.run, and compare the folders"
        )
    if config is None:
        names = (_git("ls-tree", "--name-only", f"{commit}:configs/suites", check=False) or "").split()
        suites = [Path(name).stem for name in names if name.endswith(".py")]
        if suite not in suites:
            raise unknown_name(f"suite of {commit[:9]}", suite, suites)
    elif not Path(config).is_absolute() and not _is_in(commit, config):
        raise UserError(f"{commit[:9]} has no {config}; give the path of a config file that both revisions have")


def _is_in(commit: str, path: str) -> bool:
    return _git("cat-file", "-e", f"{commit}:{path}", check=False) is not None


@contextlib.contextmanager
def _ends_as_interrupted() -> Iterator[None]:
    """Takes SIGTERM, as of `timeout` or a batch system, for Ctrl-C meanwhile, so that no worktree is left."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _teller() -> Callable[[int], None]:
    """Returns a function that tells the number of turns now and then: how many there will be, nobody knows."""
    told = time.perf_counter()

    def tell(turns: int) -> None:
        nonlocal told
        if time.perf_counter() - told > LOG_EVERY_S:
            console.print(f"{turns} windows measured in turns", markup=False)
            told = time.perf_counter()

    return tell


@contextlib.contextmanager
def _worktree(commit: str, path: Path) -> Iterator[Path]:
    """Yields a worktree of the commit, which is removed at the end."""
    _git("worktree", "add", "--quiet", "--detach", str(path), commit)
    try:
        yield path
    finally:
        _git("worktree", "remove", "--force", str(path))


def _git(*arguments: str, check: bool = True) -> str | None:
    """Returns what git prints, None if it fails and that is allowed.

    Raises:
      UserError: it fails, or there is no git.
    """
    try:
        done = subprocess.run(("git", *arguments), cwd=REPOSITORY, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"git revisions are compared with git, and it cannot be run: {error.strerror}") from error
    if done.returncode and check:
        raise UserError(f"git {' '.join(arguments[:2])} failed: {' '.join(done.stderr.split())}")
    return None if done.returncode else done.stdout.strip()
