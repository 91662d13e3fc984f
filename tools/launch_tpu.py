"""Runs a benchmark on a TPU slice: as a JobSet on GKE, through xpk, or by ssh on TPU VMs that exist.

Every host runs the same `python -m benchmarks.run --device=tpu`; the hosts find each other, and process 0 writes the
results. What stands after -- goes to benchmarks.run.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence

from recjax.command_line import OneLineParser, run_command
from tools.launch import (
    add_common_arguments,
    add_jobset_arguments,
    add_restarts,
    apply_manifest,
    benchmark_command,
    check_name,
    jobset,
    positive,
    split_arguments,
    submit,
)
from tools.tpu_slices import find_slice

EXAMPLES = """examples:
  python -m tools.launch_tpu jobset --accelerator=v5e-16 --name=dlrm --image=REGISTRY/recjax:1 --claim=results \\
    --dry-run -- --suite=quick --out=/results/dlrm
  python -m tools.launch_tpu xpk --accelerator=v6e-16 --name=dlrm --image=REGISTRY/recjax:1 --cluster=CLUSTER \\
    --project=PROJECT --zone=ZONE -- --suite=quick
  python -m tools.launch_tpu ssh --name=my-tpu --project=PROJECT --zone=ZONE --folder=recjax -- --suite=quick

exit codes: 0 handed over (or printed), 2 unusable input or a tool that is missing, else the tool's own"""


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the parsed command line; exits with 2 and one line on unusable arguments."""
    own, rest = split_arguments(arguments)
    parser = OneLineParser(
        prog="python -m tools.launch_tpu", description="Run a benchmark on every host of a TPU slice.", epilog=EXAMPLES
    )
    ways = parser.add_subparsers(dest="way", required=True, metavar="jobset|xpk|ssh")

    way = ways.add_parser("jobset", help="kubectl applies a JobSet on a GKE cluster with TPU node pools")
    _add_accelerator(way)
    way.add_argument(
        "--chips-per-host", type=positive, metavar="N", help="as the node pool has them (default: 4; 8 for 2x4)"
    )
    add_jobset_arguments(way)
    add_common_arguments(way)

    way = ways.add_parser("xpk", help="xpk creates a workload on a cluster that it made")
    _add_accelerator(way)
    way.add_argument("--name", required=True, help="of the workload, as in dlrm-zoo")
    way.add_argument("--image", required=True, help="container image with recjax, its repository as working folder")
    way.add_argument("--cluster", required=True, help="of xpk")
    _add_project(way)
    add_restarts(way)
    add_common_arguments(way)

    way = ways.add_parser("ssh", help="gcloud runs the command on all hosts of a TPU VM that exists")
    way.add_argument("--name", required=True, help="of the TPU VM")
    way.add_argument("--folder", default="recjax", help="the repository there, from the home folder (default: recjax)")
    _add_project(way)
    add_common_arguments(way)

    options = parser.parse_args(own)
    options.rest = rest
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: {"jobset": _jobset, "xpk": _xpk, "ssh": _ssh}[options.way](options))


def _jobset(options: argparse.Namespace) -> int:
    tpu = find_slice(options.accelerator, options.chips_per_host)
    manifest = jobset(
        name=check_name(options.name),
        namespace=options.namespace,
        image=options.image,
        command=benchmark_command(options.python, "tpu", options.rest),
        hosts=tpu.hosts,
        resource="google.com/tpu",
        devices_per_host=tpu.chips_per_host,
        node_selector={
            "cloud.google.com/gke-tpu-accelerator": tpu.generation.gke_label,
            "cloud.google.com/gke-tpu-topology": tpu.topology,
        },
        # A slice is a node pool, and no other job may have one of its hosts.
        annotations={"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
        queue=options.queue,
        claim=options.claim,
        max_restarts=options.max_restarts,
    )
    return apply_manifest(manifest, options.dry_run)


def _xpk(options: argparse.Namespace) -> int:
    command = [
        *("xpk", "workload", "create"),
        f"--workload={check_name(options.name)}",
        f"--cluster={options.cluster}",
        f"--project={options.project}",
        f"--zone={options.zone}",
        f"--tpu-type={find_slice(options.accelerator).rented_as}",
        "--num-slices=1",
        f"--docker-image={options.image}",
        f"--command={shlex.join(benchmark_command(options.python, 'tpu', options.rest))}",
    ]
    if options.max_restarts:
        # By itself xpk restarts after signals only, and the peers of a lost process end with exit code 2.
        command += [f"--max-restarts={options.max_restarts}", "--restart-on-user-code-failure"]
    return submit(command, dry_run=options.dry_run)


def _ssh(options: argparse.Namespace) -> int:
    remote = shlex.join(benchmark_command(options.python, "tpu", options.rest))
    command = [
        *("gcloud", "compute", "tpus", "tpu-vm", "ssh", options.name),
        f"--project={options.project}",
        f"--zone={options.zone}",
        "--worker=all",
        f"--command=cd {shlex.quote(options.folder)} && {remote}",
    ]
    return submit(command, dry_run=options.dry_run)


def _add_accelerator(parser: OneLineParser) -> None:
    parser.add_argument("--accelerator", required=True, metavar="SLICE", help="as in v5e-16, v6e-8, v5p-32 or v4-64")


def _add_project(parser: OneLineParser) -> None:
    parser.add_argument("--project", required=True, help="of Google Cloud")
    parser.add_argument("--zone", required=True, help="as in us-central2-b")


if __name__ == "__main__":
    sys.exit(main())
