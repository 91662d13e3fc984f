import os
import subprocess
import sys

import pytest
from assertions import REPOSITORY, assert_help_is_light, assert_one_line

from tools.check_hosts import main


def test_one_process(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECJAX_COORDINATOR", raising=False)
    assert main(["--device=cpu"]) == 0
    first, second, last = capsys.readouterr().out.splitlines()
    assert first == "1 process, found by: alone"
    assert second.startswith("process 0: ")
    assert last == "1 to 8 over all devices add up to 36, as they should"  # tests have eight CPU devices


def test_a_host_that_does_not_come_is_one_line() -> None:
    environment = os.environ | {
        "RECJAX_COORDINATOR": "127.0.0.1:1",
        "RECJAX_PROCESSES": "2",
        "RECJAX_PROCESS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tools.check_hosts", "--device=cpu", "--timeout=0"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert_one_line(done.stderr, "no process 0 at 127.0.0.1:1 within 0 s")


def test_unusable_arguments_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--device=cpu", "--timeout=x"])
    assert_one_line(capsys.readouterr().err, "'x' is no whole number of at least 0")


def test_help_is_light() -> None:
    assert_help_is_light("tools.check_hosts", "--seconds")
