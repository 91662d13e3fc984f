"""Processes that reply, fail, die, hang, and print what they should not."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_peers import peer

from benchmarks.peers.process import REPOSITORY, PeerProcess, environment_of


@pytest.fixture
def start(tiny_task: Path) -> Iterator[Callable[..., PeerProcess]]:
    """Returns a function that starts the peer of that name; all are ended after the test."""
    started: list[PeerProcess] = []

    def of_name(name: str, python: str = sys.executable, **changed: Any) -> PeerProcess:
        started.append(PeerProcess(peer(name, **changed), tiny_task, threads=1, python=python))
        return started[-1]

    yield of_name
    for process in started:
        process.close()


def test_a_peer_is_started_built_checked_and_timed(start: Callable[..., PeerProcess], tiny_task: Path) -> None:
    process = start("honest")
    assert set(process.ask(do="start")["versions"]) == {"python"}
    assert process.ask(do="build", batch_size=3)["compile_s"] > 0
    assert process.ask(do="check", batch_size=3, to=str(tiny_task / "answers.npz")) == {}
    assert np.load(tiny_task / "answers.npz")["bags"].shape == (66, 8)  # 64 requests in batches of 3
    reply = process.ask(do="turn", batch_size=3, seed=[1, 2], calls=4)
    assert len(reply["latency_ms"]) == 4
    assert min(reply["latency_ms"]) > 0
    assert reply["all_cpu_ms"] >= reply["waited_cpu_ms"] + 4 * reply["cpu_ms"]
    assert process.is_running


def test_what_a_library_prints_is_no_reply(start: Callable[..., PeerProcess]) -> None:
    process = start("loud")
    assert "versions" in process.ask(do="start")
    assert "compile_s" in process.ask(do="build", batch_size=1)
    assert len(process.ask(do="turn", batch_size=1, seed=[1], calls=2)["latency_ms"]) == 2
    assert "and so does one in C" in process.log.read_text()


def test_a_missing_package_is_named(start: Callable[..., PeerProcess]) -> None:
    process = start("honest", needs={"no_such_module": "no-such-package", "json": "json"})
    reply = process.ask(do="start")
    assert reply["error"].startswith("no-such-package is not installed for Python 3.")
    assert process.is_running


def test_an_exception_is_one_line_and_the_process_goes_on(start: Callable[..., PeerProcess]) -> None:
    process = start("fails_in_large_batches")
    process.ask(do="start")
    assert process.ask(do="build", batch_size=2) == {"error": "NotImplementedError: no kernel for"}
    assert "compile_s" in process.ask(do="build", batch_size=1)


def test_a_crash_is_told_with_what_was_said_last(start: Callable[..., PeerProcess]) -> None:
    process = start("dies_in_a_turn")
    process.ask(do="start")
    process.ask(do="build", batch_size=1)
    assert process.ask(do="turn", batch_size=1, seed=[1], calls=200) == {
        "error": "its process ended with code 3: fatal: heap corrupted"
    }
    assert not process.is_running


def test_a_peer_that_cannot_even_start_is_told(start: Callable[..., PeerProcess]) -> None:
    process = start("honest", prepare="numpy_peers:nothing")
    assert process.ask(do="start")["error"].startswith("AttributeError")
    no_python = start("honest", python="/bin/false")
    assert no_python.ask(do="start") == {"error": "its process ended with code 1"}


def test_a_peer_that_hangs_is_ended(start: Callable[..., PeerProcess]) -> None:
    process = start("hangs")
    process.ask(do="start")
    started = time.monotonic()
    assert process.ask(do="build", batch_size=1, timeout_s=0.3) == {"error": "no reply to 'build' within 0.3 s"}
    assert time.monotonic() - started < 5
    assert not process.is_running


def test_a_peer_that_computes_out_of_turn_is_seen(start: Callable[..., PeerProcess]) -> None:
    waited_ms = {"honest": 0.0, "never_waits": 0.0}
    for name in waited_ms:
        process = start(name)
        process.ask(do="start")
        process.ask(do="build", batch_size=1)
        until = time.monotonic() + (0.3 if name == "honest" else 30)  # others may have the core
        while time.monotonic() < until and waited_ms[name] <= 60:
            time.sleep(0.3)
            waited_ms[name] = process.ask(do="turn", batch_size=1, seed=[1], calls=2)["waited_cpu_ms"]
        process.close()
    assert waited_ms["honest"] < 20
    assert waited_ms["never_waits"] > 60


def test_interrupts_are_the_coordinators_business(start: Callable[..., PeerProcess]) -> None:
    process = start("honest")
    process.ask(do="start")
    os.kill(process._process.pid, signal.SIGINT)
    assert "compile_s" in process.ask(do="build", batch_size=1)
    assert os.getpgid(process._process.pid) == os.getpgrp()


def test_a_peer_ends_with_its_coordinator(start: Callable[..., PeerProcess]) -> None:
    process = start("honest")
    process.ask(do="start")
    process._process.stdin.close()  # as when the coordinator is killed
    assert process._process.wait(timeout=5) == 0


def test_the_environment_limits_threads_and_keeps_the_callers_paths(tmp_path: Path) -> None:
    made = environment_of(tmp_path, 3, {"PYTHONPATH": "/a", "OMP_NUM_THREADS": "64", "HOME": "/h"})
    assert made["OMP_NUM_THREADS"] == made["MKL_NUM_THREADS"] == "3"
    assert made["PYTHONPATH"] == f"{REPOSITORY}{os.pathsep}/a"
    assert made["JAX_PLATFORMS"] == "cpu"
    assert made["HOME"] == "/h"
    assert environment_of(tmp_path, 1, {})["PYTHONPATH"] == str(REPOSITORY)
