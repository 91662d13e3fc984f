"""Trains, transforms, serves and measures recommenders on one device: one row a model, variant and scenario.

Nothing heavy is imported here, so that --help answers at once.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

from recjax.command_line import OneLineParser, add_parallel_options, parallel_overrides, run_command
from recjax.errors import UserError, unknown_name

EXAMPLES = """examples:
  python -m benchmarks.run --device=cpu                          the quick suite (12 to 41 minutes on 2 cores)
  python -m benchmarks.run --device=cpu --suite=smoke            both models, briefly (1 to 3 minutes)
  python -m benchmarks.run --device=gpu --suite=quick --out=runs/gpu
  python -m benchmarks.run --suite=peers                         the same models in other libraries (docs/peers.md)
  python -m benchmarks.run --device=cpu --config=configs/sasrec_movielens_small.py --set training.epochs=5
  python -m benchmarks.run --device=tpu --parallel=pjit          on all chips; the same on every host of a slice
  python -m benchmarks.run --device=tpu --estimate               nothing runs: estimates for v6e:1x1 (for gpu, h200:1)
  python -m benchmarks.run --device=v6e:2x2,h200:8 --estimate --config=configs/sasrec_movielens_small.py
  python -m benchmarks.run --device=cpu --suite=zoo --resume     where an interrupted run stopped
  python -m benchmarks.run --device=cpu --suite=zoo --shard=1/4  every fourth model; three other machines take the rest
  python -m benchmarks.run --config=my.py --processes=3          with intervals over processes, as compare needs
  python -m benchmarks.run --set measurement.arrivals.kind=bursts --set measurement.queries.popularity=zipf
  python -m benchmarks.run --reproduce=runs/quick-cpu:sasrec/int8/offline/128    one row again, by its own command
  python -m benchmarks.run --list

results go to --out: results.jsonl (one row a line), samples.npz (every latency), report.md, report.html,
results.csv, models/
with --estimate nothing runs: programs are compiled for hardware that is not here; results.jsonl and report.md hold
estimated rows alone, marked as such
exit codes: 0 done, 2 unusable input or device (one line says why), 130 interrupted (finished rows are kept)"""

PEERS = "peers"  # a suite with rows of its own
UNREAD_BY_PEERS = {"estimate", "overrides", "parallel", "mesh", "resume", "shard", "loadgen", "processes"}
UNREAD_BY_REPRODUCE = UNREAD_BY_PEERS | {"device"}
UNREAD_BY_ESTIMATE = {"resume", "shard", "loadgen", "processes"}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line; exits with 2 and one line on unusable arguments."""
    description = (
        "Train, transform, serve and measure recommenders on one device: one row a model, variant and scenario."
    )
    parser = OneLineParser(prog="python -m benchmarks.run", description=description, epilog=EXAMPLES)
    parser.add_argument(
        "--device",
        metavar="cpu|gpu|tpu",
        help="where to run (default: cpu), there is no fallback; with --estimate also hardware, as v6e:2x2,h200:8",
    )
    parser.add_argument(
        "--estimate", action="store_true", help="compile for --device, which is not here, and write estimated rows"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--suite", default="quick", metavar="NAME", help="a suite of configs/suites/ (default: quick)")
    what.add_argument("--config", metavar="FILE", help="one experiment: a Python file that defines get_config()")
    what.add_argument("--reproduce", metavar="ROW", help="measure a stored row again: RUN:CASE/VARIANT/SCENARIO/BATCH")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="a.b=c",
        dest="overrides",
        help="override a value of the config, or of the measurement, as measurement.rounds=9; repeatable",
    )
    add_parallel_options(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="results folder (default: runs/SUITE-DEVICE, with --estimate runs/SUITE-estimate)",
    )
    parser.add_argument(
        "--loadgen",
        choices=("recjax", "mlperf"),
        help="who asks: recjax's own generator, or MLCommons' LoadGen (extra mlperf); default: as the suite says",
    )
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="fresh processes that measure every row (default: as the suite says); three give intervals over processes",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out: what it finished is kept")
    parser.add_argument("--shard", metavar="I/N", help="run every N-th case only, beginning with the I-th, from 1")
    parser.add_argument("--list", action="store_true", help="list the suites and what they run, then stop")
    options = parser.parse_args(arguments)
    if options.processes is not None and options.processes < 1:
        parser.error(f"--processes={options.processes}; allowed: 1 or more")
    _refuse_unread_options(parser, options)
    options.device = options.device or "cpu"
    return options


def _refuse_unread_options(parser: OneLineParser, options: argparse.Namespace) -> None:
    """Ends with one line where an option is given that the kind of run does not read."""
    given = {name for name in UNREAD_BY_REPRODUCE if getattr(options, name) not in (None, False, [])}
    for mode, chosen, unread, allowed in (
        ("--suite=peers", options.suite == PEERS, UNREAD_BY_PEERS, "--device and --out (benchmarks.peers has more)"),
        ("--reproduce", options.reproduce, UNREAD_BY_REPRODUCE, "--out; the rest is the row's own"),
        ("--estimate", options.estimate, UNREAD_BY_ESTIMATE, "--device, --suite, --config, --set and --out"),
    ):
        if chosen and (others := sorted(given & unread)):
            names = ", ".join("--set" if name == "overrides" else f"--{name}" for name in others)
            parser.error(f"{mode} with {names}; allowed: {allowed}")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse_arguments(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    if options.list:
        from benchmarks.listing import print_suites

        print_suites()
        return 0

    from benchmarks.suite import Source, suite_names
    from recjax.hardware.device import check_platform

    if options.suite == PEERS:
        from benchmarks.peers.run_peers import run_peers

        return run_peers(options.out or Path("runs") / f"peers-{options.device}", options.device)
    if not options.config and options.suite not in suite_names():
        raise unknown_name("suite", options.suite, [*suite_names(), PEERS])
    if options.reproduce:
        from benchmarks.reproduce import reproduce

        return reproduce(options.reproduce, options.out or Path("runs/reproduce"))
    overrides = parallel_overrides(options) + options.overrides
    of_file = options.config
    source = Source(
        "suite_of_config" if of_file else "load_suite",
        of_file or options.suite,
        tuple(overrides),
        shard=options.shard or "",
        processes=options.processes,
        loadgen=options.loadgen,
    )
    if options.estimate:
        from benchmarks.estimate_run import run_estimate, targets_of

        out = options.out or Path("runs") / f"{Path(source.name).stem}-estimate"
        return run_estimate(source, targets_of(options.device), out)
    check_platform(options.device)
    suite = source.load()
    name = f"{suite.name}-{options.device}"
    if options.shard:
        name += f"-{options.shard.replace('/', '-of-')}"
    folder = options.out or Path("runs") / name
    from recjax.parallel.start import finish, quiet_others, start

    if start().count == 1:
        from benchmarks.runner import run_apart

        return run_apart(suite, source, options.device, folder, resume=options.resume)
    if options.resume:
        raise UserError("--resume is for a run of one process; this one has several: run it anew without --resume")
    if (options.processes or 1) > 1:
        raise UserError(
            f"--processes={options.processes} is for a run of one process; this one has several, and the first of them "
            "measures all: run it without --processes"
        )
    quiet_others()
    from benchmarks.runner import run_suite
    from recjax.hardware.device import select_device

    # All is measured in the first process of the run: there are no fresh ones beside it.
    code = run_suite(dataclasses.replace(source, processes=1).load(), select_device(options.device)[0], folder)
    finish()
    return code


if __name__ == "__main__":
    sys.exit(main())
