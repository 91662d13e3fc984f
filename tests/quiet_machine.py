"""For tests that hold real time to a formula: was it the machine?"""

import pytest

from recjax.measurement.jitter import probe_jitter

PROBE_S, LONGEST_GAP_MS = 2.0, 2.0  # 2% of the latencies that are compared


def skip_if_disturbed() -> None:
    """Skips the test if something takes a core away for longer than the test allows; call it after its last miss."""
    gap_ms = probe_jitter(PROBE_S).largest_gap_us / 1e3
    if gap_ms > LONGEST_GAP_MS:
        pytest.skip(f"this machine takes a core away for {gap_ms:.1f} ms at a time; the test needs a quiet one")
