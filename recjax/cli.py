"""The `recjax` command: train, evaluate, explain, plan or tune an experiment. Heavy imports are made where used."""

import argparse
import importlib.metadata
from pathlib import Path

from recjax.command_line import OneLineParser, add_parallel_options, parallel_overrides, run_command

EXAMPLES = """examples:
  recjax train configs/sasrec_movielens_small.py --out runs/sasrec
  recjax train configs/dlrm_dcnv2_movielens_small.py --set training.epochs=3 --set model.top_mlp=256,128
  recjax train configs/dlrm_dcnv2_movielens_small.py --parallel=pjit --set training.table_optimizer=rowwise_adagrad
  recjax evaluate configs/sasrec_movielens_small.py --out runs/sasrec
  recjax explain configs/dlrm_dcnv2_movielens_small.py --set model.top_mlp=256,128
  recjax plan configs/dlrm_dcnv2_movielens_small.py --devices v5e:2x2,v6e:2x2,h200:8
  recjax plan configs/dlrm_v2_full.py --devices v6e:4x4 --program sparsecore
  recjax tune configs/dlrm_dcnv2_movielens_small.py --p99-ms=20 --quality-floor=0.99 --budget=15m
  recjax tune configs/sasrec_movielens_small.py --memory=512MB --price=0.02 --usd-per-hour=0.4 --out=runs/tune-sasrec

`train` writes checkpoints/, final/ and tensorboard/ into --out, and goes on where a broken run stopped.
`explain` trains nothing: it prints, per layer, the bytes and flops before and after the config's transforms.
`plan` runs nothing: it compiles for hardware that is not here, and prints memory, work, time and price at best.
`tune` searches transforms, buckets and devices, and writes frontier.jsonl and deployment.toml into --out; the same
command goes on where a broken study stopped, and a larger --budget searches on.
exit codes: 0 done, 2 unusable input, device or checkpoint (one line says why), 130 interrupted"""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = _parse(arguments)
    return run_command(lambda: _run(options))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="recjax", description="Train and evaluate recommender models in JAX.", epilog=EXAMPLES)
    parser.add_argument("--version", action="version", version=f"recjax {importlib.metadata.version('recjax')}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="train|evaluate|explain|plan|tune", parser_class=OneLineParser
    )
    for name, help_text in (
        ("train", "train an experiment, apply its transforms, report its quality on the test part"),
        ("evaluate", "report the quality of a model that `train` wrote"),
        ("explain", "tell what the experiment's transforms do to each layer, without training"),
        ("plan", "compile the experiment for absent hardware; tell memory, work, time and price at best"),
        ("tune", "find what serves most samples a second within limits, and write a deployment file"),
    ):
        examples = [line for line in EXAMPLES.splitlines() if f"recjax {name} " in line]
        epilog = "\n".join(["examples:", *examples])
        command = commands.add_parser(name, help=help_text, description=help_text, epilog=epilog)
        command.add_argument("config", metavar="CONFIG", help="a Python file that defines get_config()")
        if name == "train":
            add_parallel_options(command)
        if name in ("train", "evaluate"):
            command.add_argument("--out", type=Path, metavar="DIR", help="the experiment's folder (default: runs/NAME)")
        if name == "tune":
            _add_tune_options(command)
        if name == "plan":
            _add_plan_options(command)
        else:
            command.add_argument("--device", default="cpu", metavar="cpu|gpu|tpu", help="default: cpu; no fallback")
        command.add_argument(
            "--set", action="append", default=[], metavar="a.b=c", dest="overrides", help="override a value; repeatable"
        )
    return parser.parse_args(arguments)


def _add_plan_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--devices",
        required=True,
        metavar="LIST",
        help="hardware, as v4:2x2x1,v5e:4x4,v5p:2x2x2,v6e:4x4,v7x:2x2x1,h200:8",
    )
    command.add_argument(
        "--mesh", metavar="data=n,model=m", help="devices along each axis, -1 for the rest (default: the experiment's)"
    )
    command.add_argument(
        "--batch-size", type=int, metavar="N", help="samples of all devices (default: the experiment's)"
    )
    command.add_argument(
        "--program",
        default="both",
        choices=("train", "serve", "both", "sparsecore"),
        help="which programs; sparsecore: a training step with its tables on a TPU's SparseCores",
    )
    command.add_argument(
        "--prices", type=Path, metavar="FILE", help="price file (default: recjax/hardware/prices.toml)"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")


def _add_tune_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--p99-ms", type=float, metavar="MS", help="latency limit (default: serving.slo_ms)")
    command.add_argument(
        "--memory", metavar="SIZE", help="limit of a device's memory, as 512MB or 2GiB (default: none)"
    )
    command.add_argument("--price", type=float, metavar="USD", help="limit for a million samples (default: none)")
    command.add_argument(
        "--usd-per-hour", type=float, metavar="USD", help="of one device (default: recjax/hardware/prices.toml)"
    )
    command.add_argument(
        "--quality-floor",
        type=float,
        default=0.99,
        metavar="SHARE",
        help="of fp32's validation quality that must be kept (default: 0.99)",
    )
    command.add_argument(
        "--queries", default="1", metavar="N|dlrm_v2", help="samples of a query; dlrm_v2: 100 to 700 (default: 1)"
    )
    command.add_argument(
        "--budget", default="15m", metavar="TIME", help="of the whole study, as 90s, 15m or 2h (default: 15m)"
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of search and arrivals (default: 0)")
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the study; goes on if there is one (default: runs/tune-NAME)"
    )


def _run(options: argparse.Namespace) -> int:
    from recjax.commands import evaluate_command, explain_command, plan_command, train_command
    from recjax.config_files import load_config
    from recjax.hardware.device import select_device
    from recjax.parallel.start import finish, quiet_others, start

    overrides = options.overrides
    if options.command == "train":
        overrides = parallel_overrides(options) + overrides
    experiment = load_config(options.config, overrides)
    if options.command == "plan":
        plan_command(experiment, options)
        return 0
    if options.command == "train":
        start()
        quiet_others()
    devices = select_device(options.device)
    if options.command == "tune":
        from recjax.tuning.command import tune_command

        tune_command(experiment, options, devices)
        return 0
    if options.command == "explain":
        explain_command(experiment)
        return 0
    folder = options.out or Path("runs") / experiment.name
    command = {"train": train_command, "evaluate": evaluate_command}[options.command]
    command(experiment, folder)
    finish()
    return 0
