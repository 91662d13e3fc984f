import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from free_port import free_port

from recjax.errors import UserError
from recjax.parallel.meeting import Member, gather, join


def member(index: int, count: int = 2, name: str = "", version: str = "1") -> Member:
    return Member(index=index, count=count, name=name or f"host{index}:4242", version=version)


def in_thread(function: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Returns the running thread and a list that gets its result, or the UserError that it raised."""
    results: list[Any] = []

    def call() -> None:
        try:
            results.append(function())
        except UserError as error:
            results.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread, results


def meet(others: list[Callable[[int], Any]], count: int = 2, timeout_s: float = 5.0) -> list[Any]:
    """Returns what process 0 and then the others got; a UserError stands for one that was raised."""
    port = free_port()
    running = [in_thread(lambda: gather(member(0, count), port, timeout_s))]
    for other in others:
        running.append(in_thread(lambda other=other: other(port)))  # type: ignore[misc]
    for thread, _ in running:
        thread.join(30)
    for _, (result,) in running:
        if isinstance(result, tuple):
            for connection in result[0].values() if isinstance(result[0], dict) else [result[0]]:
                connection.close()
    return [result for _, (result,) in running]


def test_processes_meet_and_learn_all_names_and_one_service_port() -> None:
    results = meet(
        [lambda port: join(member(2, 3), "127.0.0.1", port, 5.0), lambda port: join(member(1, 3), "::1", port, 5.0)], 3
    )
    assert [result[1] for result in results] == [("host0:4242", "host1:4242", "host2:4242")] * 3
    assert len({result[2] for result in results}) == 1
    assert sorted(results[0][0]) == [1, 2]


def answer_to(message: bytes, port: int) -> bytes:
    """Returns all that a listener answers, which may start later than this call."""
    deadline = time.monotonic() + 30
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
            continue
        with connection:
            connection.sendall(message)
            return connection.recv(100)


def test_strangers_on_the_port_are_sent_away() -> None:
    port = free_port()
    thread, gathered = in_thread(lambda: gather(member(0), port, 60.0))
    assert answer_to(b"GET / HTTP/1.1\r\n\r\n", port) == b""  # a health check
    assert answer_to(b'{"greeting": "recjax", "speed": 3}\n', port) == b""  # another version of recjax
    connection, names, _ = join(member(1), "127.0.0.1", port, 5.0)
    connection.close()
    thread.join(30)
    ((connections, names_of_first, _),) = gathered
    connections[1].close()
    assert names == names_of_first == ("host0:4242", "host1:4242")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            member(1, count=3),
            "process 1 (host1:4242) was told of 3 processes, process 0 (host0:4242) of 2; give every process the same "
            "number",
        ),
        (
            member(0, name="other:7"),
            "process 0 (other:7) and host0:4242 have the same index 0 of 2; give every process another one, 0 to 1",
        ),
        (
            member(1, version="2"),
            "process 1 (host1:4242) has jax 2, process 0 (host0:4242) has 1; install the same version on all hosts",
        ),
    ],
)
def test_a_process_that_does_not_fit_stops_all_with_the_same_line(other: Member, message: str) -> None:
    first, second = meet([lambda port: join(other, "127.0.0.1", port, 5.0)])
    assert str(first) == str(second) == message


def test_everybody_hears_who_did_not_come() -> None:
    first, second = meet([lambda port: join(member(1, 4), "127.0.0.1", port, 5.0)], count=4, timeout_s=2.0)
    assert str(first) == str(second)
    assert str(first).startswith("processes 2, 3 of 4 did not come to host0:")
    assert str(first).endswith(" within 2 s; see that every host runs the same command and reaches that port")


def test_nobody_at_the_address() -> None:
    port = free_port()
    with pytest.raises(
        UserError, match=rf"no process 0 at 127.0.0.1:{port} within 0.3 s \(Connection refused\); see that"
    ):
        join(member(1), "127.0.0.1", port, 0.3)


def test_another_program_at_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread, _ = in_thread(lambda: server.accept()[0].close())
        with pytest.raises(UserError, match=r"does not answer, or is not recjax; see that it runs"):
            join(member(1), "127.0.0.1", server.getsockname()[1], 1.0)
        thread.join(30)


def test_a_taken_port() -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(
            UserError, match=f"process 0 cannot listen on port {port}: Address already in use; give all"
        ):
            gather(member(0), port, 1.0)
