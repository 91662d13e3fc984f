"""Times training steps on large embedding tables: dense against sparse updates, and a short table against a long one.

Nothing heavy is imported here, so that --help answers at once.
"""

import argparse
import sys
from pathlib import Path

from recjax.command_line import OneLineParser, run_command

PARTS = ("stand-in", "scaling")
EXAMPLES = """examples:
  python -m benchmarks.large_tables                                  (about 10 minutes on 2 cores, 8 GB)
  GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python -m benchmarks.large_tables        (tables in huge pages, on Linux)
  python -m benchmarks.large_tables --part=scaling --rows=10000000   (one table of 100k and of 10M rows)
  python -m benchmarks.large_tables --part=stand-in --rounds=5       (26 tables of 100k rows, every optimizer)

results go to --out: results.jsonl (one contestant of one comparison a line, every sample), report.md
exit codes: 0 done, 2 unusable input or device (one line says why), 130 interrupted (finished rows are kept)"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line; exits with 2 and one line on unusable arguments."""
    description = "Time training steps on large embedding tables, whose gradients are rows and never dense."
    parser = OneLineParser(prog="python -m benchmarks.large_tables", description=description, epilog=EXAMPLES)
    parser.add_argument(
        "--device", default="cpu", metavar="cpu|gpu|tpu", help="where to run (default: cpu); there is no fallback"
    )
    parser.add_argument(
        "--part", choices=PARTS, action="append", dest="parts", help="only this part; may be repeated (default: both)"
    )
    parser.add_argument(
        "--rows", type=int, default=50_000_000, metavar="N", help="of the long table (default: 50000000)"
    )
    parser.add_argument(
        "--small-rows", type=int, default=100_000, metavar="N", help="of the short table and the stand-in's 26 (100000)"
    )
    parser.add_argument("--dim", type=int, default=16, metavar="D", help="of the long table's rows (default: 16)")
    parser.add_argument("--batch-size", type=int, default=2048, metavar="B", help="samples a step (default: 2048)")
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="of turns in a comparison (default: 10)")
    parser.add_argument("--steps", type=int, default=3, metavar="N", help="timed a turn (default: 3)")
    parser.add_argument(
        "--memory-gb",
        type=float,
        default=6.0,
        metavar="GB",
        help="that the long table and its slots may take; D is halved until they fit (default: 6)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="results folder (default: runs/large-tables)")
    options = parser.parse_args(arguments)
    for name in ("rows", "small_rows", "dim", "batch_size", "rounds", "steps"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')}={getattr(options, name)} is too small; allowed: 1 or more")
    if options.memory_gb <= 0:
        parser.error(f"--memory-gb={options.memory_gb:g} is too small; allowed: above 0")
    if options.rows % options.small_rows:
        parser.error(
            f"--rows={options.rows} is no multiple of --small-rows={options.small_rows}; allowed: {options.small_rows} "
            "times a whole number"
        )
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse_arguments(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from recjax.hardware.device import select_device

    device = select_device(options.device)[0]

    from benchmarks.table_steps import Sizes, run_large_tables

    sizes = Sizes(
        batch_size=options.batch_size,
        stand_in_rows=options.small_rows,
        small_rows=options.small_rows,
        large_rows=options.rows,
        dim=options.dim,
        memory_bytes=options.memory_gb * 1e9,
        rounds=options.rounds,
        steps=options.steps,
    )
    return run_large_tables(sizes, options.parts or PARTS, device, options.out or Path("runs") / "large-tables")


if __name__ == "__main__":
    sys.exit(main())
