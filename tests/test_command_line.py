import errno
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from assertions import assert_one_line

from recjax.command_line import NOBODY_READS, UNUSABLE, OneLineParser, parse_mesh, run_command
from recjax.errors import UserError


def test_exhausted_device_memory_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def allocate() -> int:
        return int(jax.jit(lambda: jnp.ones((1 << 24, 1 << 24)) * 2)().size)

    assert run_command(allocate) == UNUSABLE
    assert_one_line(capsys.readouterr().err, "out of memory", "training.batch_size")


def test_exhausted_host_memory_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: int(np.ones((1 << 24, 1 << 24)).size)) == UNUSABLE
    assert_one_line(capsys.readouterr().err, "out of memory", "PiB")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "no access to ratings.csv: Permission denied; change its permissions, or give another path"),
        (errno.ENOSPC, "cannot write ratings.csv: No space left on device"),
    ],
)
def test_a_file_that_cannot_be_read_or_written_is_one_line(
    number: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise OSError(number, os.strerror(number), "ratings.csv")

    assert run_command(fail) == UNUSABLE
    assert_one_line(capsys.readouterr().err, words, "; what was written before is kept")


def test_another_runtime_error_is_not_hidden() -> None:
    def fail() -> int:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run_command(fail)


def test_output_that_nobody_reads_any_more_is_no_error() -> None:
    script = (
        "import sys; from recjax.command_line import run_command\n"
        "def command(): print('x' * 1_000_000); return 0\n"
        "sys.exit(run_command(command))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == NOBODY_READS


def test_a_mesh_is_axes_and_sizes() -> None:
    assert parse_mesh("data=-1, model=2") == {"data": -1, "model": 2}


@pytest.mark.parametrize(
    "text", ["", "data", "data=", "data=x", "data=2,data=4", "data=2;model=4", "data=--2", "rows=2"]
)
def test_unusable_meshes(text: str) -> None:
    with pytest.raises(UserError, match=r"--mesh is .*; allowed: data=n, model=n or both"):
        parse_mesh(text)


@pytest.mark.parametrize("option", ["--suit=smoke", "--sute=smoke"])
def test_an_option_that_is_not_spelled_out_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = OneLineParser(prog="tool")
    parser.add_argument("--suite")
    with pytest.raises(SystemExit) as raised:
        parser.parse_args([option])
    assert raised.value.code == 2
    assert capsys.readouterr().err == f"error: unrecognized arguments: {option}; see tool --help\n"
