import socket
from collections.abc import Iterator

import numpy as np
import pytest

from recjax.load.wire import ANSWERS, FrameReader, pack_end, pack_queries, socket_pair

SIZES, ROWS = np.array([1, 3], np.int32), np.array([7, 5, 5, 2], np.int32)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ends = socket_pair()
    yield ends
    for end in ends:
        end.close()


def test_queries_arrive_whole_however_they_are_cut(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    reader = FrameReader(receiver)
    for byte in pack_queries(SIZES.tobytes(), ROWS.tobytes()) + pack_end(abort=True):
        assert reader.next_queries() is None
        sender.send(bytes([byte]))
        assert reader.fill()
        if (frame := reader.next_queries()) is not None and len(frame.sizes):
            assert frame.sizes == tuple(SIZES)
            assert frame.row_bytes == ROWS.tobytes()
    assert frame is not None
    assert (len(frame.sizes), frame.abort) == (0, True)


def test_several_frames_come_out_of_one_read(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    reader = FrameReader(receiver)
    first = ANSWERS.pack(2, 3, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0) + b"abc"
    sender.send(first + ANSWERS.pack(0, 0, *(0.0,) * 6) + first[:10])
    assert reader.fill()
    frames = [reader.next_answers() for _ in range(3)]
    assert frames[2] is None
    assert frames[0] is not None
    assert (frames[0].completed, frames[0].answers, frames[0].stamps) == (2, b"abc", (1.0, 2.0, 3.0, 4.0, 5.0, 6.0))
    assert frames[1] is not None
    assert (frames[1].completed, frames[1].answers) == (0, b"")


def test_an_empty_socket_is_not_waited_for_and_a_closed_one_is_an_error(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = pair
    reader = FrameReader(receiver)
    assert not reader.fill()
    sender.close()
    with pytest.raises(ConnectionError, match="closed the connection"):
        reader.fill(wait=True)
