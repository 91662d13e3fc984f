"""LoadGen's process as the process of the system sees it, which answers its queries until it has ended or must end."""

import json
import subprocess
import sys
import threading
import types
from collections.abc import Mapping
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from recjax.load import mlperf_log
from recjax.load.generator import arrays_of_bytes, arrays_to_bytes
from recjax.load.mlperf_log import LoadGenError
from recjax.load.queries import Queries
from recjax.load.serve import Served, serve_until_end
from recjax.load.system import System
from recjax.load.watchdog import Interrupted, Watchdog
from recjax.load.wire import FrameReader, socket_pair

CLOSING_S = 1.0  # from the end of the connection to that of the process


class LoadGenProcess:
    """LoadGen's process, from its start to its end, as a context; `outcome` and `seen` are what it reported."""

    def __init__(self, plan: Mapping[str, Any], library: Queries) -> None:
        """Starts it on a plan."""
        self._plan = plan
        self._data, other_data = socket_pair()
        self._control, other_control = Pipe()
        fds = (other_data.fileno(), other_control.fileno())
        command = [sys.executable, "-m", "recjax.load.mlperf_generator", *map(str, fds)]
        self._process = subprocess.Popen(command, pass_fds=fds, stdin=subprocess.DEVNULL)
        other_data.close()
        other_control.close()
        self._library = library
        self._watchdog = Watchdog()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self.outcome: dict[str, Any] = {}
        self.seen: dict[str, NDArray] = {}

    def __enter__(self) -> "LoadGenProcess":
        """Hands over the plan."""
        self._listener.start()
        return self

    def __exit__(self, *exception: type | BaseException | types.TracebackType | None) -> None:
        """Ends the process, which may be inside LoadGen."""
        self._data.close()
        self._process.kill()
        self._process.wait()
        self._listener.join()
        self._control.close()

    def serve(self, system: System) -> Served:
        """Returns the batches that were formed; the system's own exceptions pass through.

        Raises:
          LoadGenError: LoadGen had to be ended or has ended itself.
        """
        served = None
        try:
            with self._watchdog:
                served = serve_until_end(self._data, FrameReader(self._data), system)
        except Interrupted:
            pass  # the listener knows why
        except ConnectionError:
            self._listener.join(CLOSING_S)
            if self._listener.is_alive():  # and LoadGen's process too: it was a connection of the system's own
                raise
        self._listener.join()
        if served is None or self.outcome["failure"]:
            raise LoadGenError(self._failure())
        return served

    def _listen(self) -> None:
        """Hands over the plan and takes the outcome; a run that failed must not keep the serving thread."""
        try:
            self._control.send_bytes(json.dumps(self._plan).encode())
            self._control.send_bytes(arrays_to_bytes({"sizes": self._library.sizes, "rows": self._library.rows}))
            self.outcome = json.loads(self._control.recv_bytes())
            if not (self.outcome["failure"] or self.outcome["stalled"]):
                self.seen = arrays_of_bytes(self._control.recv_bytes())
                return
        except (ConnectionError, EOFError):
            code = self._process.wait()
            self.outcome = {"failure": f"its process has ended with code {code}", "stalled": False}
        self._watchdog.end(self._failure())

    def _failure(self) -> str:
        """Returns in one line what went wrong."""
        run = f"LoadGen's {self._plan['scenario']} run"
        logged = mlperf_log.logged_problems(mlperf_log.read_records(Path(self._plan["folder"]))).failures
        also = f"; LoadGen logged: {'; '.join(logged)}" if logged else ""
        if not self.outcome["stalled"]:
            return f"{run} failed: {self.outcome['failure']}{also}"
        return (
            f"{run} hangs and was ended: {self.outcome['issued']:,} samples issued, {self.outcome['completed']:,} "
            f"completed, then nothing for {self._plan['silence_s']:g} s{also}; see that the system answers every query "
            "(without --loadgen=mlperf the same one answers to recjax's generator), or allow a longer silence"
        )
