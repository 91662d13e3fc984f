"""Trains experiments under several seeds; with --page, writes how they compare with the figures of the field.

Beside quality, only a training's wall time is measured. Nothing heavy is imported here: --help answers at once.
"""

import argparse
import sys
from pathlib import Path

from recjax.command_line import OneLineParser, run_command

EXAMPLES = """examples:
  python -m benchmarks.quality configs/ml_100k/*.py                     (3 seeds of each; hours on 2 cores)
  python -m benchmarks.quality configs/ml_100k/ease.py --seeds=5 --out=runs/ease
  python -m benchmarks.quality configs/ml_100k/mult_vae.py --set model.exposure_weight=100 --set name=mult_vae_100
  python -m benchmarks.quality --page=docs/quality.md --out=benchmarks/results/quality   (trains nothing: the page)

results go to --out: NAME.jsonl, one seed a line; a second run goes on where the first one stopped
exit codes: 0 done, 2 unusable input or device (one line says why), 130 interrupted (finished seeds are kept)"""

TUNING = Path("benchmarks/results/hyperparameters")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line; exits with 2 and one line on unusable arguments."""
    description = "Train experiments under several seeds; compare their test quality with published figures."
    parser = OneLineParser(prog="python -m benchmarks.quality", description=description, epilog=EXAMPLES)
    parser.add_argument("configs", nargs="*", type=Path, metavar="CONFIG", help="Python files with get_config()")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="of split and training, from 0 (default: 3)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=c", dest="overrides", help="override a config value"
    )
    parser.add_argument("--device", default="cpu", metavar="cpu|gpu|tpu", help="there is no fallback")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"), metavar="DIR", help="(default: runs/quality)")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the comparison of all rows of --out there")
    parser.add_argument(
        "--tuning", type=Path, default=TUNING, metavar="DIR", help=f"trials that --page tells of (default: {TUNING})"
    )
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"--seeds={options.seeds} trains nothing; allowed: 1 or more")
    if not options.configs and not options.page:
        parser.error("no CONFIG and no --page; there is nothing to do")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse_arguments(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from benchmarks.quality_page import write_page
    from benchmarks.quality_rows import measure_quality
    from recjax.hardware.device import select_device

    if options.configs:
        device = select_device(options.device)[0]
        for path in options.configs:
            measure_quality(path, options.overrides, range(options.seeds), device, options.out)
    if options.page:
        write_page(options.out, options.page, options.tuning)
        print(f"see {options.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
