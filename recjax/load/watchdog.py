"""What ends a run that would never end: in LoadGen's process, and in the one of the system it waits for.

LoadGen waits without bound for a query that is not completed, inside C++ where no exception reaches it: its process is
ended. A system that does not come back from an answer is interrupted by a signal where Python can be; where it cannot,
its process is ended too.
"""

import os
import signal
import sys
import threading
import types

INTERRUPT = signal.SIGUSR1
GRACE_S = 2.0  # a system has this long to come back by itself, and again after the signal
ENDED_BY_WATCHDOG = 1  # exit code


class Progress:
    """Counts the samples that LoadGen has issued and the system has completed."""

    def __init__(self, silent_looks: int, *, scheduled: int = 0) -> None:
        """Starts at none.

        Args:
          silent_looks: how often in a row `stalled` may find nothing new. Looks are counted and not seconds, so that
            the time in which a machine or a process is suspended is not taken for silence.
          scheduled: samples that come on a schedule: before the last of them nothing need happen while none waits.
        """
        self.issued = self.completed = 0
        self._silent_looks, self._scheduled = silent_looks, scheduled
        self._looks, self._seen = 0, (0, 0)

    def stalled(self) -> bool:
        """Returns whether the run stands still; to be asked at equal intervals."""
        seen = (self.issued, self.completed)
        between_arrivals = self.issued == self.completed and 0 < self.issued < self._scheduled
        self._looks = 0 if seen != self._seen or between_arrivals else self._looks + 1
        self._seen = seen
        return self._looks > self._silent_looks


class Interrupted(BaseException):
    """Raised in the thread that a watchdog calls back; like KeyboardInterrupt it is no error that a system handles."""


class Watchdog:
    """A context; `end`, called in another thread, makes the thread that entered it leave, by all means."""

    def __init__(self) -> None:
        """Watches nobody yet."""
        self._left, self._lock = threading.Event(), threading.Lock()
        self._left.set()

    def __enter__(self) -> "Watchdog":
        """Prepares for the signal; only a main thread can take it."""
        self._thread = threading.get_ident()
        self._takes_signals = threading.current_thread() is threading.main_thread()
        if self._takes_signals:
            self._before = signal.signal(INTERRUPT, self._interrupt)
        self._left.clear()
        return self

    def __exit__(self, *exception: type | BaseException | types.TracebackType | None) -> None:
        """Calls nobody back any more."""
        self._left.set()
        if self._takes_signals:
            with self._lock:  # not between the look at `_left` and the signal, which would then end the process
                signal.signal(INTERRUPT, self._before or signal.SIG_DFL)

    def _interrupt(self, number: int, frame: types.FrameType | None) -> None:
        if not self._left.is_set():
            raise Interrupted

    def end(self, reason: str) -> None:
        """Waits for the thread to leave, then interrupts it, then ends the process after one line that says why."""
        if self._left.wait(GRACE_S):
            return
        with self._lock:
            if self._takes_signals and not self._left.is_set():
                signal.pthread_kill(self._thread, INTERRUPT)
        if not self._left.wait(GRACE_S):
            print(f"error: {reason}; the system cannot be interrupted: its process ends here", file=sys.stderr)
            sys.stderr.flush()
            os._exit(ENDED_BY_WATCHDOG)
