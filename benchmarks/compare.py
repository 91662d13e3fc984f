"""Compares two runs, or two revisions that it measures in turns, row by row.

Nothing heavy is imported here, so that --help answers at once.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from recjax.command_line import OneLineParser, run_command
from recjax.errors import UserError

if TYPE_CHECKING:
    from benchmarks.comparison import Run

WORSE = 1
OF_REVISIONS = ("suite", "config", "set", "device", "processes", "out")
EXAMPLES = """examples:
  python -m benchmarks.compare runs/before runs/after                       folders, or their results.jsonl
  python -m benchmarks.compare main HEAD --suite=smoke                      git revisions, measured in turns
  python -m benchmarks.compare HEAD $(git stash create) --config=configs/sasrec_movielens_small.py
  python -m benchmarks.compare runs/before runs/after --threshold=0.1 --markdown=comparison.md

A is before, B after. A row is slower or faster if its median latency, its samples/s or its p99 differs by more than
--threshold, and by more than the noise between processes explains; rows need 3 processes on each side, and find 10%
with 8. Revisions are measured window by window in turns, each in a git worktree of its own in this virtual environment.
exit codes: 0 nothing is worse, 1 a row is slower or became invalid, or a model lost quality, 2 unusable input,
130 interrupted"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line; exits with 2 and one line on unusable arguments."""
    description = "Compare two runs, or two git revisions measured in turns: per row the ratio and a verdict."
    parser = OneLineParser(prog="python -m benchmarks.compare", description=description, epilog=EXAMPLES)
    parser.add_argument("a", metavar="A", help="before: a results folder, its file of rows, or a git revision")
    parser.add_argument("b", metavar="B", help="after, of the same kind")
    parser.add_argument(
        "--threshold", type=float, default=0.05, metavar="SHARE", help="a smaller change is none (default: 0.05)"
    )
    parser.add_argument(
        "--paired", action="store_true", help="A and B took turns: compare process k of B with process k of A"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the comparison for a pull request")
    revisions = parser.add_argument_group("of revisions alone")
    what = revisions.add_mutually_exclusive_group()
    what.add_argument("--suite", metavar="NAME", help="a suite that both revisions have (default: smoke)")
    what.add_argument("--config", metavar="FILE", help="one experiment, as a path in both revisions")
    revisions.add_argument("--set", action="append", metavar="a.b=c", help="override a config value; repeatable")
    revisions.add_argument("--device", metavar="cpu|gpu", help="where to run (default: cpu)")
    revisions.add_argument("--processes", type=int, metavar="N", help="fresh ones of each revision (default: 8)")
    revisions.add_argument(
        "--out", type=Path, metavar="DIR", help="keeps both runs (default: runs/compare-A-B, by commits)"
    )
    options = parser.parse_args(arguments)
    if not 0 <= options.threshold < 1:
        parser.error(f"--threshold={options.threshold:g}; allowed: a share within 0 and 1, as 0.05")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse_arguments(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from benchmarks.comparison import compare_runs
    from benchmarks.comparison_report import print_comparison, render_comparison
    from benchmarks.report import wide_console

    if options.markdown and not options.markdown.parent.is_dir():
        raise UserError(f"--markdown: there is no folder {options.markdown.parent}")
    if options.markdown and options.markdown.is_dir():
        raise UserError(
            f"--markdown is {options.markdown}, a folder; give a file, as {options.markdown / 'compare.md'}"
        )
    runs = _runs(options)
    comparison = compare_runs(*runs, threshold=options.threshold, paired=options.paired)
    print_comparison(comparison, wide_console())
    if options.markdown:
        options.markdown.write_text(render_comparison(comparison), encoding="utf-8")
    if not comparison.is_worse and not any(row.reason is None for row in comparison.rows):
        raise UserError("no row can be compared: the reasons stand above")
    return WORSE if comparison.is_worse else 0


def _runs(options: argparse.Namespace) -> tuple["Run", "Run"]:
    """Returns the runs that A and B name; revisions are measured first."""
    from benchmarks.compare_revisions import measure_revisions, revision_of

    names = options.a, options.b
    given = [name for name in OF_REVISIONS if getattr(options, name) is not None]
    if all(Path(name).exists() for name in names):
        if given:
            raise UserError(f"--{given[0]} is for git revisions, and A and B are results that are there")
        return load_run(Path(options.a)), load_run(Path(options.b))
    if any(Path(name).exists() for name in names):
        missing = next(name for name in names if not Path(name).exists())
        raise UserError(f"there is nothing at {missing}; give two paths that are there, or two git revisions")
    options.paired = True
    folder = measure_revisions(
        revision_of(names[0]),
        revision_of(names[1]),
        suite=options.suite or "smoke",
        config=options.config,
        overrides=options.set or [],
        device=options.device or "cpu",
        processes=8 if options.processes is None else options.processes,
        out=options.out,
    )
    return load_run(folder / "a"), load_run(folder / "b")


def load_run(path: Path) -> "Run":
    """Returns a run from its folder or its file of rows.

    Raises:
      UserError: there are none, or two of one name.
    """
    from benchmarks.comparison import Run
    from benchmarks.results import read_row_samples, read_rows
    from benchmarks.summary import samples_key

    file = path / "results.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"there are no rows at {file}; give a folder with a results.jsonl, or such a file")
    rows = read_rows(file)
    if not rows:
        raise UserError(f"{file} is empty: its run was stopped before the first row")
    by_key = {samples_key(row): row for row in rows}
    if len(by_key) < len(rows):
        raise UserError(f"{file} has {len(rows)} rows of {len(by_key)} names; give the rows of one run")
    # Beside a file of another name lie the samples of results.jsonl.
    samples = read_row_samples(file.with_name("samples.npz")) if file.name == "results.jsonl" else {}
    return Run(name=str(path), rows=by_key, samples=samples)


if __name__ == "__main__":
    sys.exit(main())
