import subprocess
import sys

import numpy as np
import pytest

from recjax.measurement.memory_growth import memory_growth

MIB = 2**20


def sizes(*mib: float) -> list[int]:
    return [round(value * MIB) for value in mib]


def test_a_leak_is_caught() -> None:
    boundaries = sizes(500, 510, 520, 530, 540, 550, 560)
    found = memory_growth(boundaries, [1_000] * 6)
    assert found.leaking
    assert found.bytes_per_query == pytest.approx(10 * MIB / 1_000)
    assert found.later_bytes == 30 * MIB
    assert found.reason == "+30.0 MiB over the last 3 of 6 windows, 10,486 bytes a query (at least 10,486)"


def test_a_leak_in_noise_is_caught() -> None:
    noise = np.random.default_rng(0).normal(0, 3, 13)
    assert memory_growth(sizes(*(800 + 6 * np.arange(13) + noise)), [500] * 12).leaking


def test_windows_may_answer_different_numbers_of_queries() -> None:
    queries = [100, 900, 300, 700, 500, 400]
    boundaries = [300 * MIB, *(300 * MIB + 50_000 * np.cumsum(queries)).tolist()]
    found = memory_growth(boundaries, queries)
    assert found.leaking
    assert found.bytes_per_query == pytest.approx(50_000)


def test_warming_up_is_no_leak() -> None:
    found = memory_growth(sizes(400, 700, 780, 800, 804, 805, 805.5, 805.6, 805.7, 805.8, 805.9), [100] * 10)
    assert not found.leaking
    assert "are no leak" in found.reason


def test_a_slow_growth_below_the_threshold_is_no_leak() -> None:
    assert memory_growth(sizes(*(100 + np.arange(11))), [100] * 10).reason.endswith("up to 8.0 MiB are no leak")


def test_the_threshold_is_a_share_of_a_large_process() -> None:
    boundaries = sizes(*(4_000 + 5 * np.arange(11)))  # 25 MiB over the later half, 1% is 40 MiB
    assert not memory_growth(boundaries, [100] * 10).leaking
    assert memory_growth([size - 2_000 * MIB for size in boundaries], [100] * 10).leaking


def test_one_large_step_is_no_leak() -> None:
    found = memory_growth(sizes(500, 500.1, 500.2, 500.3, 500.4, 500.5, 500.6, 550, 550.1, 550.2, 550.3), [100] * 10)
    assert not found.leaking
    assert found.reason.endswith("most of it in one step")


def test_memory_that_comes_and_goes_is_no_leak() -> None:
    assert not memory_growth(sizes(500, 540, 500, 540, 500, 540, 500, 540, 500, 540, 505), [100] * 10).leaking


def test_noise_is_no_leak() -> None:
    rng = np.random.default_rng(1)
    found = [memory_growth(sizes(*rng.normal(600, 30, 11)), [100] * 10).leaking for _ in range(1_000)]
    assert np.mean(found) <= 0.025


def test_buffers_that_come_and_go_at_the_largest_batch_are_no_leak() -> None:
    # Read beside an honest model of 12 windows, the last three of them at its largest batch.
    steps = [0.02, 0.01, 0.01, 0.02, 0.01, 0.01, 0.01, 0.01, 0.02, 15.2, 30.2, 7.7]
    found = memory_growth(sizes(*np.cumsum([578, *steps])), [190] * 3 + [90] * 3 + [40] * 3 + [12] * 3)
    assert (found.leaking, found.reason) == (False, "+53.1 MiB over the last 6 of 12 windows, in 3 of 6 windows")


def test_too_few_windows_do_not_tell() -> None:
    found = memory_growth(sizes(100, 200, 300, 400, 500), [1] * 4)
    assert (found.leaking, found.reason) == (None, "4 windows; at least 5 are needed")


# In a process of their own: another test's garbage, collected in between, would count against what is held here.
LARGE_ARRAY = """
import numpy as np
from recjax.measurement.memory_growth import resident_bytes
before, reason = resident_bytes()
held = np.ones(64 * 2**20, np.uint8)
during, _ = resident_bytes()
held = None
print(before, during, resident_bytes()[0]) if reason is None else print(reason)
"""
SMALL_PIECES = """
from recjax.measurement.memory_growth import resident_bytes
before, reason = resident_bytes()
pieces = [bytes(1_000) for _ in range(60_000)]
keep = pieces[-1]  # the top of the heap stays in use
during, _ = resident_bytes()
del pieces
print(before, during, resident_bytes()[0]) if reason is None else print(reason)
"""


@pytest.mark.parametrize(("program", "held", "kept"), [(LARGE_ARRAY, 60, 16), (SMALL_PIECES, 50, 20)])
def test_resident_memory_follows_what_a_process_holds(program: str, held: int, kept: int) -> None:
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    if printed.startswith("the system has no"):
        pytest.skip(printed)
    before, during, after = map(int, printed.split())
    assert held * MIB <= during - before <= 90 * MIB
    assert after - before <= kept * MIB
