"""Sets what `recjax plan` would say of a device beside what the device does: predicted and measured, with the error.

Nothing heavy is imported here, so that --help answers at once.
"""

import argparse
import sys
from pathlib import Path

from recjax.command_line import OneLineParser, run_command

# A linear, a click, a next-item and a top-n model on the set that recjax has with it, and 26 tables of 2 million rows.
CASES = (
    ("configs/logistic_regression_movielens_small.py", ()),
    ("configs/dlrm_dcnv2_movielens_small.py", ()),
    ("configs/sasrec_movielens_small.py", ()),
    ("configs/ml_100k/mult_vae.py", ("dataset.source=movielens-latest-small",)),
    (
        "configs/dlrm_v2_full.py",
        (
            "dataset.source=synthetic-dlrm-v2",
            "model.embedding_dim=64",
            "training.batch_size=2048",
            "serving.buckets=64,2048",
        ),
    ),
)
EXAMPLES = """examples:
  python -m benchmarks.plan_check                                        five configs (about 3 minutes on 2 cores)
  python -m benchmarks.plan_check --config configs/sasrec_movielens_small.py --set training.batch_size=256
  python -m benchmarks.plan_check --out=benchmarks/results/plan-check-amd-epyc --page=docs/planning.md
  python -m benchmarks.plan_check --device=gpu --out=runs/plan-check-gpu

results go to --out: plan_check.jsonl (one program a line, every sample); --page replaces the table between two comments
exit codes: 0 done, 2 unusable input or device (one line says why), 130 interrupted (nothing is written)"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line; exits with 2 and one line on unusable arguments."""
    description = "Predict the time and memory of programs on this device as `recjax plan` does, and measure them."
    parser = OneLineParser(prog="python -m benchmarks.plan_check", description=description, epilog=EXAMPLES)
    parser.add_argument(
        "--device", default="cpu", metavar="cpu|gpu|tpu", help="where to run (default: cpu); there is no fallback"
    )
    parser.add_argument("--config", metavar="FILE", help="one experiment (default: five of configs/)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="a.b=c",
        dest="overrides",
        help="override a value of --config; repeatable",
    )
    parser.add_argument("--rounds", type=int, default=40, metavar="N", help="of all programs in turn (default: 40)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/plan-check"), metavar="DIR", help="default: runs/plan-check"
    )
    parser.add_argument("--page", type=Path, metavar="FILE", help="a page whose table is replaced (default: none)")
    options = parser.parse_args(arguments)
    if options.rounds < 20:
        parser.error(f"--rounds={options.rounds}; allowed: 20 or more")
    if options.overrides and not options.config:
        parser.error("--set is for the experiment of --config, and there is none")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse_arguments(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from recjax.config_files import load_config
    from recjax.hardware.device import select_device

    device = select_device(options.device)[0]

    from benchmarks.plan_check_page import check_page, write_page
    from benchmarks.plan_check_timing import run_checks

    if options.page:
        check_page(options.page)
    cases = ((options.config, tuple(options.overrides)),) if options.config else CASES
    experiments = {path: load_config(path, overrides) for path, overrides in cases}
    rows = run_checks(experiments, dict(cases), device, options.rounds, options.out)
    if options.page:
        write_page(options.page, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
