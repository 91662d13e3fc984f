"""Batches of one fixed shape, and a thread that keeps the next ones on the device.

A batch is a dict of arrays whose first axis is the sample; `weight` [B] float32 is 1 on real rows and 0 on
the padding that fills the last batch, so every epoch compiles once.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int32
from numpy.typing import NDArray

PADDING_ID = -1  # marks the unused tail of a bag of ids
PREFETCHED = 2  # batches on the device ahead of the loop

# Steps dispatched before the oldest of them has ended: enough to hide what the host does for the next one. Without a
# limit batches pile up on the device, and on several CPU devices the loop can stop for good: XLA holds 32 programs at
# most on each, and those with room for their part of a step wait in its collective for one that has none.
STEPS_IN_FLIGHT = 2

NumpyBatch = dict[str, NDArray]


def take_batch(columns: Mapping[str, NDArray], rows: NDArray, batch_size: int) -> NumpyBatch:
    """Returns `rows` of every column, zero-padded to `batch_size` rows, with `weight`."""
    padding = batch_size - len(rows)
    batch = {
        name: np.pad(column[rows], [(0, padding)] + [(0, 0)] * (column.ndim - 1)) for name, column in columns.items()
    }
    batch["weight"] = np.pad(np.ones(len(rows), np.float32), (0, padding))
    return batch


def row_chunks(rows: NDArray, batch_size: int) -> Iterator[NDArray]:
    """Yields consecutive chunks of at most `batch_size` rows."""
    for start in range(0, len(rows), batch_size):
        yield rows[start : start + batch_size]


def shuffled_rows(n_rows: int, seed: int, epoch: int) -> NDArray:
    """Returns a permutation that depends on (seed, epoch) alone, so a resumed run sees the same batches."""
    return np.random.default_rng((seed, epoch)).permutation(n_rows)


def gather_windows(
    values: NDArray, starts: NDArray, ends: NDArray, width: int, padding: int = 0
) -> tuple[NDArray, Int32[np.ndarray, "W"]]:
    """Returns values[start:end] of each of W windows as [W, width], padded at the end, and the windows' lengths."""
    lengths = (ends - starts).astype(np.int32)
    positions = np.arange(width)
    used = positions[None] < lengths[:, None]
    if not len(values):
        return np.full(used.shape, padding, values.dtype), lengths
    return np.where(used, values[np.where(used, starts[:, None] + positions, 0)], padding).astype(values.dtype), lengths


def sample_candidates(
    allowed: Bool[np.ndarray, "B V"], targets: Bool[np.ndarray, "B V"], n: int, seed: Sequence[int]
) -> Bool[np.ndarray, "B V"]:
    """Returns a mask that keeps every row's targets and `n` of its other allowed candidates, drawn uniformly.

    Fewer are kept where a row has fewer.
    """
    drawn = np.where(allowed & ~targets, np.random.default_rng(seed).random(allowed.shape), 2.0)
    limit = np.partition(drawn, min(n, drawn.shape[1] - 1), axis=1)[:, min(n, drawn.shape[1] - 1), None]
    return targets | ((drawn < np.minimum(limit, 1.5)) & allowed)


def prefetch_to_device(
    batches: Iterable[NumpyBatch], depth: int = PREFETCHED, send: Callable[[NumpyBatch], Any] = jax.device_put
) -> Iterator[Mapping[str, jax.Array]]:
    """Yields the batches as device arrays, `depth` of them made and sent ahead by a thread.

    An error while making a batch is raised here; leaving the loop early stops the thread.
    """
    ready: queue.Queue = queue.Queue(maxsize=depth)
    stopped = threading.Event()
    end = object()

    def put(value: object) -> None:
        while not stopped.is_set():
            try:
                return ready.put(value, timeout=0.1)
            except queue.Full:
                continue

    def produce() -> None:
        try:
            for batch in batches:
                put(send(batch))
                if stopped.is_set():
                    return
            put(end)
        except BaseException as error:  # handed to the consumer, which raises it
            put(error)

    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    thread.start()
    try:
        while (value := ready.get()) is not end:
            if isinstance(value, BaseException):
                raise value
            yield value
    finally:
        stopped.set()
        thread.join()
