"""What a user sees who has not installed the extra `bench`."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from assertions import REPOSITORY, assert_one_line

from benchmarks import compare, compare_revisions, history, show, transforms_page
from benchmarks.bench_extra import require_bench_extra

PUBLISHED = REPOSITORY / "benchmarks" / "results" / "quick-intel-xeon-amx"


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def test_the_extra_is_installed_where_tests_run() -> None:
    require_bench_extra()


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (show.main, [str(PUBLISHED), "--out=."]),
        (history.main, [str(PUBLISHED), "--out=page.html"]),
        (transforms_page.main, ["--page=page.md", "--plot=page.html"]),
        (compare.main, ["HEAD", "HEAD~1", "--out=."]),
    ],
)
def test_a_command_that_writes_a_report_says_what_is_missing(
    main: Callable[[list[str]], int],
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare_revisions, "revision_of", lambda name: "0" * 40)
    assert main(arguments) == 2
    words = "runs and their reports need plotly and hdrhistogram: pip install -e '.[bench]' in the repository"
    assert_one_line(capsys.readouterr().err, words)
    assert not list(tmp_path.iterdir())


def test_a_table_needs_no_extra() -> None:
    script = f"""
import sys
sys.modules["plotly"] = sys.modules["hdrh"] = None
import benchmarks.comparison_report, benchmarks.runner, benchmarks.seed_quality
from benchmarks.show import main
sys.exit(main([{str(PUBLISHED)!r}]))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
