"""A peer's process: one line of JSON in, one out, and nothing done in between.

`python -m benchmarks.peers.worker PEER FOLDER THREADS`, the peer as JSON, is what benchmarks.peers.process starts. It
ends with its standard input, so a coordinator that is killed leaves none behind.
"""

import gc
import json
import os
import pkgutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.registry import Peer, missing, versions
from benchmarks.peers.workloads import Answer, read_task

CHECK_SEED, CHECKED_REQUESTS = 1, 64  # at least so many


class Session:
    """A peer with its task; each method answers the request of its name."""

    def __init__(self, peer: Peer, folder: Path, threads: int) -> None:
        """Takes what the process was started with."""
        self.peer, self.folder, self.threads = peer, folder, threads
        self.answers: dict[int, Answer] = {}
        self.cpu_at_reply_s = 0.0

    def start(self) -> dict[str, Any]:
        """Returns the versions, having loaded the weights; or what is missing."""
        if reason := missing(self.peer):
            return {"error": reason}
        task = read_task(self.folder, self.threads)
        self.n_requests = len(next(iter(task.columns.values())))
        self.compile_for: Callable[[int], Answer] = pkgutil.resolve_name(self.peer.prepare)(task)
        return {"versions": versions(self.peer)}

    def build(self, batch_size: int) -> dict[str, Any]:
        """Returns the seconds that compiling and the first answer took."""
        started = time.perf_counter()
        self.answers[batch_size] = self.compile_for(batch_size)
        self.answers[batch_size](self._rows([CHECK_SEED, 0], 1, batch_size)[0])
        compile_s = time.perf_counter() - started
        gc.collect()
        gc.freeze()  # as a serving process does: no later collection walks what was made until here
        return {"compile_s": compile_s}

    def check(self, batch_size: int, to: str) -> dict[str, Any]:
        """Writes the answers of a batch to an .npz file, or of as many as hold CHECKED_REQUESTS."""
        batches = self._rows([CHECK_SEED, 1], -(-CHECKED_REQUESTS // batch_size), batch_size)
        answers = [self.answers[batch_size](rows) for rows in batches]
        joined = {name: np.concatenate([one[name] for one in answers]) for name in answers[0]}
        np.savez(to, **joined)  # type: ignore[arg-type]
        return {}

    def turn(self, batch_size: int, seed: list[int], calls: int) -> dict[str, Any]:
        """Returns milliseconds of each call, after one that is not timed, and of CPU time.

        `cpu_ms` is that of a timed call, `waited_cpu_ms` since the last reply, and `all_cpu_ms` since then and in this
        turn.
        """
        waited_ms = 1e3 * (time.process_time() - self.cpu_at_reply_s)
        answer, rows = self.answers[batch_size], self._rows(seed, 1 + calls, batch_size)
        answer(rows[0])  # the caches hold what the peer before left there
        latency_ms, cpu_started_s = [], time.process_time()
        for of_call in rows[1:]:
            started = time.perf_counter()
            answer(of_call)
            latency_ms.append(1e3 * (time.perf_counter() - started))
        ended_s = time.process_time()
        return {
            "latency_ms": latency_ms,
            "cpu_ms": 1e3 * (ended_s - cpu_started_s) / calls,
            "waited_cpu_ms": waited_ms,
            "all_cpu_ms": 1e3 * (ended_s - self.cpu_at_reply_s),
        }

    def _rows(self, seed: list[int], calls: int, batch_size: int) -> np.ndarray:
        """Returns the numbers of the requests of some batches, the same for every peer."""
        return np.random.default_rng(seed).integers(0, self.n_requests, (calls, batch_size))


def limit_cores(threads: int) -> None:
    """Keeps the process to as many cores as it may have threads: XLA makes one thread a core that it may use."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def one_line(error: BaseException) -> str:
    """Returns the error's kind and first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def main(arguments: list[str]) -> None:
    """Answers requests until there are no more."""
    peer, folder, threads = arguments
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the coordinator ends its peers
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no reply
    limit_cores(int(threads))
    session = Session(Peer(**json.loads(peer)), Path(folder), int(threads))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = getattr(session, request.pop("do"))(**request)
        except Exception as error:  # whatever a peer's library raises costs that peer's row alone, which says why
            reply = {"error": one_line(error)}
        session.cpu_at_reply_s = time.process_time()
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
