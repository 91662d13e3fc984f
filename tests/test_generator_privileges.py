"""What the load generator's process obtains of what it asks the system for, and how that reaches a window."""

import json
import os
import platform
import subprocess
import sys
import time

import numpy as np
import pytest

from recjax.load.client import LoadGenerator
from recjax.load.generator import PRIORITY
from recjax.load.window import Privileges
from recjax.serving.compiled import Stamps

REFUSED = """
import json, os

from recjax.load import generator


def refuse(*arguments):
    raise PermissionError


os.setpriority = refuse
generator.SCHED_SETATTR = {}
print(json.dumps({name: value.tolist() for name, value in generator.be_prompt().items()}))
"""


class Doubler:
    """Answers each row with twice its number."""

    buckets = (1,)
    n_rows = 100

    def answer(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], Stamps]:
        now = time.perf_counter()
        return {"row": rows * 2}, Stamps(now, now, now, now)

    def padded(self, n: int) -> int:
        return n


def test_what_the_process_obtained_is_what_the_system_says() -> None:
    with LoadGenerator() as generator:
        obtained = generator.privileges
        assert generator.privileges is obtained  # it is told once
        window = generator.measure(Doubler(), 100.0, 10, slo_ms=10_000.0, seed=0)
        assert window.privileges == obtained
        assert obtained.niceness == os.getpriority(os.PRIO_PROCESS, generator._process.pid)
    assert obtained.niceness in (PRIORITY, os.nice(0))
    if sys.platform == "linux" and tuple(map(int, platform.release().split(".")[:2])) < (6, 12):
        assert not obtained.short_slice


def test_what_was_refused_is_told() -> None:
    done = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"niceness": os.nice(0), "short_slice": False}


def test_a_generator_that_dies_before_it_tells_is_an_error() -> None:
    with LoadGenerator() as generator:
        generator._process.kill()
        generator._process.wait()
        with pytest.raises(RuntimeError, match="load generator's process has ended with code -9"):
            _ = generator.privileges


def test_both_stand_in_a_row_by_their_names() -> None:
    assert Privileges(-10, True).in_row() == {"generator_niceness": -10, "generator_short_slice": True}
