"""Frames between the load generator and the system: queries one way, answers and their stamps the other.

A frame of queries is `QUERIES` (queries, samples), the sizes and the rows, int32 each. A frame of answers is `ANSWERS`
(queries completed, bytes of answers, the stamps of STAGES) and the bytes. Queries are numbered by their order, answers
come in that order. No query at all ends a window: the samples say whether what still waits is to be answered.

Shapes: N queries of a frame, S their samples.
"""

import dataclasses
import socket
import struct

import numpy as np
from numpy.typing import NDArray

QUERIES = struct.Struct("<II")
DRAIN, ABORT = 0, 1  # samples of a frame without queries
# Ends of the stages of a batch, in the seconds of time.perf_counter, which processes of one machine share.
STAGES = ("taken", "prepared", "transferred_in", "computed", "transferred_out", "finished")
ANSWERS = struct.Struct(f"<II{len(STAGES)}d")
CHUNK = 1 << 20
SOCKET_BUFFER = 1 << 22  # as much of it as the system allows


def pack_queries(sizes_N: NDArray, rows_S: NDArray) -> bytes:
    """Returns a frame of one query or more; both arrays are int32."""
    return QUERIES.pack(len(sizes_N), len(rows_S)) + sizes_N.tobytes() + rows_S.tobytes()


def pack_end(*, abort: bool) -> bytes:
    """Returns the frame that ends a window; `abort` says that what still waits is not to be answered."""
    return QUERIES.pack(0, ABORT if abort else DRAIN)


@dataclasses.dataclass(frozen=True)
class QueriesFrame:
    """Sizes [N] and rows [S] of queries; none ends the window, at once if `abort`."""

    sizes: NDArray
    rows: NDArray
    abort: bool


@dataclasses.dataclass(frozen=True)
class AnswersFrame:
    """How many queries a batch completed, the end of each of its STAGES, and its answers' bytes."""

    completed: int
    stamps: tuple[float, ...]
    answers: bytes


class FrameReader:
    """Collects what a socket delivers and cuts frames out of it."""

    def __init__(self, connection: socket.socket) -> None:
        """Reads from the socket, whether it blocks or not."""
        self._connection = connection
        self._chunk = bytearray(CHUNK)
        self._bytes = bytearray()

    def fill(self, *, wait: bool = False) -> bool:
        """Reads what is there, once; returns whether that was anything. `wait` waits until there is something.

        Raises:
          ConnectionError: the other process is gone.
        """
        try:
            received = self._connection.recv_into(self._chunk, flags=0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        if not received:
            raise ConnectionError("the other process has closed the connection")
        self._bytes += memoryview(self._chunk)[:received]
        return True

    def next_queries(self) -> QueriesFrame | None:
        """Returns the next frame of queries, None until it is whole."""
        if len(self._bytes) < QUERIES.size:
            return None
        n, s = QUERIES.unpack_from(self._bytes)
        if n == 0:
            del self._bytes[: QUERIES.size]
            return QueriesFrame(np.zeros(0, np.int32), np.zeros(0, np.int32), abort=s == ABORT)
        end = QUERIES.size + 4 * (n + s)
        if len(self._bytes) < end:
            return None
        numbers = np.frombuffer(bytes(self._bytes[QUERIES.size : end]), np.int32)
        del self._bytes[:end]
        return QueriesFrame(numbers[:n], numbers[n:], abort=False)

    def next_answers(self) -> AnswersFrame | None:
        """Returns the next frame of answers, None until it is whole."""
        if len(self._bytes) < ANSWERS.size:
            return None
        completed, n_bytes, *stamps = ANSWERS.unpack_from(self._bytes)
        end = ANSWERS.size + n_bytes
        if len(self._bytes) < end:
            return None
        answers = bytes(self._bytes[ANSWERS.size : end])
        del self._bytes[:end]
        return AnswersFrame(completed, tuple(stamps), answers)


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Returns two connected sockets with large buffers."""
    pair = socket.socketpair()
    for end in pair:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
    return pair
