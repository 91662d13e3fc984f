"""For tests that hold real time to a formula: was it the machine?"""

import subprocess
import sys
import time

import pytest

from recjax.measurement.jitter import probe_jitter

PROBE_S, LONGEST_GAP_MS = 2.0, 2.0  # 2% of the latencies that are compared
WAKES, AWAY_S = 100, 0.020
LONGEST_WAKE_MS = 0.2  # 1% of the shortest service, 20 ms, to which it adds; at half load a queue makes 2% of that
ECHO = "import os\nwhile byte := os.read(0, 1):\n    os.write(1, byte)"


def skip_if_disturbed(*, wakes: bool = False) -> None:
    """Skips the test if the machine takes more time than the test allows; call it after its last miss.

    Args:
      wakes: whether the test has two processes that wake each other.
    """
    gap_ms = probe_jitter(PROBE_S).largest_gap_us / 1e3
    if gap_ms > LONGEST_GAP_MS:
        pytest.skip(f"this machine takes a core away for {gap_ms:.1f} ms at a time; the test needs a quiet one")
    if wakes and (wake_ms := mean_wake_ms()) > LONGEST_WAKE_MS:
        pytest.skip(f"this machine takes {wake_ms:.2f} ms to wake a process and be woken; the test needs a quiet one")


def mean_wake_ms() -> float:
    """Returns how long a process that sleeps takes to answer, as the load generator's does between two queries."""
    echo = subprocess.Popen([sys.executable, "-c", ECHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert echo.stdin is not None
    assert echo.stdout is not None
    taken_s = 0.0
    with echo:
        echo.stdin.write(b"x")
        echo.stdout.read(1)  # Python has started
        for _ in range(WAKES):
            until = time.perf_counter() + AWAY_S
            while (now := time.perf_counter()) < until:
                pass
            echo.stdin.write(b"x")
            echo.stdout.read(1)
            taken_s += time.perf_counter() - now
        echo.stdin.close()
    return taken_s / WAKES * 1e3
