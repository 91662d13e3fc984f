"""For tests that hold real time to a formula: was it the machine?"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recjax.measurement.jitter import probe_jitter

PROBE_S, LONGEST_GAP_MS = 2.0, 2.0  # 2% of the latencies that are compared
ECHOES = 40
QUEUE_FACTOR = 2  # a service that takes 1% longer makes p99 of a queue at 0.4 of its load almost 2% longer


def skip_if_disturbed() -> None:
    """Skips the test if something takes a core away for longer than the test allows; call it after its last miss."""
    gap_ms = probe_jitter(PROBE_S).largest_gap_us / 1e3
    if gap_ms > LONGEST_GAP_MS:
        pytest.skip(f"this machine takes a core away for {gap_ms:.1f} ms at a time; the test needs a quiet one")


def skip_if_slow_to_wake(latency_s: float, rtol: float) -> None:
    """Skips the test if two processes that do nothing else, without recjax, add too much to a latency.

    That is an echo's 90th percentile: the median of a queue's latencies is among those of queries that found the system
    idle, half to two thirds of all.
    """
    command = [sys.executable, str(Path(__file__).with_name("bare_echo.py")), str(latency_s), str(ECHOES)]
    added_ms = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["added"]["p90"]
    if QUEUE_FACTOR * added_ms > rtol * latency_s * 1e3:
        pytest.skip(
            f"an echo between two processes, without recjax, here takes {added_ms:.2f} ms (p90) longer than the "
            f"{latency_s * 1e3:.3g} ms that it computes; a queue of them cannot be held to {100 * rtol:g}%"
        )
