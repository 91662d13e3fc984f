import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.compare import load_run, main
from benchmarks.compare_check import main as check
from benchmarks.compare_check_suite import check_suite
from benchmarks.comparison import compare_runs
from benchmarks.measuring import scenarios_of

ROOT = Path(__file__).parent.parent.parent
STORED = ROOT / "benchmarks/results"


def test_the_suite_makes_twenty_rows() -> None:
    suite = check_suite(5)
    assert suite.measurement.processes == 5
    rows = [(case, size) for case in suite.cases for size in scenarios_of(suite, case) for _ in case.variants]
    assert len(rows) == 20


@pytest.mark.parametrize("option", ["--processes=2", "--slowdown=0", "--slowdown=nan", "--seed=-1"])
def test_arguments_that_make_no_sense(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        check([option])
    assert raised.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_answers_at_once() -> None:
    imports = "import sys; import benchmarks.compare_check; sys.exit('jax' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", imports], check=False).returncode == 0


@pytest.mark.parametrize(
    ("folder", "options", "unsure_of_equal", "slower", "unsure_of_slowed"),
    [
        ("compare-check", ["--paired"], 2, 20, 0),
        ("compare-check", [], 13, 19, 1),
        ("compare-check-disturbed", ["--paired"], 5, 20, 0),
        ("compare-check-disturbed", [], 19, 16, 4),
        ("compare-check-disturbed/ten-processes", ["--paired"], 12, 18, 2),
        ("compare-check-disturbed/ten-processes", [], 20, 4, 16),
    ],
)
def test_the_stored_runs_are_judged_as_docs_compare_says(
    folder: str,
    options: list[str],
    unsure_of_equal: int,
    slower: int,
    unsure_of_slowed: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, second, slowed = (str(STORED / folder / run) for run in ("first", "second", "slowed"))
    assert main([first, second, *options]) == 0
    printed = capsys.readouterr().out
    assert "20 rows: 0 slower, 0 faster, 20 the same" in printed
    assert printed.count("  same ?  ") == unsure_of_equal
    assert main([first, slowed, *options]) == 1
    printed = capsys.readouterr().out
    assert f"20 rows: {slower} slower, 0 faster, {20 - slower} the same" in printed
    assert printed.count("  same ?  ") == unsure_of_slowed


@pytest.mark.long
def test_a_small_check_leaves_three_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = check(["--processes=3", "--slowdown=1", f"--out={tmp_path}"])
    printed = capsys.readouterr().out
    runs = {name: load_run(tmp_path / name) for name in ("first", "second", "slowed")}
    for run in runs.values():
        assert len(run.rows) == len(run.samples) == 20
        assert all(row.valid and row.processes == 3 for row in run.rows.values())
        in_order = sorted([0, 1, 2] * check_suite(3).measurement.rounds)
        assert all(list(samples.processes) == in_order for samples in run.samples.values())
    assert printed.count("first and second, ") == printed.count("first and slowed, ") == 2
    assert (tmp_path / "first-slowed.md").read_text().startswith("**20 rows: ")
    repeated, slowed = (compare_runs(runs["first"], runs[name], paired=True) for name in ("second", "slowed"))
    as_known = len(repeated.of("same")) >= 19 and len(slowed.of("slower")) == 20
    assert code == (0 if as_known else 1)
    # Twice as long on average. On a busy machine three processes call 15 of 20 such rows slower; medians show all.
    assert slowed.is_worse
    assert len(slowed.of("slower")) + len(slowed.of("same")) == 20
    assert min(row.figures[0].ratio for row in slowed.rows) > 1.5
