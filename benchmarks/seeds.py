"""Trains a suite's models under several seeds and says how much of a difference in quality is the seed's.

Nothing is timed. Nothing heavy is imported here, so that --help answers at once.
"""

import argparse
import sys
from pathlib import Path

from recjax.command_line import OneLineParser, run_command

EXAMPLES = """examples:
  python -m benchmarks.seeds --suite=quick --seeds=8             (about 4 minutes a seed on 2 cores)
  python -m benchmarks.seeds --suite=smoke --seeds=3 --out=runs/three

results go to --out: seeds.jsonl (one model under one seed a line), seeds.md (mean, deviation and interval of each)
exit codes: 0 done, 2 unusable input or device (one line says why), 130 interrupted (finished seeds are kept)"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line; exits with 2 and one line on unusable arguments."""
    description = "Train a suite's models under several seeds; report each variant's quality, and how sure it is."
    parser = OneLineParser(prog="python -m benchmarks.seeds", description=description, epilog=EXAMPLES)
    parser.add_argument(
        "--device", default="cpu", metavar="cpu|gpu|tpu", help="where to run (default: cpu); there is no fallback"
    )
    parser.add_argument("--suite", default="quick", metavar="NAME", help="a suite of configs/suites/ (default: quick)")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="how many, from 0; at least 2 (default: 5)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=c", dest="overrides", help="override a config value"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="results folder (default: runs/SUITE-DEVICE-seeds)")
    options = parser.parse_args(arguments)
    if options.seeds < 2:
        parser.error(f"--seeds={options.seeds} gives no interval; allowed: 2 or more")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse_arguments(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from benchmarks.suite import load_suite
    from recjax.hardware.device import select_device

    suite = load_suite(options.suite, options.overrides)
    device = select_device(options.device)[0]

    from benchmarks.seed_quality import run_seeds

    folder = options.out or Path("runs") / f"{suite.name}-{options.device}-seeds"
    return run_seeds(suite, range(options.seeds), device, folder)


if __name__ == "__main__":
    sys.exit(main())
