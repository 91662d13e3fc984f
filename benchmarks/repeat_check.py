"""Repeats a row, and counts how often its 95% interval covers what all repeats together say.

Nothing heavy is imported here, so that --help answers at once.
"""

import argparse
import sys
from pathlib import Path

from recjax.command_line import OneLineParser, run_command

EXAMPLES = """examples:
  python -m benchmarks.repeat_check                              (ten repeats; about 10 minutes on 2 cores)
  python -m benchmarks.repeat_check --suite=quick --case=dlrm_dcnv2 --scenario=offline --repeats=3

Each repeat is a run of its own: it trains, and measures fp32 in fresh processes. The machine must be quiet throughout.

results go to --out: 01/, 02/, ... with results.jsonl and samples.npz of each repeat, and repeats.md, the table
exit codes: 0 every row's interval of the median covers the pooled median in 9 of 10 repeats; 1 not so;
2 unusable input, 130 interrupted"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line; exits with 2 and one line on unusable arguments."""
    description = "Measure a row again and again; count how often its interval covers the pooled median."
    parser = OneLineParser(prog="python -m benchmarks.repeat_check", description=description, epilog=EXAMPLES)
    parser.add_argument("--suite", default="smoke", metavar="NAME", help="a suite of configs/suites/ (default: smoke)")
    parser.add_argument("--case", default="sasrec", metavar="NAME", help="an experiment of it (default: sasrec)")
    parser.add_argument(
        "--scenario", default="single_stream", metavar="NAME", help="all of its rows (default: single_stream)"
    )
    parser.add_argument("--device", default="cpu", metavar="cpu|gpu|tpu", help="default: cpu; there is no fallback")
    parser.add_argument("--repeats", type=int, default=10, metavar="N", help="default: 10")
    parser.add_argument("--processes", type=int, default=5, metavar="N", help="fresh ones of a repeat (default: 5)")
    parser.add_argument("--out", type=Path, default=Path("runs/repeat-check"), metavar="DIR")
    options = parser.parse_args(arguments)
    if options.repeats < 2:
        parser.error(f"--repeats={options.repeats}; allowed: 2 or more")
    if options.processes < 3:
        parser.error(f"--processes={options.processes}; allowed: 3 or more, which an interval needs")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse_arguments(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from benchmarks.repeats import judge_repeats, measure_repeats, source_of_row
    from recjax.hardware.device import check_platform

    check_platform(options.device)
    source = source_of_row(options.suite, options.case, options.scenario)
    measure_repeats(source, options.device, options.repeats, options.processes, options.out)
    return judge_repeats(options.out)


if __name__ == "__main__":
    sys.exit(main())
