"""The page of published results."""

from pathlib import Path

import pytest

from benchmarks.results_page import PAGE, STORED, main
from benchmarks.results_page_contents import render

ROOT = Path(__file__).parents[2]


def test_the_committed_page_is_that_of_the_stored_rows() -> None:
    assert render(ROOT / STORED) == (ROOT / PAGE).read_text()


def test_without_stored_rows_there_is_one_line_and_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: there are no rows at benchmarks/results/quick-intel-xeon-amx")
    assert not PAGE.exists()
