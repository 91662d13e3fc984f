"""Times the ways to the top k of a catalogue side by side: one sort, two stages, and the approximate one.

Nothing heavy is imported here, so that --help answers at once.
"""

import argparse
import sys
from pathlib import Path

from recjax.command_line import OneLineParser, run_command

EXAMPLES = """examples:
  python -m benchmarks.top_k                                        (about 2 minutes on 2 cores)
  python -m benchmarks.top_k --items=100000 --batches=1,64 --window=1
  python -m benchmarks.top_k --device=gpu --out=benchmarks/results/top-k

results go to --out: top_k.jsonl (one method at one size a line), top_k.md (the table)
exit codes: 0 done, 2 unusable input or device (one line says why), 130 interrupted (finished sizes are kept)"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line; exits with 2 and one line on unusable arguments."""
    description = "Time the inner products of queries with a catalogue and the k greatest, by every method in turn."
    parser = OneLineParser(prog="python -m benchmarks.top_k", description=description, epilog=EXAMPLES)
    parser.add_argument(
        "--device", default="cpu", metavar="cpu|gpu|tpu", help="where to run (default: cpu); there is no fallback"
    )
    parser.add_argument(
        "--items",
        type=_sizes,
        default=(1_682, 10_000, 100_000, 1_000_000),
        metavar="V,V",
        help="catalogue sizes (default: 1682,10000,100000,1000000)",
    )
    parser.add_argument(
        "--batches", type=_sizes, default=(1, 16, 64, 256), metavar="B,B", help="queries a call (default: 1,16,64,256)"
    )
    parser.add_argument("--k", type=_sizes, default=(10, 100), metavar="K,K", help="items returned (default: 10,100)")
    parser.add_argument("--dim", type=int, default=64, metavar="D", help="of the vectors (default: 64)")
    parser.add_argument(
        "--recall-target", type=float, default=0.95, metavar="R", help="of the approximate method (default: 0.95)"
    )
    parser.add_argument(
        "--window", type=float, default=0.5, metavar="S", help="seconds for the methods of one size (default: 0.5)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/top-k"), metavar="DIR", help="results folder (default: runs/top-k)"
    )
    options = parser.parse_args(arguments)
    if options.dim < 1:
        parser.error(f"--dim={options.dim}; allowed: 1 or more")
    if not 0 < options.recall_target <= 1:
        parser.error(f"--recall-target={options.recall_target:g}; allowed: above 0, at most 1")
    if options.window <= 0:
        parser.error(f"--window={options.window:g}; allowed: above 0")
    if max(options.k) > min(options.items):
        parser.error(f"--k has {max(options.k)} and --items {min(options.items)}; allowed: no k above any catalogue")
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


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse_arguments(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from recjax.hardware.device import select_device

    device = select_device(options.device)[0]

    from benchmarks.top_k_timing import Size, run_sizes

    sizes = [
        Size(items=items, batch=batch, k=k, dim=options.dim)
        for items in options.items
        for batch in options.batches
        for k in options.k
    ]
    return run_sizes(sizes, device, options.recall_target, options.window, options.out)


if __name__ == "__main__":
    sys.exit(main())
