"""Turns: runs that are compared measure one window after the other, in another random order every round.

The speed of a shared machine changes from second to second. Windows that lie next to each other see the same of it,
runs one after the other do not. A measuring process asks before each window (`await_turn`), over a socket that
RECJAX_TURNS names; without that variable it asks nobody. Whoever started the runs (`take_turns`) lets one go when all
of them have asked, so whatever a run does between two windows, such as starting its next process, it does alone.
"""

import contextlib
import functools
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from recjax.errors import UserError

VARIABLE = "RECJAX_TURNS"
ASK, GO = b"?", b"!"
POLL_S = 0.1
PATIENCE_S = 20.0  # for a program that was told to stop


def await_turn() -> None:
    """Returns when this process may measure its next window: at once, unless somebody hands out turns.

    Raises:
      UserError: who handed them out is gone.
    """
    path = os.environ.get(VARIABLE)
    if path is None:
        return
    answer = b""
    with contextlib.suppress(OSError):
        connection = _connect(path)
        connection.sendall(ASK)
        answer = connection.recv(1)
    if answer != GO:
        raise UserError(f"the comparison for which this process measures has ended (it was at {path}, by {VARIABLE})")


@functools.cache
def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


class TurnTaker:
    """A program that takes turns; it or its children measure, one process at a time.

    Attributes:
      name: of the run, for messages.
    """

    def __init__(
        self, name: str, command: Sequence[str], log: Path, path: Path, cwd: Path, variables: Mapping[str, str]
    ) -> None:
        """Starts the program.

        Args:
          name: of the run.
          command: of the program.
          log: file to which its output is appended.
          path: of the socket to be made; short, as the system allows about 100 characters.
          cwd: where it runs.
          variables: of its environment, beside those of this process.
        """
        self.name, self._log, self._asked, self._turns = name, log, False, 0
        self._connection: socket.socket | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._listener.settimeout(POLL_S)
        environment = {**os.environ, **variables, VARIABLE: str(path)}
        with log.open("ab") as output:  # a session of its own, so that all of its processes can be stopped
            self._program = subprocess.Popen(
                command, stdout=output, stderr=output, cwd=cwd, env=environment, start_new_session=True
            )

    def asks(self) -> bool:
        """Returns True when the program has asked for its next turn, False when it is done.

        Raises:
          UserError: it ended with an error, whose line is told, or without a turn.
        """
        while not self._asked:
            if self._connection is None:
                with contextlib.suppress(TimeoutError):
                    self._connection, _ = self._listener.accept()
                if self._connection is None and self._program.poll() is not None:
                    return self._ended()
            else:
                said = b""
                with contextlib.suppress(OSError):  # a process that was killed may have reset the connection
                    said = self._connection.recv(1)
                self._asked = said == ASK
                if not self._asked:  # that process is over; there may be another one
                    self._connection.close()
                    self._connection = None
        return True

    def go(self) -> None:
        """Lets the program have the turn that it asked for."""
        assert self._connection is not None
        self._asked, self._turns = False, self._turns + 1
        with contextlib.suppress(OSError):  # `asks` tells that it has ended
            self._connection.sendall(GO)

    def _ended(self) -> bool:
        if self._program.returncode:
            said = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            last = said[-1].removeprefix("error: ") if said else "it said nothing"
            raise UserError(f"{self.name} ended with code {self._program.returncode}: {last}")
        if not self._turns:
            raise UserError(f"{self.name} measured without asking for a turn; its code knows of none")
        return False

    def __enter__(self) -> "TurnTaker":
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops the program if it is not done."""
        for number in (signal.SIGINT, signal.SIGKILL):
            if self._program.poll() is None:
                os.killpg(self._program.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._program.wait(PATIENCE_S)
        for end in (self._connection, self._listener):
            if end is not None:
                end.close()


def take_turns(takers: Sequence[TurnTaker], seed: int, done: Callable[[int], None] = lambda turns: None) -> None:
    """Returns when all programs are done; until then one at a time measures a window, in random order each round.

    Args:
      takers: the programs.
      seed: of the order.
      done: called with the number of turns after each round.

    Raises:
      UserError: one ended with an error, or without a turn.
    """
    rng, turns = np.random.default_rng(seed), 0
    left = [taker for taker in takers if taker.asks()]
    while left:
        for index in rng.permutation(len(left)):
            left[index].go()
            left[index].asks()
            turns += 1
        left = [taker for taker in left if taker.asks()]
        done(turns)
