"""Prints the table of earlier runs from their rows, and makes their report again.

Nothing heavy is imported here, so that --help answers at once.
"""

import argparse
import sys
from pathlib import Path

from recjax.command_line import OneLineParser, make_output_folder, run_command
from recjax.errors import UserError

EXAMPLES = """examples:
  python -m benchmarks.show benchmarks/results/quick-intel-xeon-amx
  python -m benchmarks.show runs/quick-cpu/previous-1 runs/quick-cpu
  python -m benchmarks.show benchmarks/results/quick-amd-epyc --out=runs/report
  python -m benchmarks.show runs/quick-cpu runs/quick-gpu --out=runs/devices      two devices side by side

exit codes: 0 done, 2 unusable input (one line says why)"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line; exits with 2 and one line on unusable arguments."""
    description = "Print the table of earlier runs, from the rows that they wrote."
    parser = OneLineParser(prog="python -m benchmarks.show", description=description, epilog=EXAMPLES)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a results folder, or its file of rows")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="also write report.html, report.md and results.csv, of all RUNs together",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse_arguments(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from benchmarks.bench_extra import require_bench_extra
    from benchmarks.estimates import has_estimates, print_estimates, read_estimates, render_estimates
    from benchmarks.report import print_table, wide_console, write_joint_report
    from benchmarks.report_runs import label_runs
    from benchmarks.results import read_rows, read_samples

    measured = []
    for run in options.runs:
        path = run / "results.jsonl" if run.is_dir() else run
        if not path.is_file():
            others = ", ".join(sorted(str(other) for other in run.glob("*.jsonl")))
            remedy = f"did you mean {others}?" if others else "give a folder with a results.jsonl, or such a file"
            raise UserError(f"there are no rows at {path}; {remedy}")
        if len(options.runs) > 1:
            print(f"\n{path}")
        if has_estimates(path):
            estimates = read_estimates(path)
            print_estimates(estimates, wide_console())
            if options.out and len(options.runs) > 1:
                raise UserError(f"{path} holds estimates: --out writes their page alone, not beside other runs")
            if options.out:
                make_output_folder(options.out)
                (options.out / "report.md").write_text(render_estimates(estimates), encoding="utf-8")
                print(f"see {options.out / 'report.md'}")
            continue
        rows = read_rows(path)
        if not rows:
            raise UserError(f"{path} is empty: its run was stopped before the first row")
        print_table(rows, wide_console())
        # Latencies beside a file of another name are of other rows, as of the newest run.
        samples = read_samples(path.with_name("samples.npz")) if options.out and path.name == "results.jsonl" else {}
        measured.append((str(run), rows, samples))
    if options.out and measured:
        require_bench_extra()
        make_output_folder(options.out)
        print(f"open {write_joint_report(label_runs(measured), options.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
