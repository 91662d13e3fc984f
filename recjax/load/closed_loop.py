"""Windows in which the next query is sent when the last is answered: single_stream, multi_stream, offline.

They run in the system's own process: sender and system never work at the same time, so a process of its own would add
the price of a hop to every query and could not be slowed less. What a closed loop cannot see is the wait of queries
that would have arrived during a stall; `server` windows (`recjax.load.client`) are for that.

Shapes: N queries, n samples of each.
"""

import time

import numpy as np

from recjax.load.queries import QueryMix, draw_queries
from recjax.load.system import System
from recjax.load.window import Window

DRAWN_QUERIES = 4096  # of a window; one with more begins again with the first
CLOSED_PARTS = ("host_preparation", "transfer_in", "compute", "transfer_out", "post_processing")


def closed_loop(
    system: System, samples_per_query: int, duration_s: float, min_queries: int, seed: int, mix: QueryMix | None = None
) -> Window:
    """Returns a window of one query at a time, each of as many samples.

    With 1 sample a query this is single_stream, with 8 multi_stream, with a full batch offline. One query before
    the window is not timed.

    Args:
      system: whose largest bucket holds `samples_per_query`.
      samples_per_query: size of every query.
      duration_s: the window ends at the first answer after this and
      min_queries: after this many queries.
      seed: of the draw of rows.
      mix: how popular rows are; its sizes are not read. Uniform by default.
    """
    mix = mix or QueryMix()
    fixed = QueryMix(samples=samples_per_query, popularity=mix.popularity, exponent=mix.exponent)
    picks = draw_queries(fixed, DRAWN_QUERIES, system.n_rows, seed).rows.reshape(DRAWN_QUERIES, samples_per_query)
    moments: list[tuple[float, ...]] = []
    _answer(system, picks[-1])  # not timed: the caches hold what ran before, another variant's weights
    start = now = time.perf_counter()
    while now - start < duration_s or len(moments) < min_queries:
        stages = _answer(system, picks[len(moments) % DRAWN_QUERIES])
        moments.append((now, *stages))
        now = stages[-1]
    edges = np.array(moments)
    parts = np.diff(edges, axis=1) * 1e3
    return Window(
        latency_ms=(edges[:, -1] - edges[:, 0]) * 1e3,
        parts_ms={name: parts[:, index] for index, name in enumerate(CLOSED_PARTS)},
        samples=samples_per_query * len(moments),
        padded_samples=system.padded(samples_per_query) * len(moments),
        batch_samples=np.full(len(moments), samples_per_query),
        duration_s=now - start,
    )


def warm_up(system: System, calls: int = 3) -> None:
    """Answers a few queries of every bucket, so that no window pays for a first call.

    All ask for row 0 alone: a cache of answers has seen no other row when it is looked for.
    """
    for size in system.buckets:
        for _ in range(calls):
            _answer(system, np.zeros(size, np.int32))


def _answer(system: System, rows: np.ndarray) -> tuple[float, ...]:
    """Returns the ends of the stages; the answers are host arrays when the last of them is taken."""
    answers, stamps = system.answer(rows)
    for value in answers.values():
        np.asarray(value)  # a system that has only promised its answer pays for it here
    return (
        stamps.prepared,
        stamps.transferred_in,
        stamps.computed,
        stamps.transferred_out,
        time.perf_counter(),
    )
