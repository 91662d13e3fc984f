"""How regularly this machine lets a loop run: what takes a core away for a moment shows as a gap."""

import array
import dataclasses
import time

import numpy as np

READING_NS = 40  # no loop of Python reads the clock more often


@dataclasses.dataclass(frozen=True)
class Jitter:
    """How long a loop that only reads the clock was held up.

    Attributes:
      readings: of the clock.
      median_gap_us: between two of them: what the loop itself takes.
      p99_gap_us: microseconds.
      largest_gap_us: microseconds.
    """

    readings: int
    median_gap_us: float
    p99_gap_us: float
    largest_gap_us: float


def probe_jitter(duration_s: float = 0.05) -> Jitter:
    """Returns the gaps that a loop in this thread saw between readings of the clock; it keeps one core busy.

    A gap is another process or thread, an interrupt, or a hypervisor that gave the core to another machine.
    """
    capacity = int(duration_s * 1e9 / READING_NS)
    gaps_ns = array.array("q", bytes(8 * capacity))  # made before: growing a list would be a gap of its own
    readings, last = 0, time.perf_counter_ns()
    end = last + int(duration_s * 1e9)
    while last < end and readings < capacity:
        now = time.perf_counter_ns()
        gaps_ns[readings] = now - last
        readings += 1
        last = now
    gaps_us = np.frombuffer(gaps_ns, np.int64)[:readings] / 1e3
    median, p99 = np.quantile(gaps_us, [0.5, 0.99], method="inverted_cdf")
    return Jitter(readings, float(median), float(p99), float(gaps_us.max()))
