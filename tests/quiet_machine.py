"""For tests that hold real time to a formula: was it the machine?"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recjax.measurement.jitter import probe_jitter

PROBE_S, LONGEST_GAP_MS = 2.0, 2.0  # 2% of the longest of the latencies that are compared
ECHOES, ECHOES_S = 40, 60.0  # how many, and the longest that they may take


def skip_if_disturbed() -> None:
    """Skips the test if something takes a core away for longer than the test allows; call it after its last miss."""
    gap_ms = probe_jitter(PROBE_S).largest_gap_us / 1e3
    if gap_ms > LONGEST_GAP_MS:
        pytest.skip(f"this machine takes a core away for {gap_ms:.1f} ms at a time; the test needs a quiet one")


def echo_adds_s(service_s: float) -> float:
    """Returns what two processes that do nothing else, without recjax, add to a service: the 90th percentile, seconds.

    As the median of a queue at 0.4 or 0.5 of its capacity is one of the slower of the queries that found it idle.
    """
    command = [sys.executable, str(Path(__file__).with_name("bare_echo.py")), str(service_s), str(ECHOES)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=ECHOES_S).stdout
    return json.loads(printed)["added"]["p90"] / 1e3
