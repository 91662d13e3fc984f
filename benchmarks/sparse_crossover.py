"""Times one dense layer's product side by side: float32, int8, and sparse at several shares of zeros.

Nothing heavy is imported here, so that --help answers at once.
"""

import argparse
import sys
from pathlib import Path

from recjax.command_line import OneLineParser, run_command

EXAMPLES = """examples:
  python -m benchmarks.sparse_crossover                                        (about a minute on 2 cores)
  python -m benchmarks.sparse_crossover --widths=512 --batches=1,256 --densities=0.3,0.1
  python -m benchmarks.sparse_crossover --out=benchmarks/results/crossover/my-processor

results go to --out: crossover.jsonl (one method at one size a line), crossover.md (the tables)
exit codes: 0 done, 2 unusable input (one line says why), 130 interrupted (finished sizes are kept)"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line; exits with 2 and one line on unusable arguments."""
    description = "Time the product of activations with a square kernel on the CPU, by every method in turn."
    parser = OneLineParser(prog="python -m benchmarks.sparse_crossover", description=description, epilog=EXAMPLES)
    parser.add_argument(
        "--widths",
        type=_sizes,
        default=(256, 512, 1024),
        metavar="W,W",
        help="inputs and outputs of the layer (default: 256,512,1024)",
    )
    parser.add_argument(
        "--batches",
        type=_sizes,
        default=(1, 16, 64, 256, 1024),
        metavar="B,B",
        help="rows of activations (default: 1,16,64,256,1024)",
    )
    parser.add_argument(
        "--densities",
        type=_shares,
        default=(0.5, 0.3, 0.2, 0.1, 0.05, 0.02),
        metavar="S,S",
        help="shares of values that are not zero (default: 0.5,0.3,0.2,0.1,0.05,0.02)",
    )
    parser.add_argument(
        "--window", type=float, default=2.0, metavar="S", help="seconds for the methods of one size (default: 2)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/crossover"), metavar="DIR", help="results folder (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    if options.window <= 0:
        parser.error(f"--window={options.window:g}; allowed: above 0")
    return options


def _sizes(text: str) -> tuple[int, ...]:
    """Returns the numbers of "1,64"."""
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = (0,)
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: whole numbers from 1 on, as in 1,64")
    return sizes


def _shares(text: str) -> tuple[float, ...]:
    """Returns the numbers of "0.5,0.1"."""
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = (0.0,)
    if not all(0 < share < 1 for share in shares):
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: numbers above 0 and below 1, as in 0.5,0.1")
    return shares


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse_arguments(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from recjax.hardware.device import select_device

    device = select_device("cpu")[0]

    from benchmarks.crossover_timing import Size, run_sizes

    sizes = [Size(width=width, batch=batch) for width in options.widths for batch in options.batches]
    return run_sizes(sizes, options.densities, device, options.window, options.out)


if __name__ == "__main__":
    sys.exit(main())
