"""Real pairs of CPU processes over gloo."""

import os
import subprocess
import sys
import textwrap
import time

import jax
import pytest
from assertions import REPOSITORY, assert_one_line
from free_port import free_port

from recjax.errors import UserError
from recjax.parallel.start import finish, is_writer, quiet_others, start

PROGRAM = textwrap.dedent("""
    import os, signal, sys, time
    from recjax.command_line import run_command

    def main():
        import jax
        import numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
        from recjax.errors import UserError
        from recjax.parallel.start import finish, is_writer, quiet_others, start

        processes = start(timeout_s=30.0)
        quiet_others()
        try:
            start()
        except UserError as error:
            print(error)
        mesh = Mesh(np.array(jax.devices()), ("data",))
        total = jax.jit(jax.shard_map(lambda x: jax.lax.psum(x, "data"), mesh=mesh, in_specs=P("data"), out_specs=P()))
        own = np.full(jax.local_device_count(), 1.0 + processes.index, np.float32)
        values = jax.make_array_from_process_local_data(NamedSharding(mesh, P("data")), own)
        assert (jax.process_count(), jax.process_index()) == (processes.count, processes.index)
        assert is_writer() == processes.is_writer == (processes.index == 0)
        print("sum", total(values).item(), processes.found_by, len(set(processes.names)), flush=True)
        print("met", file=sys.stderr, flush=True)
        action = sys.argv[1]
        if action == "killed":  # while the other waits for it in a collective, or computes
            time.sleep(3.0)
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "fails":
            raise UserError("no such suite")
        if action == "raises":
            raise IndexError("no such row")
        if action == "computes":
            while True:
                sum(range(1_000))
        if action == "collective":
            while True:
                total(values).block_until_ready()
        if action == "terminated":
            time.sleep(60)
        finish()
        return 0

    sys.exit(run_command(main))
""")


def begin(index: int, action: str, port: int, devices: int = 1) -> subprocess.Popen[str]:
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "RECJAX_COORDINATOR": f"127.0.0.1:{port}",
        "RECJAX_PROCESSES": "2",
        "RECJAX_PROCESS": str(index),
        "http_proxy": "http://127.0.0.1:9",  # a proxy that is not there must not be asked
    }
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, action],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_pair(first: str, second: str, devices: int = 1) -> list[tuple[int, str, str]]:
    """Returns exit code, stdout and stderr of both processes."""
    port = free_port()
    processes = [begin(index, action, port, devices) for index, action in enumerate((first, second))]
    outputs = [process.communicate(timeout=60) for process in processes]
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


def test_one_process_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECJAX_COORDINATOR", raising=False)
    for processes in (start(), start(coordinator="127.0.0.1:1", processes=1, process=0)):
        assert (processes.index, processes.count, processes.found_by, processes.coordinator) == (0, 1, "alone", None)
        assert processes.is_writer
        assert processes.names[0].endswith(f":{os.getpid()}")
    assert is_writer()
    assert not jax.distributed.is_initialized()
    finish()
    quiet_others()


def test_a_start_after_a_device_was_touched() -> None:
    jax.devices()
    with pytest.raises(UserError, match=r"^recjax.parallel.start.start must come before anything touches a device"):
        start(coordinator="127.0.0.1:1", processes=2, process=0)


def test_two_processes_compute_together_and_only_the_writer_speaks() -> None:
    (code_0, out_0, error_0), (code_1, out_1, error_1) = run_pair("finish", "finish", devices=2)
    assert (code_0, code_1) == (0, 0)
    # Found in it, as gloo writes lines of its own from several threads, between and into others.
    assert "recjax.parallel.start.start was called before in this process; call it once" in out_0
    assert "sum 6.0 arguments 2" in out_0  # two devices with 1 and two with 2
    assert out_1 == ""
    assert (error_0, error_1) == ("met\n", "met\n")


@pytest.mark.parametrize("survivor", ["collective", pytest.param("computes", marks=pytest.mark.slow)])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_with_one_line(victim: int, survivor: str) -> None:
    actions = [survivor, survivor]
    actions[victim] = "killed"
    port, began = free_port(), time.monotonic()
    processes = [begin(index, action, port) for index, action in enumerate(actions)]
    name = f"process {victim} of 2 ({os.uname().nodename}:{processes[victim].pid})"
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert time.monotonic() - began < 60
    assert [process.returncode for process in processes][victim] == -9
    assert [process.returncode for process in processes][1 - victim] == 2
    assert errors[1 - victim].startswith("met\n")
    assert_one_line(errors[1 - victim].removeprefix("met\n"), f"lost {name}: its connection closed", "last checkpoint")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize(
    ("action", "code", "own", "heard"),
    [
        ("fails", 2, "error: no such suite\n", "it ended before the run did"),
        ("raises", 1, "IndexError: no such row\n", "it failed (IndexError: no such row)"),
    ],
)
def test_a_process_that_fails_ends_both(victim: int, action: str, code: int, own: str, heard: str) -> None:
    actions = ["collective", "collective"]
    actions[victim] = action
    results = run_pair(*actions)
    assert results[victim][0] == code
    assert results[victim][2].endswith(own)
    assert results[1 - victim][0] == 2
    assert_one_line(results[1 - victim][2].removeprefix("met\n"), f"lost process {victim} of 2", heard)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_sigterm_ends_a_process_and_the_other_hears_of_it(victim: int) -> None:
    port = free_port()
    processes = [begin(index, "terminated", port) for index in range(2)]
    for process in processes:
        assert process.stderr is not None
        assert process.stderr.readline() == "met\n"
    processes[victim].terminate()
    errors = [process.communicate(timeout=30)[1] for process in processes]
    assert [process.returncode for process in processes][victim] == -15
    assert_one_line(errors[1 - victim], f"lost process {victim} of 2")


def test_an_unreachable_coordinator_is_one_line() -> None:
    code = """
import sys
from recjax.command_line import run_command
from recjax.parallel.start import start
sys.exit(run_command(lambda: start(coordinator="127.0.0.1:1", processes=2, process=1, timeout_s=0.2)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert_one_line(done.stderr, "no process 0 at 127.0.0.1:1 within 0.2 s (Connection refused)")
