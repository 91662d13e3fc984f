"""The process in which LoadGen runs, for one run, and what carries its queries to the system and the answers back.

An exception in a callback would abort LoadGen, and a query without an answer would keep it for ever: neither can reach
the process of the system, which sees the same connection as from recjax's own generator. LoadGen knows samples; each is
a query of its own on that connection, so that every one is completed with its batch.

Shapes: Q queries of the library, S rows of all of them.
"""

import contextlib
import gc
import json
import math
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recjax.load.generator import KEPT_FRAMES, arrays_of_bytes, arrays_to_bytes, be_prompt
from recjax.load.watchdog import ENDED_BY_WATCHDOG, Progress
from recjax.load.wire import AnswersFrame, FrameReader, pack_end, pack_queries

SCENARIOS = {
    "single_stream": "SingleStream",
    "multi_stream": "MultiStream",
    "server": "Server",
    "offline": "Offline",
}
WATCH_S = 0.1  # how often the run is looked at
SELECT_S = 0.05  # what the connection did not take at once is tried again after this, at the latest
SWITCH_S = 1e-4  # of Python's threads: the one that issues must not wait for the one that completes


class Courier:
    """Sends what LoadGen issues, and completes what comes back, in the order in which it was issued."""

    def __init__(self, connection: socket.socket, sizes_Q: NDArray, rows_S: NDArray, progress: Progress) -> None:
        """Takes the connection to the system, and the library of queries that LoadGen's indices name."""
        connection.setblocking(False)
        self._connection, self._reader = connection, FrameReader(connection)
        self._sizes, self._rows = sizes_Q, rows_S
        self._ends = np.cumsum(sizes_Q, dtype=np.int64)
        self._ids: list[int] = []
        self._unsent, self._sending = b"", threading.Lock()
        self._batches = 0
        self._keep_every = 1
        self.progress = progress
        self.indices: list[int] = []
        self.kept: dict[int, bytes] = {}
        self.failure: str | None = None

    def issue(self, ids: Sequence[int], indices: Sequence[int]) -> None:
        """Sends samples; called by LoadGen, so that no exception may leave it."""
        try:
            self._ids += ids
            self.indices += indices
            self.progress.issued += len(ids)
            sizes, rows = rows_of_queries(self._sizes, self._rows, self._ends, indices)
            self._send(pack_queries(sizes.tobytes(), rows.tobytes()))
        except BaseException as error:  # anything that leaves this aborts the process without a word
            self.failure = self.failure or f"{type(error).__name__}: {error}"

    def end(self) -> None:
        """Tells the system that no more comes."""
        self._send(pack_end(abort=False))

    def _send(self, content: bytes) -> None:
        """Hands over what the connection takes now; the rest goes when the system has read."""
        with self._sending:
            self._unsent += content
            with contextlib.suppress(BlockingIOError):
                self._unsent = self._unsent[self._connection.send(self._unsent) :]

    def receive_until_end(self) -> None:
        """Completes samples until the system has ended the run; runs in a thread of its own."""
        from mlperf_loadgen import QuerySampleResponse, QuerySamplesComplete

        try:
            while True:
                select.select([self._connection], [self._connection] if self._unsent else [], [], SELECT_S)
                if self._unsent:
                    self._send(b"")
                self._reader.fill()
                while (frame := self._reader.next_answers()) is not None:
                    if frame.completed == 0 and not any(frame.stamps):
                        return
                    start = self.progress.completed
                    ids = self._ids[start : start + frame.completed]
                    if len(ids) < frame.completed:
                        surplus = frame.completed - len(ids)
                        self.failure = f"the system completed {surplus} samples more than the {len(self._ids)} issued"
                        return
                    self.progress.completed += len(ids)
                    self._keep(frame)
                    QuerySamplesComplete([QuerySampleResponse(number, 0, 0) for number in ids])
        except Exception as error:  # whatever it is, such as a system's process that is gone: the run is over
            self.failure = self.failure or f"{type(error).__name__}: {error}"

    def _keep(self, frame: AnswersFrame) -> None:
        """Keeps the answers of some batches, spread evenly over the run."""
        if self._batches % self._keep_every == 0:
            self.kept[self._batches] = frame.answers
            if len(self.kept) > KEPT_FRAMES:
                self._keep_every *= 2
                self.kept = {k: v for k, v in self.kept.items() if k % self._keep_every == 0}
        self._batches += 1


