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
  python -m benchmarks.results_page       (in the repository's folder)

exit codes: 0 done, 2 unusable input (one line says why)"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line; exits with 2 and one line on unusable arguments."""
    description = f"Write {PAGE} from the rows in {STORED}."
    parser = OneLineParser(prog="python -m benchmarks.results_page", description=description, epilog=EXAMPLES)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    parse_arguments(arguments)
    return run_command(_run)


def _run() -> int:
    from benchmarks.results_page_contents import render

    text = render(STORED)
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
