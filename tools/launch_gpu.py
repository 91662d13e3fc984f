"""Runs a benchmark on several GPU hosts: as a Slurm job, or as a JobSet on Kubernetes.

Every host runs the same `python -m benchmarks.run --device=gpu`, one process for all of its GPUs; the hosts find each
other, and process 0 writes the results. What stands after -- goes to benchmarks.run.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence

from recjax.command_line import OneLineParser, run_command
from recjax.errors import UserError
from tools.launch import (
    Manifest,
    add_common_arguments,
    add_jobset_arguments,
    apply_manifest,
    benchmark_command,
    check_name,
    jobset,
    positive,
    split_arguments,
    submit,
)

EXAMPLES = """examples:
  python -m tools.launch_gpu slurm --hosts=2 --gpus-per-host=8 --name=dlrm --time=02:00:00 --partition=PARTITION \\
    --dry-run -- --suite=quick --out=/shared/runs/dlrm
  python -m tools.launch_gpu jobset --hosts=2 --gpus-per-host=8 --name=dlrm --image=REGISTRY/recjax:1 --claim=results \\
    -- --suite=quick --out=/results/dlrm

exit codes: 0 handed over (or printed), 2 unusable input or a tool that is missing, else the tool's own"""


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the parsed command line; exits with 2 and one line on unusable arguments."""
    own, rest = split_arguments(arguments)
    parser = OneLineParser(
        prog="python -m tools.launch_gpu", description="Run a benchmark on every host of a GPU job.", epilog=EXAMPLES
    )
    ways = parser.add_subparsers(dest="way", required=True, metavar="slurm|jobset")

    way = ways.add_parser("slurm", help="sbatch queues a job")
    _add_sizes(way)
    way.add_argument("--name", required=True, help="of the job, as in dlrm-zoo")
    way.add_argument("--time", required=True, metavar="HH:MM:SS", help="limit of the job")
    way.add_argument("--partition", help="of the cluster")
    way.add_argument("--account", help="to charge")
    way.add_argument("--folder", help="the repository, on a file system that all hosts share (default: this one)")
    way.add_argument("--requeue", action="store_true", help="queue the job again when one of its hosts fails")
    add_common_arguments(way)

    way = ways.add_parser("jobset", help="kubectl applies a JobSet")
    _add_sizes(way)
    way.add_argument(
        "--node-selector",
        action="append",
        default=[],
        metavar="LABEL=VALUE",
        help="nodes that may run it; repeatable, as in cloud.google.com/gke-accelerator=nvidia-h100-80gb",
    )
    add_jobset_arguments(way)
    add_common_arguments(way)

    options = parser.parse_args(own)
    options.rest = rest
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: {"slurm": _slurm, "jobset": _jobset}[options.way](options))


def _slurm(options: argparse.Namespace) -> int:
    """Returns sbatch's exit code; JAX reads the hosts and this process's index from Slurm's environment."""
    settings = [
        f"--job-name={check_name(options.name)}",
        f"--nodes={options.hosts}",
        "--ntasks-per-node=1",
        f"--gpus-per-node={options.gpus_per_host}",
        f"--time={options.time}",
        *([f"--partition={options.partition}"] if options.partition else []),
        *([f"--account={options.account}"] if options.account else []),
        *([f"--chdir={options.folder}"] if options.folder else []),
        "--requeue" if options.requeue else "--no-requeue",
    ]
    if broken := [setting for setting in settings if any(space in setting for space in " \t\n'\"")]:
        raise UserError(f"{broken[0]} cannot stand in a job script; give a value without spaces and quotes")
    command = shlex.join(benchmark_command(options.python, "gpu", options.rest))
    script = "\n".join(
        # A process that fails or is lost ends its peers by itself; this ends a step that would not even start.
        ["#!/bin/bash", *(f"#SBATCH {setting}" for setting in settings), f"srun --kill-on-bad-exit=1 {command}"]
    )
    return submit(["sbatch"], script, options.dry_run)


def _jobset(options: argparse.Namespace) -> int:
    manifest = jobset(
        name=check_name(options.name),
        namespace=options.namespace,
        image=options.image,
        command=benchmark_command(options.python, "gpu", options.rest),
        hosts=options.hosts,
        resource="nvidia.com/gpu",
        devices_per_host=options.gpus_per_host,
        node_selector=dict(_label(text) for text in options.node_selector),
        environment=[
            _from_annotation("JOBSET_NAME", "jobset.sigs.k8s.io/jobset-name"),
            _from_annotation("REPLICATED_JOB_NAME", "jobset.sigs.k8s.io/replicatedjob-name"),
            {"name": "RECJAX_PROCESSES", "value": str(options.hosts)},
        ],
        queue=options.queue,
        claim=options.claim,
        max_restarts=options.max_restarts,
    )
    return apply_manifest(manifest, options.dry_run)


def _from_annotation(variable: str, annotation: str) -> Manifest:
    """Returns a variable with what JobSet writes on each of its pods."""
    return {"name": variable, "valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['{annotation}']"}}}


def _label(text: str) -> tuple[str, str]:
    label, equals, value = text.partition("=")
    if not (label and equals and value):
        raise UserError(f"--node-selector={text!r} cannot be; give LABEL=VALUE")
    return label, value


def _add_sizes(parser: OneLineParser) -> None:
    parser.add_argument("--hosts", required=True, type=positive, metavar="N", help="one process runs on each")
    parser.add_argument("--gpus-per-host", required=True, type=positive, metavar="N", help="all used by that process")


if __name__ == "__main__":
    sys.exit(main())
