"""Times the same model in recjax, PyTorch, ONNX Runtime, keras-rs, FBGEMM and TorchRec, in turn.

Nothing heavy is imported here, so that --help answers at once.
"""

import argparse
import dataclasses
import math
import sys
from pathlib import Path

from recjax.command_line import OneLineParser, run_command

EXAMPLES = """examples:
  python -m benchmarks.peers                                       (several minutes on 2 cores, 8 GB)
  python -m benchmarks.peers --workload=sasrec --peer=onnxruntime --peer=torch-compile
  python -m benchmarks.peers --workload=dlrm_dcnv2 --batch-size=128 --rows=10000 --rounds=5
  python -m benchmarks.peers --quiet=300                           (on a machine that others use, too)
  python -m benchmarks.peers --python=torch-eager=/opt/torch/bin/python --python=torch-compile=/opt/torch/bin/python

a peer that is not installed has rows without times that say so; docs/peers.md says how to install each
results go to --out: peers.jsonl (one peer at one workload and batch size a line, every sample), peers.md (the table)
exit codes: 0 done, 2 unusable input or device (one line says why), 130 interrupted (finished rows are kept)"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line; exits with 2 and one line on unusable arguments."""
    description = "Time the same model with the same weights, requests and batch in recjax and in other libraries."
    parser = OneLineParser(prog="python -m benchmarks.peers", description=description, epilog=EXAMPLES)
    parser.add_argument("--device", default="cpu", metavar="cpu", help="where to run (default, and so far only: cpu)")
    parser.add_argument(
        "--workload", action="append", default=[], metavar="NAME", help="only this one; may be repeated (default: all)"
    )
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME", help="only recjax and this one; may be repeated"
    )
    parser.add_argument(
        "--batch-size",
        action="append",
        default=[],
        type=int,
        metavar="B",
        help="in place of a workload's own; as often",
    )
    parser.add_argument("--rows", type=int, metavar="V", help="of each embedding table, but SASRec's (default: 100000)")
    parser.add_argument("--threads", type=int, metavar="N", help="of each peer (default: the cores it may use)")
    parser.add_argument("--rounds", type=int, default=12, metavar="N", help="of turns in a contest (default: 12)")
    parser.add_argument("--turn-s", type=float, default=0.12, metavar="S", help="seconds of a turn, about (0.12)")
    parser.add_argument(
        "--quiet",
        type=float,
        default=0.0,
        metavar="S",
        help="wait for a quiet machine, and repeat turns that were disturbed, for S seconds a contest (default: 0)",
    )
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="PEER=PATH",
        help="the interpreter of a peer that has another than recjax; as often as there are such",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/peers-cpu"), metavar="DIR", help="default: runs/peers-cpu"
    )
    options = parser.parse_args(arguments)
    for name, least in (("rows", 2), ("threads", 1), ("rounds", 1)):
        if (value := getattr(options, name)) is not None and value < least:
            parser.error(f"--{name}={value} is too small; allowed: {least} or more")
    if min(options.batch_size, default=1) < 1:
        parser.error(f"--batch-size={min(options.batch_size)} is too small; allowed: 1 or more")
    if not 0 < options.turn_s < math.inf:
        parser.error(f"--turn-s={options.turn_s:g}; allowed: above 0 and finite")
    if not 0 <= options.quiet < math.inf:
        parser.error(f"--quiet={options.quiet:g}; allowed: 0 or more, and finite")
    if wrong := [text for text in options.python if not all(text.partition("="))]:
        parser.error(f"--python={wrong[0]}; allowed: PEER=PATH, as torch-eager=/opt/torch/bin/python")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse_arguments(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from benchmarks.peers.entrants import Settings
    from benchmarks.peers.registry import PEERS
    from benchmarks.peers.run_peers import named, run_peers, usable_cores
    from benchmarks.peers.workloads import WORKLOADS, resized

    settings = Settings(
        threads=options.threads or usable_cores(),
        rounds=options.rounds,
        turn_s=options.turn_s,
        quiet_s=options.quiet,
        pythons=dict(text.split("=", 1) for text in options.python),
    )
    workloads = [resized(workload, options.rows) for workload in named("workload", options.workload, WORKLOADS)]
    if options.batch_size:
        workloads = [dataclasses.replace(one, batch_sizes=tuple(options.batch_size)) for one in workloads]
    return run_peers(
        options.out, options.device, workloads=workloads, peers=named("peer", options.peer, PEERS), settings=settings
    )


if __name__ == "__main__":
    sys.exit(main())
