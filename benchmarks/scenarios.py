"""The four ways requests arrive, each measured on a compiled model in real time.

A *sample* is one row of the request columns: one user history for a next-item model, one (user, item,
moment) for a binary one. A *query* is what arrives at once: one sample (single_stream, server), eight
(multi_stream) or one full batch (offline). The names and shapes follow MLPerf inference; the runs are
shorter and are not MLPerf results.
"""

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recjax.serving.compiled import Columns, CompiledModel

SPIN_S = 2e-4  # sleep() wakes tens of microseconds late: the last stretch before an arrival is spun
OVERLOAD_FACTOR = 5  # a server run stops when a request has waited this many latency limits


@dataclasses.dataclass(frozen=True)
class Window:
    """What one timed window gave; every sample is kept.

    Attributes:
      latency_ms: [N] one value a query.
      queries: completed.
      samples: completed.
      padded_samples: computed, padding included.
      duration_s: from the first arrival to the last answer.
      offered_qps: scheduled rate of a server window, None elsewhere.
      overloaded: the window was ended early because waiting had grown without bound.
    """

    latency_ms: NDArray
    queries: int
    samples: int
    padded_samples: int
    duration_s: float
    offered_qps: float | None = None
    overloaded: bool = False

    @property
    def padding_waste(self) -> float:
        """Returns the share of computed samples that nobody asked for."""
        return 1 - self.samples / self.padded_samples


def warm_up(model: CompiledModel, columns: Columns, calls: int = 3) -> None:
    """Runs every bucket a few times, so that no timed call is the first of its kind."""
    for size in model.buckets:
        for _ in range(calls):
            model(columns, np.arange(size) % _n_samples(columns))


def closed_loop(
    model: CompiledModel, columns: Columns, samples_per_query: int, duration_s: float, min_queries: int, seed: int
) -> Window:
    """Returns a window in which the next query is sent when the last is answered.

    With 1 sample a query this is single_stream, with 8 multi_stream, with a full batch offline. One query before
    the window is not timed.

    Args:
      model: compiled for a bucket of at least `samples_per_query`.
      columns: requests, drawn uniformly with the seed.
      samples_per_query: size of every query.
      duration_s: the window ends at the first answer after this and
      min_queries: after this many queries.
      seed: of the draw.
    """
    picks = np.random.default_rng(seed).integers(_n_samples(columns), size=(4096, samples_per_query))
    latencies: list[float] = []
    model(columns, picks[-1])  # not timed: the caches hold what ran before, another variant's weights
    start = now = time.perf_counter()
    while now - start < duration_s or len(latencies) < min_queries:
        sent = now
        model(columns, picks[len(latencies) % len(picks)])
        now = time.perf_counter()
        latencies.append(now - sent)
    queries = len(latencies)
    padded = model.bucket_of(samples_per_query) * queries
    return Window(np.array(latencies) * 1e3, queries, samples_per_query * queries, padded, now - start)


def server(model: CompiledModel, columns: Columns, rate_qps: float, n_queries: int, slo_ms: float, seed: int) -> Window:
    """Returns an open-loop window: Poisson arrivals at `rate_qps`, answered in batches of what is waiting.

    The arrival times are drawn before the window and never rescaled; latency runs from the scheduled
    arrival, so time spent waiting behind a slow batch counts. Because an arrival is a time in a list and
    not an event that code must produce, no generator can fall behind: when a batch ends, every request
    scheduled by then is waiting for the next batch, whose size `batch_size_of` chooses.
    """
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate_qps, n_queries))
    picks = rng.integers(_n_samples(columns), size=n_queries)
    latency_s = np.zeros(n_queries)
    padded = answered = 0
    start = time.perf_counter() + SPIN_S
    while answered < n_queries:
        _wait_until(start + arrivals[answered])
        waiting = np.searchsorted(arrivals, time.perf_counter() - start, side="right") - answered
        size = batch_size_of(max(1, int(waiting)), model.buckets)
        taken = slice(answered, answered + size)
        model(columns, picks[taken])
        latency_s[taken] = time.perf_counter() - start - arrivals[taken]
        padded += model.bucket_of(size)
        answered += size
        if latency_s[taken][0] > OVERLOAD_FACTOR * slo_ms / 1e3:
            break
    duration_s = time.perf_counter() - start
    overloaded = answered < n_queries
    return Window(latency_s[:answered] * 1e3, answered, answered, padded, duration_s, rate_qps, overloaded)


def batch_size_of(waiting: int, buckets: Sequence[int]) -> int:
    """Returns how many of the waiting requests go into the next batch.

    Usually all of them. But as many as fill a bucket, if the rest then fits in a second batch of that size and
    all together would leave more than half of the next bucket empty: two full small batches beat a large one
    that is mostly padding.
    """
    full = max((size for size in buckets if size <= waiting), default=0)
    padded = min((size for size in buckets if size >= waiting), default=buckets[-1])
    if waiting > buckets[-1] or (waiting <= 2 * full and 2 * waiting < padded):
        return full
    return waiting


def _wait_until(moment_s: float) -> None:
    remaining = moment_s - time.perf_counter()
    if remaining > SPIN_S:
        time.sleep(remaining - SPIN_S)
    while time.perf_counter() < moment_s:
        pass


def _n_samples(columns: Columns) -> int:
    return len(next(iter(columns.values())))
