"""Writes docs/transforms.md from stored rows.

Nothing heavy is imported here, so that --help answers at once.
"""

import argparse
import sys
from pathlib import Path

from recjax.command_line import OneLineParser, run_command
from recjax.errors import UserError

ROWS = Path("benchmarks/results/transforms-amd-epyc")
CROSSOVER = Path("benchmarks/results/crossover/crossover.jsonl")
PAGE = Path("docs/transforms.md")
EXAMPLES = """examples:
  python -m benchmarks.transforms_page
  python -m benchmarks.transforms_page --rows=runs/transforms-cpu --page=runs/transforms.md

exit codes: 0 done, 2 unusable input (one line says why)"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line; exits with 2 and one line on unusable arguments."""
    description = "Write docs/transforms.md from the rows of the transforms suite and of sparse_crossover."
    parser = OneLineParser(prog="python -m benchmarks.transforms_page", description=description, epilog=EXAMPLES)
    parser.add_argument(
        "--rows", type=Path, default=ROWS, metavar="DIR", help=f"a run of the transforms suite (default: {ROWS})"
    )
    parser.add_argument(
        "--crossover", type=Path, default=CROSSOVER, metavar="FILE", help=f"rows of sparse_crossover ({CROSSOVER})"
    )
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE", help=f"what is written (default: {PAGE})")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse_arguments(arguments)
    return run_command(lambda: write_page(options.rows, options.crossover, options.page))


def write_page(folder: Path, crossover: Path, page: Path) -> int:
    """Writes the page and returns the exit code.

    Raises:
      UserError: there are no rows, a line cannot be used, or the page cannot be written.
    """
    from benchmarks.crossover_timing import CrossoverRow
    from benchmarks.results import read_rows
    from benchmarks.stored import read_stored
    from benchmarks.transforms_page_contents import render

    file = folder / "results.jsonl"
    for needed, maker in ((file, "run --suite transforms"), (crossover, "sparse_crossover")):
        if not needed.is_file():
            raise UserError(f"no {needed}; make it with python -m benchmarks.{maker}")
    rows = read_rows(file)
    if not rows:
        raise UserError(f"{file} is empty: its run was stopped before the first row; run it again")
    text = render(rows, read_stored(crossover, CrossoverRow, "benchmarks.sparse_crossover"), folder)
    try:
        page.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {page}: {error.strerror}; give another file with --page") from error
    print(f"wrote {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
