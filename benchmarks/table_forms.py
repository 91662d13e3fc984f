"""Times lookups of bags in every form of an embedding table, in turn with the float32 table.

Nothing heavy is imported here, so that --help answers at once.
"""

import argparse
import sys
from pathlib import Path

from recjax.command_line import OneLineParser, run_command

EXAMPLES = """examples:
  python -m benchmarks.table_forms                                        (about 3 minutes on 2 cores)
  python -m benchmarks.table_forms --rows=100000 --bags=1 --rounds=20
  python -m benchmarks.table_forms --device=gpu --out=runs/table-forms-gpu

results go to --out: table_forms.jsonl (one form at one size a line), table_forms.md (the table)
exit codes: 0 done, 2 unusable input or device (one line says why), 130 interrupted (finished sizes are kept)"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line; exits with 2 and one line on unusable arguments."""
    description = "Time lookups of bags, and scores of all rows, in every form of a table against float32."
    parser = OneLineParser(prog="python -m benchmarks.table_forms", description=description, epilog=EXAMPLES)
    parser.add_argument(
        "--device", default="cpu", metavar="cpu|gpu|tpu", help="where to run (default: cpu); there is no fallback"
    )
    parser.add_argument("--rows", type=int, default=1_000_000, metavar="V", help="of the table (default: 1000000)")
    parser.add_argument("--dim", type=int, default=64, metavar="D", help="of the rows, even (default: 64)")
    parser.add_argument("--batch", type=int, default=4096, metavar="B", help="bags a lookup (default: 4096)")
    parser.add_argument("--bags", type=_sizes, default=(1, 26), metavar="L,L", help="ids a bag (default: 1,26)")
    parser.add_argument(
        "--queries", type=_sizes, default=(1, 64), metavar="Q,Q", help="vectors whose scores are taken (default: 1,64)"
    )
    parser.add_argument("--rounds", type=int, default=40, metavar="N", help="of all forms in turn (default: 40)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/table-forms"), metavar="DIR", help="default: runs/table-forms"
    )
    options = parser.parse_args(arguments)
    for name, least in (("rows", 1000), ("dim", 2), ("batch", 1), ("rounds", 3)):
        if getattr(options, name) < least:
            parser.error(f"--{name}={getattr(options, name)}; allowed: {least} or more")
    if options.dim % 2:
        parser.error(f"--dim={options.dim}; allowed: even numbers, which int4 needs")
    return options


def _sizes(text: str) -> tuple[int, ...]:
    """Returns the numbers of "1,26"."""
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = (0,)
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: whole numbers from 1 on, as in 1,26")
    return sizes


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse_arguments(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from recjax.hardware.device import select_device

    device = select_device(options.device)[0]

    from benchmarks.table_forms_timing import Size, run_sizes

    common = {"rows": options.rows, "dim": options.dim}
    lookups = [
        Size(**common, work="lookup", batch=options.batch, bag=bag, ids=ids)
        for bag in options.bags
        for ids in ("uniform", "zipf")
    ]
    scores = [Size(**common, work="scores", batch=queries) for queries in options.queries]
    return run_sizes([*lookups, *scores], device, options.rounds, options.out)


if __name__ == "__main__":
    sys.exit(main())
