"""The page of published results."""

import os
from pathlib import Path

import pytest

from benchmarks.results_page import PAGE, STORED, main

ROOT = Path(__file__).parents[2]


def test_the_committed_page_is_that_of_the_stored_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = tmp_path / "docs" / "results" / "README.md"
    assert main([f"--page={page}"]) == 0
    link = os.path.relpath(STORED, page.parent)
    assert page.read_text() == (ROOT / PAGE).read_text().replace(os.path.relpath(STORED, PAGE.parent), link)


def test_everything_that_the_page_links_is_there() -> None:
    page = ROOT / PAGE
    links = [part.partition(")")[0] for part in page.read_text().split("](")[1:]]
    assert len(links) > 10
    for link in links:
        assert (page.parent / link).exists(), link


def test_a_folder_without_rows_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"--stored={tmp_path}", f"--page={tmp_path / 'page.md'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: there are no rows at {tmp_path}")
    assert not (tmp_path / "page.md").exists()
