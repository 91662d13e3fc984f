"""Systems whose service times are known, what a queue of them gives by direct computation, and a sender that waits."""

import time
from collections.abc import Sequence

import numpy as np

from recjax.load.window import Window
from recjax.serving.compiled import Stamps

MEAN_S = 0.100  # so long that 2% are more than a shared machine takes between two services
SERVICES = {
    "deterministic": lambda rng, n: np.full(n, MEAN_S),
    "exponential": lambda rng, n: rng.exponential(MEAN_S, n),
    "bimodal": lambda rng, n: np.where(rng.random(n) < 0.9, 0.6 * MEAN_S, 4.6 * MEAN_S),
    "stall": lambda rng, n: np.where(np.arange(n) == n // 3, 0.200, 0.5 * MEAN_S),
}
PERCENTS = (50, 90, 95, 99)


class SimulatedSystem:
    """Answers one batch after another, each in the next of the given times; `asked` keeps the rows it was asked."""

    buckets: Sequence[int] = (1,)
    n_rows = 100

    def __init__(self, service_s: np.ndarray, due_s: np.ndarray | None = None) -> None:
        """With `due_s`, a service begins when its query is due or the one before has ended, whichever is later.

        Then what the harness and other processes of the machine take between two services is not part of them, and
        neither is how late a query was sent: see `misses`. When second 0 was follows from the query that came with the
        least delay so far.
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
        self.asked.append(rows)
        answers = {"row": rows * 2}  # within the service
        spin_until(end)
        ready = time.perf_counter()
        return answers, Stamps(now, now, ready, ready)

    def padded(self, n: int) -> int:
        return next(size for size in self.buckets if size >= n)


def spin_until(moment_s: float) -> None:
    while time.perf_counter() < moment_s:
        pass


def lindley_ms(due_s: np.ndarray, service_s: np.ndarray) -> np.ndarray:
    """Returns the latencies of a queue with one server, first come first served.

    Source: Lindley, The theory of queues with a single server (1952).
    """
    free_s, latency = 0.0, np.empty(len(due_s))
    for index, (due, service) in enumerate(zip(due_s, service_s, strict=True)):
        free_s = max(free_s, due) + service
        latency[index] = free_s - due
    return latency * 1e3


def batched_ms(due_s: np.ndarray, service_s: float, largest: int) -> np.ndarray:
    """Returns the latencies of a server that takes all that waits, up to `largest`, and is as long for any number."""
    free_s, first, latency = 0.0, 0, np.empty(len(due_s))
    while first < len(due_s):
        start = max(free_s, due_s[first])
        last = min(int(np.searchsorted(due_s, start, side="right")), first + largest)
        free_s = start + service_s
        latency[first:last] = free_s - due_s[first:last]
        first = last
    return latency * 1e3


def misses(
    window: Window, expected_ms: np.ndarray, rtol: float, percents: Sequence[int] = PERCENTS
) -> dict[str, tuple[float, float]]:
    """Returns what of a window is not as computed, with (what was measured, what was expected); nothing if all is.

    That is percentiles that differ by more than `rtol`, and "send_lag" if p99 of how late the queries were sent is more
    than that share of the mean latency. Percentiles alone do not tell how the queries were sent: in front of a system
    that answers one after the other, a query waits as long in a sender that is not free as it would in the queue.

    Args:
      window: of any sender; a closed loop has no schedule, and no lag.
      expected_ms: all latencies, by direct computation.
      rtol: tolerance.
      percents: that are compared.
    """
    measured, expected = (np.percentile(ms, percents, method="inverted_cdf") for ms in (window.latency_ms, expected_ms))
    found = {
        f"p{percent}": (float(got), float(wanted))
        for percent, got, wanted in zip(percents, measured, expected, strict=True)
        if not np.isclose(got, wanted, rtol=rtol)
    }
    if "send_lag" in window.parts_ms:
        lag_ms, most_ms = float(np.percentile(window.parts_ms["send_lag"], 99)), rtol * float(expected_ms.mean())
        found |= {"send_lag": (lag_ms, most_ms)} if lag_ms > most_ms else {}
    return found


def only_later(window: Window, missed: dict[str, tuple[float, float]], slower_ms: np.ndarray, rtol: float) -> bool:
    """Returns whether all that `misses` found are percentiles that are too high, but not for a slower system.

    Args:
      window: of any sender.
      missed: what `misses` found of it.
      slower_ms: all latencies of the slower system, by direct computation.
      rtol: tolerance.
    """
    too_high = all(name != "send_lag" and got > wanted for name, (got, wanted) in missed.items())
    return too_high and not any(got > wanted for got, wanted in misses(window, slower_ms, rtol).values())


def waiting_sender(system: SimulatedSystem, due_s: np.ndarray) -> Window:
    """Returns a window of a sender that waits for each answer, although its latencies run from the schedule."""
    start = time.perf_counter()
    sent_s, received_s = np.empty(len(due_s)), np.empty(len(due_s))
    for number, due in enumerate(due_s):
        spin_until(start + float(due))
        sent_s[number] = time.perf_counter() - start
        system.answer(np.zeros(1, np.int32))
        received_s[number] = time.perf_counter() - start
    return Window(
        latency_ms=(received_s - due_s) * 1e3,
        parts_ms={"send_lag": (sent_s - due_s) * 1e3},
        samples=len(due_s),
        padded_samples=len(due_s),
        batch_samples=np.ones(len(due_s), np.int64),
        duration_s=float(received_s[-1] - due_s[0]),
    )
