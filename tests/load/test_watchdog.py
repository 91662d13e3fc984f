import signal
import subprocess
import sys
import threading
import time

import pytest

from recjax.load.watchdog import INTERRUPT, Interrupted, Progress, Watchdog


def test_silence_counts_only_while_something_is_to_come() -> None:
    progress = Progress(2, scheduled=2)
    assert looks(progress, 3) == [False, False, True]  # nothing was ever issued
    progress.issued = 1
    assert looks(progress, 4) == [False, False, False, True]  # it waits for its answer
    progress.completed = 1
    assert looks(progress, 9) == [False] * 9  # the second is not due yet
    progress.issued = 2
    progress.completed = 2
    assert looks(progress, 4) == [False, False, False, True]  # all are answered, and the run does not end


def test_without_a_schedule_the_next_query_follows_at_once() -> None:
    progress = Progress(1)
    progress.issued = progress.completed = 1
    assert looks(progress, 3) == [False, False, True]


def looks(progress: Progress, n: int) -> list[bool]:
    return [progress.stalled() for _ in range(n)]


def test_a_sleeping_main_thread_is_called_back_and_handlers_are_restored() -> None:
    before = signal.getsignal(INTERRUPT)
    watchdog = Watchdog()

    def sleep() -> None:
        with watchdog:
            caller.start()
            time.sleep(30)

    caller = threading.Thread(target=watchdog.end, args=("it hangs",))
    with pytest.raises(Interrupted):
        sleep()
    caller.join()
    assert signal.getsignal(INTERRUPT) == before


def test_nobody_is_called_back_who_leaves_in_time_or_was_never_there() -> None:
    watchdog = Watchdog()
    watchdog.end("nobody is there")
    with watchdog:
        caller = threading.Thread(target=watchdog.end, args=("it hangs",))
        caller.start()
    caller.join()


def test_another_thread_cannot_be_called_back_so_that_the_process_ends() -> None:
    program = """
import threading, time
from recjax.load import watchdog
watchdog.GRACE_S = 0.2
watched = watchdog.Watchdog()
def work():
    with watched:
        threading.Thread(target=watched.end, args=("it hangs",)).start()
        time.sleep(30)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (
        1,
        "error: it hangs; the system cannot be interrupted: its process ends here\n",
    )
