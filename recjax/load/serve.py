"""The loop that answers: takes what waits, forms a batch, runs the system, sends the answers.

Shapes: N queries, S samples, K batches.
"""

import dataclasses
import os
import socket
import time

import numpy as np
from numpy.typing import NDArray

from recjax.load.request_queue import RequestQueue, batch_size_of
from recjax.load.system import System
from recjax.load.wire import ANSWERS, STAGES, FrameReader

BUSY_POLL_S = 2e-3  # an idle system looks for queries this long before it sleeps: waking costs tens of microseconds


@dataclasses.dataclass(frozen=True)
class Served:
    """Sizes of the batches of one window: samples asked for, and computed with padding; [K] each."""

    batch_samples: NDArray
    padded_samples: NDArray


def serve_until_end(connection: socket.socket, reader: FrameReader, system: System) -> Served:
    """Answers queries until the generator ends the window, and returns the batches that were formed.

    Args:
      connection: to the generator; it blocks.
      reader: of that connection.
      system: that answers.

    Raises:
      ConnectionError: the generator is gone.
    """
    queue, asked, padded = RequestQueue(), list[int](), list[int]()
    ended = False
    while queue.waiting or not ended:
        arrived = reader.fill() if queue.waiting or ended else _wait(reader)
        while arrived and (frame := reader.next_queries()) is not None:
            if len(frame.sizes):
                queue.add(frame.sizes, frame.row_bytes)
            else:
                ended = True
                if frame.abort:
                    queue = RequestQueue()
        if not queue.waiting:
            continue
        rows, completed = queue.take(batch_size_of(queue.waiting, system.buckets))
        taken = time.perf_counter()
        answers, stamps = system.answer(rows)
        content = b"".join(answers[name].tobytes() for name in sorted(answers))
        ends = (stamps.prepared, stamps.transferred_in, stamps.computed, stamps.transferred_out, time.perf_counter())
        connection.sendall(ANSWERS.pack(completed, len(content), taken, *ends) + content)
        asked.append(len(rows))
        padded.append(system.padded(len(rows)))
    connection.sendall(ANSWERS.pack(0, 0, *(0.0,) * len(STAGES)))
    return Served(np.array(asked, np.int64), np.array(padded, np.int64))


def _wait(reader: FrameReader) -> bool:
    until = time.perf_counter() + BUSY_POLL_S
    while time.perf_counter() < until:
        if reader.fill():
            return True
        os.sched_yield()  # the generator may have been woken on this very core
    return reader.fill(wait=True)
