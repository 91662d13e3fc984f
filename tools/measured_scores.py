"""Writes into each config's docstring what its model scored, from the rows of `python -m benchmarks.quality`."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.quality_rows import QualityRow, read_rows
from recjax.command_line import OneLineParser, run_command
from recjax.errors import UserError

ROWS = Path("benchmarks/results/quality")
LINE = re.compile(r"^Measured: .*$", re.MULTILINE)
EXAMPLES = """examples:
  python -m tools.measured_scores                                      (all rows in benchmarks/results/quality)
  python -m tools.measured_scores benchmarks/results/quality/ease.jsonl"""


def measured_line(rows: Sequence[QualityRow]) -> str:
    """Returns the line of one experiment: the metric that chose its epoch, on the test part, and what a seed took."""
    metric = rows[0].metric
    values = [row.quality[metric] for row in rows]
    spread = f" ±{np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    seeds = f"{len(values)} seed" + "s" * (len(values) > 1)
    score = f"{metric.upper()} {np.mean(values):.4f}{spread} over {seeds}"
    train_s = np.median([row.train_s for row in rows])
    return f"Measured: {score}, {train_s:.0f} s each on {rows[0].environment['device']} (docs/quality.md)."


def write_measured(file: Path) -> None:
    """Writes the line of the rows in `file` into the config that they are of; rows with overrides are of none.

    Raises:
      UserError: the file has no rows, the config is not there, or it has no line to replace.
    """
    rows = read_rows([file])
    if not rows:
        raise UserError(f"{file} has no rows")
    if rows[0].overrides:
        return
    config = Path(rows[0].config)
    if not config.is_file():
        raise UserError(f"{file} is of {config}, which is not here; run this in the folder that the rows were made in")
    text, count = LINE.subn(measured_line(rows), config.read_text(), count=1)
    if not count:
        raise UserError(f"{config} has no line that begins with 'Measured: '; put one into its docstring")
    config.write_text(text)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    parser = OneLineParser(
        prog="python -m tools.measured_scores",
        description=__doc__,
        epilog=EXAMPLES,
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="of rows (default: all committed ones)")
    options = parser.parse_args(arguments)

    def run() -> int:
        for file in options.files or sorted(ROWS.glob("*.jsonl")):
            write_measured(file)
        return 0

    return run_command(run)


if __name__ == "__main__":
    sys.exit(main())
