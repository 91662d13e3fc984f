"""Writes docs/transforms.md from stored rows.

Nothing heavy is imported here, so that --help answers at once.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from recjax.command_line import OneLineParser, run_command
from recjax.errors import UserError

if TYPE_CHECKING:
    from benchmarks.results import Row

ROWS = Path("benchmarks/results/transforms-amd-epyc-avx2")
CROSSOVERS = tuple(
    Path("benchmarks/results/crossover") / processor / "crossover.jsonl" for processor in ("amd-epyc-avx2", "amd-epyc")
)
WIDE_MLP = Path("benchmarks/results/wide-mlp-amd-epyc")
PAGE = Path("docs/transforms.md")
EXAMPLES = """examples:
  python -m benchmarks.transforms_page
  python -m benchmarks.transforms_page --rows=runs/transforms-cpu --page=runs/transforms.md --plot=runs/transforms.html

of other rows than the default ones the page has the tables alone: its words are of those
exit codes: 0 done, 2 unusable input (one line says why)"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line; exits with 2 and one line on unusable arguments."""
    description = "Write docs/transforms.md from the rows of the transforms suite and of sparse_crossover."
    parser = OneLineParser(prog="python -m benchmarks.transforms_page", description=description, epilog=EXAMPLES)
    parser.add_argument(
        "--rows", type=Path, default=ROWS, metavar="DIR", help=f"a run of the transforms suite (default: {ROWS})"
    )
    parser.add_argument(
        "--crossover",
        type=Path,
        nargs="+",
        default=CROSSOVERS,
        metavar="FILE",
        help=f"rows of sparse_crossover, a processor a file (default: {' '.join(map(str, CROSSOVERS))})",
    )
    parser.add_argument(
        "--wide-mlp", type=Path, default=WIDE_MLP, metavar="DIR", help=f"a run of suite wide_mlp (default: {WIDE_MLP})"
    )
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE", help=f"what is written (default: {PAGE})")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="an HTML file for the page's picture (default: none)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse_arguments(arguments)
    return run_command(
        lambda: write_page(options.rows, options.crossover, options.wide_mlp, options.page, options.plot)
    )


def write_page(folder: Path, crossovers: Sequence[Path], wide_mlp: Path, page: Path, plot: Path | None) -> int:
    """Writes the page and returns the exit code.

    Raises:
      UserError: there are no rows, a line cannot be used, the page cannot be written, or the extra `bench`, which draws
        the plot, is not installed.
    """
    from benchmarks.bench_extra import require_bench_extra
    from benchmarks.crossover_timing import CrossoverRow
    from benchmarks.stored import read_stored
    from benchmarks.summary import group_experiments
    from benchmarks.transforms_page_contents import render

    if plot is not None:
        require_bench_extra()
    rows, of_wide_mlp = _rows(folder, "transforms"), _rows(wide_mlp, "wide_mlp")
    for file in crossovers:
        _check_is_there(file, "sparse_crossover")
    measured = [read_stored(file, CrossoverRow, "benchmarks.sparse_crossover") for file in crossovers]
    with_words = (folder, tuple(crossovers), wide_mlp) == (ROWS, CROSSOVERS, WIDE_MLP)
    text = render(rows, measured, of_wide_mlp, folder, with_words=with_words)
    _write(page, "--page", lambda: page.write_text(text, encoding="utf-8"))
    if plot is not None:
        from benchmarks.transforms_page_plot import write_plot

        _write(plot, "--plot", lambda: write_plot(group_experiments(rows), plot))
    return 0


def _rows(folder: Path, suite: str) -> Sequence["Row"]:
    """Returns a run's rows; raises UserError if there are none."""
    from benchmarks.results import read_rows

    file = folder / "results.jsonl"
    _check_is_there(file, f"run --suite {suite}")
    rows = read_rows(file)
    if not rows:
        raise UserError(f"{file} is empty: its run was stopped before the first row; run it again")
    return rows


def _check_is_there(file: Path, maker: str) -> None:
    if not file.is_file():
        raise UserError(f"no {file}; make it with python -m benchmarks.{maker}")


def _write(file: Path, flag: str, write: Callable[[], object]) -> None:
    try:
        write()
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}; give another file with {flag}") from error
    print(f"wrote {file}")


if __name__ == "__main__":
    sys.exit(main())
