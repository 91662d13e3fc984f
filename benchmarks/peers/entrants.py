"""Peers in a contest: their settings, their processes, and what came out.

All processes are there at once, and one of them computes at a time.
"""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.equality import TOLERANCE
from benchmarks.peers.process import PeerProcess
from benchmarks.peers.registry import Peer
from recjax.measurement.host_noise import HostNoise
from recjax.progress import Advance


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How peers are timed.

    Attributes:
      threads: of each peer.
      rounds: in each of which every peer has one turn.
      turn_s: that a turn's timed calls take, about; there are at least FEWEST_CALLS.
      tolerance: of the answers.
      quiet_s: for which turns may wait until other programs take less than BUSY of the processors, and for which they
        are taken again if these took more meanwhile. What the machine did decides that, never a time.
      pythons: interpreters of peers that have one of their own, by the peer's name.
    """

    threads: int
    rounds: int = 12
    turn_s: float = 0.12
    tolerance: float = TOLERANCE
    quiet_s: float = 0.0
    pythons: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Entrant:
    """A peer in a workload's contests.

    Attributes:
      peer: which.
      process: that computes, running or not.
      reason: why it takes no part in any contest, None while it does.
      versions: of Python and its packages, once it told them.
    """

    peer: Peer
    process: PeerProcess
    reason: str | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Returns the process's reply, {"error": why} if there is none."""
        if self.reason is not None:
            return {"error": self.reason}
        reply = self.process.ask(**request)
        if "error" in reply and not self.process.is_running:
            self.reason = reply["error"]
        return reply


@dataclasses.dataclass
class Result:
    """What is known of an entrant in one contest.

    Attributes:
      entrant: whose.
      reason: why it is not timed, or its times do not count.
      compile_s: of compiling and the first answer.
      largest_difference: of its answers from recjax's.
      turns: replies of each round.
    """

    entrant: Entrant
    reason: str | None = None
    compile_s: float | None = None
    largest_difference: float | None = None
    turns: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def ask(self, **request: Any) -> dict[str, Any] | None:
        """Returns the reply of an entrant that is still in the contest; None if it is not, or no longer."""
        if self.reason is not None:
            return None
        reply = self.entrant.ask(**request)
        self.reason = reply.get("error")
        return None if self.reason is not None else reply


@dataclasses.dataclass(frozen=True)
class Contest:
    """What came out.

    Attributes:
      results: of the entrants, recjax first.
      noise: of the host during the turns.
      tries: how often all turns were taken; those before the last were disturbed, and are forgotten.
    """

    results: list[Result]
    noise: HostNoise
    tries: int

    @property
    def others_share(self) -> float | None:
        """Returns the share of the machine's processor time that other programs took during the turns, about."""
        if self.noise.busy_share is None:
            return None
        own_s = sum(turn["all_cpu_ms"] for result in self.results for turn in result.turns) / 1e3
        return max(0.0, self.noise.busy_share - own_s / (self.noise.duration_s * (os.cpu_count() or 1)))


@contextlib.contextmanager
def entrants_of(peers: Sequence[Peer], folder: Path, settings: Settings, advance: Advance) -> Iterator[list[Entrant]]:
    """Yields the peers with the folder's task loaded, and ends their processes."""
    entrants: list[Entrant] = []
    try:
        for peer in peers:
            python = settings.pythons.get(peer.name, sys.executable)
            entrant = Entrant(peer, PeerProcess(peer, folder, settings.threads, python))
            entrants.append(entrant)
            reply = entrant.ask(do="start")
            entrant.versions, entrant.reason = reply.get("versions", {}), reply.get("error")
            advance(f"{peer.name}: {entrant.reason or 'ready'}")
        yield entrants
    finally:
        for entrant in entrants:
            entrant.process.close()
