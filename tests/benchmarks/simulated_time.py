"""A model whose service time is known, under a clock that only the model, sleep and reading move."""

from collections.abc import Callable

import numpy as np

COLUMNS = {"x": np.arange(50)}
NEVER_MS = 1e9  # a latency limit that no run here reaches
TICK_S = 1e-9  # of reading the simulated clock: spinning must come to an end


class Clock:
    """Simulated seconds; `perf_counter` and `sleep` take the place of `time`'s."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def perf_counter(self) -> float:
        self.now_s += TICK_S
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now_s += seconds


class FakeModel:
    """Answers in a known time and keeps what it was called with, and when."""

    def __init__(self, advance: Callable[[float], None], service_s: Callable[[int], float], *buckets: int) -> None:
        self.advance = advance
        self.service_s = service_s  # of the number of the call, from 0
        self.buckets = buckets
        self.calls: list[np.ndarray] = []
        self.called_at_s: list[float] = []
        self.read_s: Callable[[], float] = lambda: 0.0

    def bucket_of(self, n: int) -> int:
        return next(size for size in self.buckets if size >= n)

    def __call__(self, columns: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
        assert len(rows) <= self.buckets[-1]
        self.called_at_s.append(self.read_s())
        self.advance(self.service_s(len(self.calls)))
        self.calls.append(columns["x"][rows])
        return {}

    @property
    def batch_sizes(self) -> list[int]:
        return [len(rows) for rows in self.calls]


def arrivals_of(rate_qps: float, n: int, seed: int) -> np.ndarray:
    """Returns the Poisson arrivals that a server window documents: exponential gaps, summed, from its seed."""
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate_qps, n))
