"""Frames between the load generator and the system: queries one way, answers and their stamps the other.

What a query passes between its arrival and its batch is in its latency, and after an idle spell it finds cold caches.
So sizes and rows go through as plain numbers and bytes, and an array is made of them once, for the batch.

A frame of queries is `QUERIES` (queries, samples), the sizes and the rows, int32 each. A frame of answers is `ANSWERS`
(queries completed, bytes of answers, the stamps of STAGES) and the bytes. Queries are numbered by their order, answers
come in that order. No query at all ends a window: the samples say whether what still waits is to be answered.

Shapes: N queries of a frame, S their samples.
"""

import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

QUERIES = struct.Struct("<II")
DRAIN, ABORT = 0, 1  # samples of a frame without queries
# Ends of the stages of a batch, in the seconds of time.perf_counter, which processes of one machine share.
STAGES = ("taken", "prepared", "transferred_in", "computed", "transferred_out", "finished")
INT32 = 4  # bytes
ANSWERS = struct.Struct(f"<II{len(STAGES)}d")
CHUNK = 1 << 20
SOCKET_BUFFER = 1 << 22  # as much of it as the system allows


def pack_queries(size_bytes: bytes, row_bytes: bytes) -> bytes:
    """Returns a frame of one query or more, whose sizes and rows are int32."""
    return QUERIES.pack(len(size_bytes) // INT32, len(row_bytes) // INT32) + size_bytes + row_bytes


def pack_end(*, abort: bool) -> bytes:
    """Returns the frame that ends a window; `abort` says that what still waits is not to be answered."""
    return QUERIES.pack(0, ABORT if abort else DRAIN)


class QueriesFrame(NamedTuple):
    """Sizes [N] of queries and their rows [S], int32; no query at all ends the window, at once if `abort`."""

    sizes: Sequence[int]
    row_bytes: bytes
    abort: bool


class AnswersFrame(NamedTuple):
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
            return QueriesFrame((), b"", abort=s == ABORT)
        first_row = QUERIES.size + INT32 * n
        end = first_row + INT32 * s
        if len(self._bytes) < end:
            return None
        sizes, row_bytes = struct.unpack_from(f"={n}i", self._bytes, QUERIES.size), bytes(self._bytes[first_row:end])
        del self._bytes[:end]
        return QueriesFrame(sizes, row_bytes, abort=False)

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
