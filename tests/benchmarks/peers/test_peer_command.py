"""The command line: what it refuses, and how fast it answers."""

import subprocess
import sys
from pathlib import Path

import pytest
from assertions import REPOSITORY, assert_one_line

from benchmarks.peers.__main__ import main, parse_arguments


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--rows=1", "--rows=1 is too small; allowed: 2 or more"),
        ("--threads=0", "--threads=0 is too small; allowed: 1 or more"),
        ("--rounds=0", "--rounds=0 is too small; allowed: 1 or more"),
        ("--batch-size=0", "--batch-size=0 is too small; allowed: 1 or more"),
        ("--turn-s=0", "--turn-s=0; allowed: above 0 and finite"),
        ("--turn-s=nan", "--turn-s=nan; allowed: above 0 and finite"),
        ("--turn-s=inf", "--turn-s=inf; allowed: above 0 and finite"),
        ("--quiet=-1", "--quiet=-1; allowed: 0 or more, and finite"),
        ("--quiet=nan", "--quiet=nan; allowed: 0 or more, and finite"),
        ("--python=/usr/bin/python3", "--python=/usr/bin/python3; allowed: PEER=PATH, as torch-eager="),
        ("--python==/usr/bin/python3", "--python==/usr/bin/python3; allowed: PEER=PATH"),
    ],
)
def test_unusable_arguments_are_one_line(argument: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        parse_arguments([argument])
    assert exited.value.code == 2
    assert_one_line(capsys.readouterr().err, message, "see python -m benchmarks.peers --help")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workload=dlrm"], "unknown workload 'dlrm'; valid: dlrm_dcnv2, pooled_bags, sasrec, sum_of_26"),
        (["--peer=pytorch"], "unknown peer 'pytorch'"),
        (["--device=gpu"], "the peers suite runs on a CPU, and --device is 'gpu'; allowed: --device=cpu"),
        (["--threads=4096"], "--threads is 4096, and this process may use"),
        (["--python=torch=/bin/sh"], "--python names 'torch', which takes no part; valid: recjax, recjax-again"),
        (["--python=torch-eager=/no/such/python"], "--python of torch-eager is /no/such/python, which cannot be run"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, f"--out={tmp_path / 'out'}"]) == 2
    assert_one_line(capsys.readouterr().err, message)
    assert not (tmp_path / "out").exists()


def test_help_is_light() -> None:
    code = """
import sys
from benchmarks.peers.__main__ import main
try:
    main(["--help"])
finally:
    print(sorted({"jax", "numpy", "rich", "scipy", "torch", "keras", "onnx"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: python -m benchmarks.peers")
    assert "--python PEER=PATH" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
