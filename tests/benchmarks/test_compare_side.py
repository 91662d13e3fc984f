import json
from pathlib import Path

import pytest

from benchmarks.compare_side import main

ROOT = Path(__file__).parent.parent.parent


def request(**changes: object) -> str:
    values = {"loader": "load_suite", "name": "smoke", "overrides": [], "device": "cpu", "processes": 3}
    return json.dumps(values | {"folder": "nowhere", "tree": str(ROOT)} | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tree": "/another"}, f"benchmarks was imported from {ROOT}, not from /another"),
        ({"name": "smok"}, "unknown suite 'smok'"),
        ({"overrides": ["training.epoch=1"]}, "training.epoch"),
    ],
)
def test_what_cannot_be_run_is_one_line(
    changes: dict, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([request(folder=str(tmp_path / "out"), **changes)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
