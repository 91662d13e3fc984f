"""Processes that only know `peers`, so that they start in a moment."""

import socket
import subprocess
import sys
import textwrap
import time

import pytest
from assertions import REPOSITORY
from free_port import free_port

from recjax.parallel import peers
from recjax.parallel.peers import Connection, Watch

PROGRAM = textwrap.dedent("""
    import sys, time
    from recjax.parallel.meeting import Member, gather, join
    from recjax.parallel.peers import Watch, end_process
    index, count, port, action = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    member = Member(index=index, count=count, name=f"host{index}:4242", version="1")
    if index == 0:
        connections, names, _ = gather(member, port, 20)
    else:
        first, names, _ = join(member, "127.0.0.1", port, 20)
        connections = {0: first}
    watch = Watch(index, names, connections)
    print("met", flush=True)
    sys.stdin.readline()
    if action == "leave":
        watch.leave("it failed (ValueError: no such item)")
        end_process(1)
    if action == "finish":
        watch.finish()
    else:
        time.sleep(50)
""")


def run_processes(*actions: str) -> list[subprocess.Popen[str]]:
    """Returns processes that have met; each does its action once it reads a line."""
    port = free_port()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(index), str(len(actions)), str(port), action],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, action in enumerate(actions)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "met\n"
    return started


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_killed_process_ends_the_others_with_its_name(victim: int) -> None:
    processes = run_processes("wait", "wait", "wait")
    killed = time.monotonic()
    processes[victim].kill()
    for index, process in enumerate(processes):
        _, error = process.communicate(timeout=30)
        if index != victim:
            assert process.returncode == 2
            assert error == (
                f"error: lost process {victim} of 3 (host{victim}:4242): its connection closed, as when a process is "
                "killed; training goes on from the last checkpoint when you start all 3 again\n"
            )
    assert time.monotonic() - killed < 10


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_fails_says_so_to_the_others(victim: int) -> None:
    actions = ["wait"] * 3
    actions[victim] = "leave"
    processes = run_processes(*actions)
    go_on(processes[victim])
    for index, process in enumerate(processes):
        _, error = process.communicate(timeout=30)
        assert process.returncode == (1 if index == victim else 2)
        if index != victim:
            assert error == (
                f"error: lost process {victim} of 3 (host{victim}:4242): it failed (ValueError: no such item); see its "
                "output, then start all 3 again\n"
            )


def test_processes_wait_for_the_last_to_finish_and_end_in_peace() -> None:
    processes = run_processes("finish", "finish", "finish")
    for process in processes[:2]:
        go_on(process)
    time.sleep(0.3)
    assert [process.poll() for process in processes] == [None] * 3
    go_on(processes[2])
    for process in processes:
        assert process.communicate(timeout=30) == ("", "")
        assert process.returncode == 0


def test_a_process_lost_while_the_others_wait_for_it_at_the_end() -> None:
    processes = run_processes("finish", "wait")
    go_on(processes[0])
    time.sleep(0.3)
    processes[1].kill()
    processes[1].communicate()
    _, error = processes[0].communicate(timeout=30)
    assert processes[0].returncode == 2
    assert error.startswith("error: lost process 1 of 2 (host1:4242)")


def test_keep_alive_notices_a_silent_host_within_30_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = Connection(socket.create_connection(server.getsockname()))
        idle, interval, probes = (
            connection.socket.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert idle + interval * probes == peers.SILENCE_S == 30
        assert connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
        connection.close()


def test_a_loss_after_the_end_is_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        other = Connection(socket.create_connection(server.getsockname()))
        watch = Watch(0, ("host0:1", "host1:2"), {1: Connection(server.accept()[0])})
    other.send(finished=True)
    watch.finish()
    assert other.receive() == {"finished": True}
    other.close()
    time.sleep(0.1)  # this process would have ended
