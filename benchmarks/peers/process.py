"""The coordinator's end of a peer's process: asks, waits, and ends it.

A process that is not asked waits on its pipe, so at any time only one of them computes.
"""

import contextlib
import dataclasses
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.peers.registry import Peer

REPOSITORY = Path(__file__).parents[2]
REPLY_TIMEOUT_S = 900.0  # compiling is what takes longest
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class PeerProcess:
    """A running benchmarks.peers.worker; every failure of it is told as a reason, none is raised."""

    def __init__(self, peer: Peer, folder: Path, threads: int, python: str = sys.executable) -> None:
        """Starts the process, in the coordinator's own process group.

        Args:
          peer: whose process it is.
          folder: of the task; the log goes there too.
          threads: that it may compute with.
          python: interpreter, of which only NumPy and what the peer needs is asked.
        """
        self.log = folder / f"{peer.name}.log"
        in_json = json.dumps(dataclasses.asdict(peer))
        command = [python, "-m", "benchmarks.peers.worker", in_json, str(folder), str(threads)]
        environment = environment_of(folder, threads, os.environ)
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, bufsize=0
            )

    @property
    def is_running(self) -> bool:
        """Returns whether the process can be asked."""
        return self._process.poll() is None

    def ask(self, timeout_s: float = REPLY_TIMEOUT_S, **request: Any) -> dict[str, Any]:
        """Returns the reply of a running process, {"error": why} if there is none; one that does not reply is ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
        except BrokenPipeError:
            return {"error": self._end_in_words()}
        line = self._read_line(timeout_s)
        if line is None:
            self.close()
            return {"error": f"no reply to {request['do']!r} within {timeout_s:g} s"}
        return json.loads(line) if line.endswith(b"\n") else {"error": self._end_in_words()}

    def close(self) -> None:
        """Ends the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]

    def _read_line(self, timeout_s: float) -> bytes | None:
        """Returns the next line, without its end if the process is at its own; None if it takes too long."""
        assert self._process.stdout is not None
        pipe, line, end_s = self._process.stdout.fileno(), b"", time.monotonic() + timeout_s
        while not line.endswith(b"\n"):
            readable, _, _ = select.select([pipe], [], [], max(0.0, end_s - time.monotonic()))
            if not readable:
                return None
            if not (part := os.read(pipe, 2**16)):
                break
            line += part
        return line

    def _end_in_words(self) -> str:
        self.close()
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        said = f": {lines[-1].strip()[:300]}" if lines else ""
        return f"its process ended with code {self._process.returncode}{said}"


def environment_of(folder: Path, threads: int, own: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment of a peer's process: this one's, with its threads and where its caches are.

    Args:
      folder: of the task, in which nothing stays.
      threads: that OpenMP may start.
      own: environment of the coordinator.
    """
    paths = [str(REPOSITORY), *filter(None, [own.get("PYTHONPATH")])]
    return {
        **own,
        **dict.fromkeys(THREAD_VARIABLES, str(threads)),
        "PYTHONPATH": os.pathsep.join(paths),
        "JAX_PLATFORMS": "cpu",
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # else it keeps processes of its own, which wake up in others' turns
    }
