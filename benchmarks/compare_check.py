"""Tries `benchmarks.compare` on what is known: two runs of one revision, and one that is a tenth slower.

Nothing heavy is imported here, so that --help answers at once.
"""

import argparse
import math
import sys
from pathlib import Path

from recjax.command_line import OneLineParser, run_command

EXAMPLES = """examples:
  python -m benchmarks.compare_check                                        about 10 minutes on 2 cores
  python -m benchmarks.compare_check --processes=4 --out=runs/compare-check
  python -m benchmarks.compare benchmarks/results/compare-check/first benchmarks/results/compare-check/slowed --paired

Two models are trained and served in two forms, at five sizes of queries: 20 rows. They are measured three times, in
turns: `first`, `second`, and `slowed`, in which a wrapper around each system spins after every answer, for a drawn
share of the time that the answer took, a tenth on average.

results go to --out: first/, second/, slowed/ with results.jsonl and samples.npz, and both comparisons as Markdown
exit codes: 0 at most one of 20 rows differs between first and second, and all are slower in slowed; 1 not so;
2 unusable input, 130 interrupted"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line; exits with 2 and one line on unusable arguments."""
    description = "Measure one revision twice, and once slowed by a tenth; count what benchmarks.compare finds."
    parser = OneLineParser(prog="python -m benchmarks.compare_check", description=description, epilog=EXAMPLES)
    parser.add_argument("--processes", type=int, default=10, metavar="N", help="of each run (default: 10)")
    parser.add_argument("--slowdown", type=float, default=0.1, metavar="SHARE", help="of `slowed` (default: 0.1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the drawn shares and of the turns' order")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("benchmarks/results/compare-check"),
        metavar="DIR",
        help="default: benchmarks/results/compare-check",
    )
    options = parser.parse_args(arguments)
    if options.processes < 3:
        parser.error(f"--processes={options.processes}; allowed: 3 or more, which an interval needs")
    if not 0 < options.slowdown < math.inf:
        parser.error(f"--slowdown={options.slowdown:g}; allowed: > 0 and finite, as 0.1")
    if options.seed < 0:
        parser.error(f"--seed={options.seed}; allowed: 0 or more")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse_arguments(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from benchmarks.compare_check_runs import measure_runs
    from benchmarks.compare_check_verdicts import judge_runs

    measure_runs(options.out, options.processes, options.slowdown, options.seed)
    return judge_runs(options.out)


if __name__ == "__main__":
    sys.exit(main())
