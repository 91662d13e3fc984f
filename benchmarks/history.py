"""Writes one page of many runs over time, from the rows that they left.

Nothing heavy is imported here, so that --help answers at once.
"""

import argparse
import sys
from pathlib import Path

from recjax.command_line import OneLineParser, make_output_folder, run_command
from recjax.errors import UserError

EXAMPLES = """examples:
  python -m benchmarks.history --out=runs/history.html                          benchmarks/results/
  python -m benchmarks.history benchmarks/results runs --out=history.html      and this machine's own runs

exit codes: 0 done, 2 unusable input (one line says why)"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line; exits with 2 and one line on unusable arguments."""
    description = "Write a page that shows throughput, latency and server rate of all stored runs over time."
    parser = OneLineParser(prog="python -m benchmarks.history", description=description, epilog=EXAMPLES)
    parser.add_argument(
        "folders",
        nargs="*",
        type=Path,
        metavar="FOLDER",
        default=[Path("benchmarks/results")],
        help="where to look for files of rows, with all folders below (default: benchmarks/results)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.html", help="the page")
    options = parser.parse_args(arguments)
    if options.out.suffix != ".html":
        parser.error(f"--out={options.out}; allowed: a file that ends in .html, as runs/history.html")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse_arguments(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from benchmarks.bench_extra import require_bench_extra
    from benchmarks.history_page import render_history
    from benchmarks.history_rows import read_history

    require_bench_extra()
    runs, others = read_history(options.folders)
    if options.out.is_dir():
        raise UserError(f"--out is {options.out}, a folder; give a file, as {options.out / 'history.html'}")
    make_output_folder(options.out.parent)
    options.out.write_text(render_history(runs), encoding="utf-8")
    n_rows = sum(len(run.rows) for run in runs)
    print(f"{len(runs)} runs, {n_rows} rows; {others} files of other rows left out; open {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
