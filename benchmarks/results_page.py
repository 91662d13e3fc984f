"""Writes docs/results/README.md: what was measured on which machine, from the stored rows.

Nothing heavy is imported here, so that --help answers at once.
"""

import argparse
import sys
from pathlib import Path

from recjax.command_line import OneLineParser, run_command

STORED = Path("benchmarks/results")
PAGE = Path("docs/results/README.md")
EXAMPLES = """examples:
  python -m benchmarks.results_page
  python -m benchmarks.results_page --page=runs/results.md

exit codes: 0 done, 2 unusable input (one line says why)"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line; exits with 2 and one line on unusable arguments."""
    description = "Write the page of published results from the rows in benchmarks/results."
    parser = OneLineParser(prog="python -m benchmarks.results_page", description=description, epilog=EXAMPLES)
    parser.add_argument("--stored", type=Path, default=STORED, metavar="DIR", help=f"rows (default: {STORED})")
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE", help=f"(default: {PAGE})")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse_arguments(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from benchmarks.results_page_contents import render

    options.page.parent.mkdir(parents=True, exist_ok=True)
    options.page.write_text(render(options.stored, options.page), encoding="utf-8")
    print(f"wrote {options.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
