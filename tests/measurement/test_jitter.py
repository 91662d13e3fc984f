import signal
import time
from types import FrameType

import pytest

from recjax.measurement.jitter import probe_jitter


def test_gaps_are_in_order_and_make_up_the_time() -> None:
    start = time.perf_counter()
    jitter = probe_jitter(0.02)
    took_us = (time.perf_counter() - start) * 1e6
    assert 0 < jitter.median_gap_us <= jitter.p99_gap_us <= jitter.largest_gap_us <= took_us
    assert jitter.readings > 1_000
    assert jitter.readings * jitter.median_gap_us <= 2 * took_us


def test_a_loop_that_is_held_up_shows_it() -> None:
    def stall(_number: int, _frame: FrameType | None) -> None:
        time.sleep(0.03)

    before = signal.signal(signal.SIGALRM, stall)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.1)  # again and again: making the probe's memory takes time too
        jitter = probe_jitter(0.3)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert jitter.largest_gap_us >= 29_000
    assert jitter.p99_gap_us < 1_000


def test_a_long_probe_keeps_within_its_memory() -> None:
    assert probe_jitter(0.3).readings == pytest.approx(0.3e9 / 100, rel=1)
