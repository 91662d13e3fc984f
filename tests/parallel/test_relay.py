import socket
import threading

import pytest

from recjax.parallel import relay
from recjax.parallel.relay import start_relay


def test_bytes_arrive_both_ways_and_a_closed_service_is_hidden_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "HELD_OPEN_S", 3.0)
    data = bytes(range(256)) * 4_000
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(("127.0.0.1", start_relay(*server.getsockname())), timeout=5)
        service, _ = server.accept()
        sender = threading.Thread(target=service.sendall, args=(data,))
        sender.start()
        received = bytearray()
        while len(received) < len(data):
            received += client.recv(65_536)
        assert bytes(received) == data
        sender.join()
        client.sendall(b"question")
        assert service.recv(100) == b"question"
        service.close()
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):  # still open
        client.recv(1)
    client.settimeout(30)
    assert client.recv(1) == b""
    client.close()


def test_the_service_may_start_later_than_the_relay() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        address = reserved.getsockname()
        client = socket.create_connection(("127.0.0.1", start_relay(*address)), timeout=5)
        client.sendall(b"early")
    with socket.create_server(address) as server:
        service, _ = server.accept()
        assert service.recv(100) == b"early"
        client.close()
        assert service.recv(100) == b""  # what the client closes is closed at once
        service.close()
