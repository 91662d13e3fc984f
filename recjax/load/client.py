"""The generator's process, and windows measured with it.

Shapes: N queries, A frames of answers.
"""

import functools
import subprocess
import sys
import threading
import types
from collections.abc import Mapping
from multiprocessing.connection import Pipe

import numpy as np
from numpy.typing import NDArray

from recjax.load.arrivals import Arrivals, arrival_times
from recjax.load.generator import GAVE_UP, arrays_of_bytes, arrays_to_bytes
from recjax.load.queries import Queries, QueryMix, draw_queries
from recjax.load.serve import Served, serve_until_end
from recjax.load.system import System
from recjax.load.watchdog import Interrupted, Watchdog
from recjax.load.window import PARTS, Privileges, Window
from recjax.load.wire import FrameReader, socket_pair

OVERLOAD_FACTOR = 5  # a window ends when a query has waited this many latency limits
SILENCE_S = 10.0  # or when nothing has been answered for this long
END_S = 60.0  # for a system to understand that a window is over: one batch that takes longer hangs
CLOSING_S = 2.0  # a process whose connection is closed ends within this


class LoadGenerator:
    """A process that sends queries; made once for a whole run and closed at its end, as a context."""

    def __init__(self) -> None:
        """Starts the process."""
        self._data, other_data = socket_pair()
        self._control, other_control = Pipe()
        self._reader = FrameReader(self._data)
        fds = (other_data.fileno(), other_control.fileno())
        command = [sys.executable, "-m", "recjax.load.generator", *map(str, fds)]
        self._process = subprocess.Popen(command, pass_fds=fds, stdin=subprocess.DEVNULL)
        other_data.close()
        other_control.close()
        self._watchdog = Watchdog()
        threading.Thread(target=self._watch, daemon=True).start()

    def __enter__(self) -> "LoadGenerator":
        """Returns itself."""
        return self

    def __exit__(self, *exception: type | BaseException | types.TracebackType | None) -> None:
        """Ends the process."""
        self._control.close()
        self._data.close()
        self._process.wait()

    @functools.cached_property
    def privileges(self) -> Privileges:
        """Returns what its process obtained; the first call waits until that has started.

        Raises:
          RuntimeError: the generator's process has ended.
        """
        try:
            obtained = arrays_of_bytes(self._control.recv_bytes())
        except (ConnectionError, EOFError) as error:
            raise self._ended() from error
        return Privileges(int(obtained["niceness"]), bool(obtained["short_slice"]))

    def measure(
        self,
        system: System,
        rate_qps: float,
        n_queries: int,
        *,
        slo_ms: float,
        seed: int,
        arrivals: Arrivals | None = None,
        mix: QueryMix | None = None,
        most_over: int | None = None,
    ) -> Window:
        """Returns an open-loop window of queries that arrive whether or not the earlier ones are answered.

        Args:
          system: answers in this process and thread.
          rate_qps: mean rate of the arrivals.
          n_queries: how many.
          slo_ms: latency limit; a query that has waited OVERLOAD_FACTOR times it ends the window.
          seed: of arrivals and queries.
          arrivals: Poisson by default.
          mix: one uniform row a query by default.
          most_over: of the queries, that may exceed the limit: with one more the window has failed, and ends. None
            measures to the end.

        Raises:
          RuntimeError: the system hangs, or the generator's process has ended.
        """
        due_N = arrival_times(arrivals or Arrivals(), rate_qps, n_queries, seed)
        queries = draw_queries(mix or QueryMix(), n_queries, system.n_rows, seed)
        plan = {
            "due": due_N,
            "sizes": queries.sizes,
            "rows": queries.rows,
            "limit_s": np.array(OVERLOAD_FACTOR * slo_ms / 1e3),
            "silence_s": np.array(SILENCE_S),
            "end_s": np.array(END_S),
            "slo_s": np.array(slo_ms / 1e3),
            "most_over": np.array(n_queries if most_over is None else most_over),
        }
        privileges = self.privileges  # they come before the first answer
        try:
            self._control.send_bytes(arrays_to_bytes(plan))
            with self._watchdog:
                served = serve_until_end(self._data, self._reader, system)
            seen = arrays_of_bytes(self._control.recv_bytes())
        except (ConnectionError, EOFError, Interrupted) as error:
            try:
                self._process.wait(CLOSING_S)
            except subprocess.TimeoutExpired:
                raise error from None  # the process is there: it was a connection of the system's own
            raise self._ended() from error
        return _window(due_N, queries, seen, served, rate_qps, privileges)

    def _watch(self) -> None:
        """Ends a window whose system never comes back: its generator has given up by then."""
        self._process.wait()
        self._watchdog.end(str(self._ended()))

    def _ended(self) -> RuntimeError:
        code = self._process.wait()
        if code == GAVE_UP:
            return RuntimeError(f"the system hangs: one batch has taken more than {END_S:g} s")
        return RuntimeError(f"the load generator's process has ended with code {code}")


def _window(
    due_N: NDArray,
    queries: Queries,
    seen: Mapping[str, NDArray],
    served: Served,
    rate_qps: float,
    privileges: Privileges,
) -> Window:
    """Returns the window of what the generator saw; times of a query that several batches share are of the last."""
    completed_A = seen["completed"]
    done = int(completed_A[-1]) if len(completed_A) else 0
    frame_N = np.searchsorted(completed_A, np.arange(done), side="right")
    stamps = seen["stamps"][frame_N]
    moments = np.column_stack([due_N[:done], seen["sent"][:done], stamps, seen["received"][:done]])
    parts = np.diff(moments, axis=1) * 1e3
    samples = int(queries.sizes[:done].sum())
    return Window(
        latency_ms=(seen["received"][:done] - due_N[:done]) * 1e3,
        parts_ms={name: parts[:, index] for index, name in enumerate(PARTS)},
        samples=samples,
        padded_samples=int(served.padded_samples.sum()),
        batch_samples=served.batch_samples,
        duration_s=float(seen["received"][done - 1] - due_N[0]) if done else float(seen["duration_s"]),
        offered_qps=rate_qps,
        unanswered=int(np.searchsorted(due_N, seen["duration_s"], side="right")) - done,
        overloaded=bool(seen["overloaded"]),
        silent=bool(seen["silent"]),
        failed_early=bool(seen["failed_early"]),
        generator_cpu_share=float(seen["cpu_s"] / seen["duration_s"]),
        privileges=privileges,
        kept_answers=_kept(queries, seen, served),
    )


def _kept(queries: Queries, seen: Mapping[str, NDArray], served: Served) -> list[tuple[NDArray, bytes]]:
    ends_A = np.cumsum(served.batch_samples)
    content, kept, start = seen["kept_bytes"].tobytes(), [], 0
    for number, size in zip(seen["kept"], seen["kept_sizes"], strict=True):
        rows = queries.rows[ends_A[number] - served.batch_samples[number] : ends_A[number]]
        kept.append((rows, content[start : start + size]))
        start += size
    return kept
