"""Tunes an experiment on its validation part with a fixed budget of trials; the test part is never touched.

Nothing heavy is imported here, so that --help answers at once.
"""

import argparse
import sys
from pathlib import Path

from recjax.command_line import OneLineParser, run_command

EXAMPLES = """examples:
  python -m benchmarks.hyperparameters configs/ml_100k/bpr.py                          (12 trials)
  python -m benchmarks.hyperparameters configs/ml_100k/*.py --trials=4 --out=runs/hyperparameters

A config file says what may vary in SEARCH: {"model.l2": (0.0, 1e-5), "training.learning_rate": (1e-3, 3e-3)}.
Trial 0 is the config as it stands; the others are drawn from SEARCH's grid without repetition.
results go to --out: NAME.jsonl, one trial a line; a second run goes on where the first one stopped
exit codes: 0 done, 2 unusable input or device (one line says why), 130 interrupted (finished trials are kept)"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line; exits with 2 and one line on unusable arguments."""
    description = "Train an experiment again and again with other settings; report which does best on validation."
    parser = OneLineParser(prog="python -m benchmarks.hyperparameters", description=description, epilog=EXAMPLES)
    parser.add_argument("configs", nargs="+", type=Path, metavar="CONFIG", help="Python files with SEARCH")
    parser.add_argument("--trials", type=int, default=12, metavar="N", help="the budget of each (default: 12)")
    parser.add_argument("--seed", type=int, default=100, metavar="N", help="of split, training and draw (default: 100)")
    parser.add_argument("--device", default="cpu", metavar="cpu|gpu|tpu", help="there is no fallback")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/hyperparameters"), metavar="DIR", help="(default: runs/hyperparameters)"
    )
    options = parser.parse_args(arguments)
    if options.trials < 1:
        parser.error(f"--trials={options.trials} tries nothing; allowed: 1 or more")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse_arguments(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from benchmarks.hyperparameter_search import tune
    from recjax.hardware.device import select_device

    select_device(options.device)
    for path in options.configs:
        tune(path, options.trials, options.seed, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