def rows_of_queries(
    sizes_Q: NDArray, rows_S: NDArray, ends_Q: NDArray, indices: Sequence[int] | NDArray
) -> tuple[NDArray, NDArray]:
    """Returns the sizes of the queries of these indices and the rows of all of them, one after another."""
    if len(indices) == 1:  # as a server's queries come: array indexing alone takes longer than all the rest
        index = indices[0]
        return sizes_Q[index : index + 1], rows_S[ends_Q[index] - sizes_Q[index] : ends_Q[index]]
    picked = np.asarray(indices)
    sizes = sizes_Q[picked]
    before = np.cumsum(sizes) - sizes
    within = np.arange(int(sizes.sum())) - np.repeat(before, sizes)
    return sizes, rows_S[np.repeat(ends_Q[picked] - sizes, sizes) + within]


def run_loadgen(
    scenario: str, settings: Mapping[str, Any], issue: Any, n_library: int, folder: str, *, trace: bool
) -> None:
    """Runs LoadGen once in this thread; returns when every sample was completed, which may be never.

    Args:
      scenario: one of SCENARIOS.
      settings: attributes of LoadGen's TestSettings.
      issue: called with the ids of samples and their indices in the library; must return at once and never raise.
      n_library: queries in the library.
      folder: for LoadGen's logs; it exists.
      trace: whether the times of every sample are logged.
    """
    import mlperf_loadgen as loadgen

    test = loadgen.TestSettings()
    test.scenario = getattr(loadgen.TestScenario, SCENARIOS[scenario])
    test.mode = loadgen.TestMode.PerformanceOnly
    for name, value in settings.items():
        setattr(test, name, value)
    output = loadgen.LogOutputSettings()
    output.outdir = folder
    output.copy_summary_to_stdout = False
    log = loadgen.LogSettings()
    log.log_output = output
    log.enable_trace = trace
    system = loadgen.ConstructFastSUT(issue, lambda: None)
    library = loadgen.ConstructQSL(n_library, n_library, lambda indices: None, lambda indices: None)
    # Without a name of its own LoadGen would read `audit.config` in the working folder, and change the settings.
    loadgen.StartTestWithLogSettings(system, library, test, log, os.path.join(folder, "audit.config"))
    loadgen.DestroyQSL(library)
    loadgen.DestroyFastSUT(system)


def _watch(courier: Courier, control: Connection, ended: threading.Event) -> None:
    """Ends this process if the run stands still or has failed."""
    while not ended.wait(WATCH_S):
        if courier.failure or courier.progress.stalled():
            counts = {"issued": courier.progress.issued, "completed": courier.progress.completed}
            outcome = {"failure": courier.failure, "stalled": not courier.failure, **counts}
            try:
                control.send_bytes(json.dumps(outcome).encode())
            finally:  # even if nobody reads it any more
                os._exit(ENDED_BY_WATCHDOG)


def main(data_fd: int, control_fd: int) -> None:
    """Runs the plan that comes over the control connection, and answers with what this process saw."""
    be_prompt()  # LoadGen sleeps until a query is due
    sys.setswitchinterval(SWITCH_S)
    gc.disable()
    control = Connection(control_fd)
    plan = json.loads(control.recv_bytes())
    library = arrays_of_bytes(control.recv_bytes())
    scheduled = plan["settings"]["min_query_count"] if plan["scenario"] == "server" else 0
    progress = Progress(math.ceil(plan["silence_s"] / WATCH_S), scheduled=scheduled)
    courier = Courier(socket.socket(fileno=data_fd), library["sizes"], library["rows"], progress)
    ended = threading.Event()
    receiver = threading.Thread(target=courier.receive_until_end, daemon=True)
    receiver.start()
    threading.Thread(target=_watch, args=(courier, control, ended), daemon=True).start()
    cpu_before, start = time.process_time(), time.perf_counter()
    n_library = len(library["sizes"])
    run_loadgen(plan["scenario"], plan["settings"], courier.issue, n_library, plan["folder"], trace=plan["trace"])
    cpu_share = (time.process_time() - cpu_before) / (time.perf_counter() - start)
    courier.end()
    receiver.join()
    ended.set()
    control.send_bytes(json.dumps({"failure": courier.failure, "stalled": False, "cpu_share": cpu_share}).encode())
    seen: dict[str, NDArray] = {
        "indices": np.array(courier.indices, np.int64),
        "kept": np.array(list(courier.kept), np.int64),
        "kept_sizes": np.array([len(answers) for answers in courier.kept.values()], np.int64),
        "kept_bytes": np.frombuffer(b"".join(courier.kept.values()), np.uint8),
    }
    control.send_bytes(arrays_to_bytes(seen))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
