"""Systems whose service times are known, and what a queue of them gives by direct computation."""

import time
from collections.abc import Sequence

import numpy as np

from recjax.serving.compiled import Stamps


class SimulatedSystem:
    """Answers one batch after another, each in the next of the given times; `asked` keeps the rows it was asked."""

    buckets: Sequence[int] = (1,)
    n_rows = 100

    def __init__(self, service_s: np.ndarray, due_s: np.ndarray | None = None) -> None:
        """With `due_s`, a service begins when its query is due or the one before has ended, whichever is later.

        Then what the harness and other processes of the machine take between two services is not part of them. When
        second 0 was follows from the query that came with the least delay so far.
        """
        self.service_s = service_s
        self.due_s = due_s
        self.calls = 0
        self.asked: list[np.ndarray] = []
        self.origin_s, self.free_s = np.inf, 0.0

    def answer(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], Stamps]:
        start = now = time.perf_counter()
        if self.due_s is not None:
            self.origin_s = min(self.origin_s, now - self.due_s[self.calls])
            start = max(self.free_s, self.origin_s + self.due_s[self.calls])
        self.free_s = end = start + float(self.service_s[self.calls % len(self.service_s)])
        self.calls += 1
        self.asked.append(rows.copy())
        while time.perf_counter() < end:
            pass
        ready = time.perf_counter()
        return {"row": rows * 2}, Stamps(now, now, ready, ready)

    def padded(self, n: int) -> int:
        return next(size for size in self.buckets if size >= n)


def lindley_ms(due_s: np.ndarray, service_s: np.ndarray) -> np.ndarray:
    """Returns the latencies of a queue with one server, first come first served.

    Source: Lindley, The theory of queues with a single server (1952).
    """
    free_s, latency = 0.0, np.empty(len(due_s))
    for index, (due, service) in enumerate(zip(due_s, service_s, strict=True)):
        free_s = max(free_s, due) + service
        latency[index] = free_s - due
    return latency * 1e3
