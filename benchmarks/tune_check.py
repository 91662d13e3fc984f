"""Does `recjax tune` beat what was made by hand? Its deployment against the best rows of the `transforms` suite.

Nothing heavy is imported here, so that --help answers at once.
"""

import argparse
import sys
from pathlib import Path

from recjax.command_line import OneLineParser, run_command

HAND_MADE = Path("benchmarks/results/transforms-amd-epyc-avx2/results.jsonl")
EXAMPLES = """examples:
  python -m benchmarks.tune_check runs/tune-dlrm_dcnv2/deployment.toml --step=prepare
  python -m benchmarks.tune_check runs/tune-dlrm_dcnv2/deployment.toml --step=measure
  python -m benchmarks.tune_check runs/tune-dlrm_dcnv2/deployment.toml --step=show

`prepare` times every variant of the suite that keeps the deployment's quality floor by its stored row, on this machine
and with drawn weights, which have the shapes and types of trained ones; the fastest are trained as the suite trains
them. `measure`, in a process that has trained nothing, lets them and the deployment take turns: closed loops, and the
highest rate within the deployment's latency limit, searched anew in every round. `show` prints the stored rows.
rows go to --out: screen.jsonl and contest.jsonl
exit codes: 0 done, 2 unusable input or device (one line says why), 130 interrupted"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line; exits with 2 and one line on unusable arguments."""
    description = "Measure a tuned deployment beside the best hand-made variants of the transforms suite."
    parser = OneLineParser(prog="python -m benchmarks.tune_check", description=description, epilog=EXAMPLES)
    parser.add_argument("deployment", type=Path, metavar="DEPLOYMENT", help="what `recjax tune` wrote")
    parser.add_argument("--step", required=True, choices=("prepare", "measure", "show"), help="what to do")
    parser.add_argument("--rows", type=Path, default=HAND_MADE, metavar="FILE", help=f"of the suite ({HAND_MADE})")
    parser.add_argument("--best", type=int, default=3, metavar="N", help="variants that are trained (default: 3)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of the contest (default: 5)")
    parser.add_argument(
        "--models", type=Path, default=Path("runs/tune-check"), metavar="DIR", help="for trained models"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/tune"), metavar="DIR", help="for rows")
    parser.add_argument("--device", default="cpu", metavar="cpu|gpu|tpu", help="there is no fallback")
    options = parser.parse_args(arguments)
    for name in ("best", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}={getattr(options, name)}; allowed: 1 or more")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse_arguments(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from benchmarks.tune_check_contest import measure
    from benchmarks.tune_check_page import contest_table
    from benchmarks.tune_check_screen import prepare
    from recjax.hardware.device import select_device
    from recjax.serving.deployment import read_deployment

    if options.step == "show":
        print(contest_table(options.out))
        return 0
    select_device(options.device)
    deployment = read_deployment(options.deployment)
    if options.step == "prepare":
        prepare(deployment, options.rows, options.best, options.models, options.out)
    else:
        measure(deployment, options.rounds, options.models, options.out)
        print(contest_table(options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
