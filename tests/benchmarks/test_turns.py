import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import turns
from benchmarks.turns import VARIABLE, TurnTaker, await_turn, take_turns
from recjax.errors import UserError

SCRIPT = Path(__file__).with_name("turn_taker.py")
ROOT = SCRIPT.parent.parent.parent


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yields a folder with a short path, as a socket needs."""
    with tempfile.TemporaryDirectory(prefix="turns-") as name:
        yield Path(name)


def start(folder: Path, letter: str, *windows: object) -> TurnTaker:
    command = [sys.executable, str(SCRIPT), str(folder / "windows"), letter, *map(str, windows)]
    log, path = folder / f"{letter}.log", folder / f"{letter}.turns"
    return TurnTaker(f"run {letter}", command, log, path, ROOT, {"PYTHONPATH": str(ROOT)})


def running(group: int) -> list[str]:
    """Returns the processes of a group that have not ended, whether or not somebody has asked for their exit code."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True)
    lines = (line.split() for line in listed.stdout.splitlines())
    return [state for of, state in lines if int(of) == group and not state.startswith("Z")]


def measured(folder: Path) -> list[str]:
    return (folder / "windows").read_text().splitlines()


def test_without_the_variable_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    await_turn()


def test_windows_take_turns_across_processes(folder: Path) -> None:
    rounds: list[int] = []
    with contextlib.ExitStack() as stack:
        takers = [
            stack.enter_context(start(folder, letter, *windows)) for letter, windows in (("a", (2, 2)), ("b", (4,)))
        ]
        take_turns(takers, 0, rounds.append)
    lines = measured(folder)
    assert set(lines) == {"a(a)", "b(b)"}  # no window began within another
    assert [sorted(line[0] for line in lines[k : k + 2]) for k in (0, 2, 4, 6)] == [["a", "b"]] * 4
    assert rounds == [2, 4, 6, 8]


def test_the_order_changes_and_the_longer_run_goes_on_alone(folder: Path) -> None:
    with contextlib.ExitStack() as stack:
        takers = [stack.enter_context(start(folder, letter, n)) for letter, n in (("a", 8), ("b", 12))]
        take_turns(takers, 1)
    letters = "".join(line[0] for line in measured(folder))
    assert letters[16:] == "bbbb"
    assert {letters[k : k + 2] for k in range(0, 16, 2)} == {"ab", "ba"}


def test_an_error_of_one_run_is_told_and_ends_the_other(folder: Path) -> None:
    message = "run b ended with code 2: there is no data$"
    with contextlib.ExitStack() as stack:
        takers = [stack.enter_context(start(folder, letter, *n)) for letter, n in (("a", (500,)), ("b", (1, "fail")))]
        with pytest.raises(UserError, match=message):
            take_turns(takers, 0)
    assert all(taker._program.poll() is not None for taker in takers)
    assert len(measured(folder)) < 10


def test_a_run_that_never_asks_is_not_taken_for_one_in_turns(folder: Path) -> None:
    with start(folder, "a") as taker, pytest.raises(UserError, match="run a measured without asking for a turn"):
        take_turns([taker], 0)


def test_a_process_whose_comparison_is_gone_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(folder / "nobody"))
    turns._connect.cache_clear()
    with pytest.raises(UserError, match="the comparison for which this process measures has ended"):
        await_turn()
    with start(folder, "a", 500) as taker:
        assert taker.asks()
    assert taker._program.returncode != 0


def test_the_run_is_stopped_with_all_of_its_processes(folder: Path) -> None:
    with start(folder, "a", 500) as taker:
        assert taker.asks()
        group = taker._program.pid
    until = time.monotonic() + 30  # whoever adopts the orphans takes them away
    while (left := running(group)) and time.monotonic() < until:
        time.sleep(0.05)
    assert left == []
    assert taker._program.returncode is not None
    assert os.environ.get(VARIABLE) is None
