import time
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray
from quiet_machine import skip_if_disturbed

from benchmarks.slowed import SlowedSystem
from recjax.load.closed_loop import closed_loop
from recjax.load.system import System
from recjax.serving.compiled import Stamps


class SpinningSystem:
    """Answers each batch with its rows after a fixed time."""

    buckets = (1, 8)
    n_rows = 100

    def __init__(self, service_s: float) -> None:
        self.service_s = service_s

    def answer(self, rows: NDArray) -> tuple[Mapping[str, NDArray], Stamps]:
        until = time.perf_counter() + self.service_s
        while (now := time.perf_counter()) < until:
            pass
        return {"rows": rows}, Stamps(now, now, now, now)

    def padded(self, n: int) -> int:
        return next(size for size in self.buckets if size >= n)


def test_it_answers_as_the_system_within() -> None:
    slowed = SlowedSystem(SpinningSystem(0.0), 0.1, seed=0)
    assert isinstance(slowed, System)
    assert (slowed.buckets, slowed.n_rows, slowed.padded(3)) == ((1, 8), 100, 8)
    answers, stamps = slowed.answer(np.arange(3))
    assert answers["rows"].tolist() == [0, 1, 2]
    assert stamps.transferred_out <= time.perf_counter()


def test_the_drawn_shares_have_the_mean_and_hang_on_the_seed() -> None:
    shares = [SlowedSystem(SpinningSystem(0.0), 0.1, seed)._shares for seed in (0, 0, 1)]
    assert shares[0].mean() == pytest.approx(0.1, rel=0.01)
    assert shares[0].min() >= 0.05
    assert shares[0].max() <= 0.15
    np.testing.assert_array_equal(shares[0], shares[1])
    assert (shares[0] != shares[2]).any()


@pytest.mark.timed
def test_a_tenth_more_time_is_spent() -> None:
    inner = SpinningSystem(5e-3)
    windows = [closed_loop(system, 1, 0.5, 100, 0) for system in (inner, SlowedSystem(inner, 0.1, seed=0))]
    plain, slowed = (float(np.median(window.latency_ms)) for window in windows)
    if abs(slowed / plain - 1.1) > 0.01:
        skip_if_disturbed()
    assert slowed / plain == pytest.approx(1.1, abs=0.01)
