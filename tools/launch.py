"""What the launchers share: the command that every host runs, a JobSet's manifest, and handing it to the tool."""

import argparse
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.run import parse_arguments
from recjax.command_line import OneLineParser, parallel_overrides
from recjax.errors import UserError

REPLICATED_JOB = "workers"
RESULTS_FOLDER = "/results"
Manifest = dict[str, Any]


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns what stands before the first "--" and what stands after it."""
    if "--" not in arguments:
        return list(arguments), []
    at = list(arguments).index("--")
    return list(arguments[:at]), list(arguments[at + 1 :])


def benchmark_command(python: str, device: str, rest: Sequence[str]) -> list[str]:
    """Returns the command that every host runs, over all devices unless `rest` says otherwise.

    Options that benchmarks.run would not take end the program, with 2 and one line, before anything is handed over.

    Raises:
      UserError: `rest` names a device, which the launcher does, no suite, a mesh of another form, or an override that
        fits no experiment of the suite.
    """
    from benchmarks.suite import load_suite

    if any(option == "--device" or option.startswith("--device=") for option in rest):
        raise UserError(f"--device is set by the launcher, to {device}; leave it out after --")
    # Without it a run of one host would use one of its devices.
    spread = [] if any(option.partition("=")[0] == "--parallel" for option in rest) else ["--parallel=pjit"]
    options = [f"--device={device}", *spread, *rest]
    parsed = parse_arguments(options)
    overrides = parallel_overrides(parsed) + parsed.overrides
    if not parsed.config:  # which may be in the image alone
        load_suite(parsed.suite, overrides)
    return [python, "-m", "benchmarks.run", *options]


def check_name(name: str) -> str:
    """Returns the name of a job.

    Raises:
      UserError: Kubernetes would not take it; pods and services are named after it.
    """
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", name):
        raise UserError(
            f"--name={name!r} cannot be; give up to 40 lower-case letters, digits and hyphens, with a letter first and "
            "no hyphen last, as in dlrm-zoo"
        )
    return name


def jobset(
    *,
    name: str,
    namespace: str,
    image: str,
    command: Sequence[str],
    hosts: int,
    resource: str,
    devices_per_host: int,
    node_selector: Mapping[str, str],
    environment: Sequence[Manifest] = (),
    annotations: Mapping[str, str] | None = None,
    queue: str | None = None,
    claim: str | None = None,
    max_restarts: int = 0,
) -> Manifest:
    """Returns a JobSet with one Job of one pod a host; it restarts as a whole when a pod fails.

    Args:
      name: of the JobSet.
      namespace: to put it in.
      image: with recjax and its repository as the working folder.
      command: that every pod runs.
      hosts: pods, one a host.
      resource: the device's name in Kubernetes.
      devices_per_host: of that resource, for each pod.
      node_selector: labels of the nodes that may run it.
      environment: variables beside those that the cluster sets.
      annotations: of the JobSet.
      queue: a LocalQueue of Kueue.
      claim: a PersistentVolumeClaim, mounted at RESULTS_FOLDER; several hosts need one that all can mount.
      max_restarts: of the JobSet.

    Source: API jobset.x-k8s.io/v1alpha2 of kubernetes-sigs/jobset, site/static/examples.
    """
    volumes = [{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}]  # a pod's own /dev/shm has 64 MB
    mounts = [{"name": "shared-memory", "mountPath": "/dev/shm"}]
    if claim:
        volumes.append({"name": "results", "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": "results", "mountPath": RESULTS_FOLDER})
    container = {
        "name": "recjax",
        "image": image,
        "command": list(command),
        "env": [{"name": "PYTHONUNBUFFERED", "value": "1"}, *environment],
        "resources": {"limits": {resource: devices_per_host}},
        "volumeMounts": mounts,
    }
    pod = {
        "restartPolicy": "Never",
        "nodeSelector": dict(node_selector),
        "tolerations": [{"key": resource, "operator": "Exists"}],
        "containers": [container],
        "volumes": volumes,
    }
    job = {
        "completionMode": "Indexed",
        "parallelism": hosts,
        "completions": hosts,
        "backoffLimit": 0,
        "template": {"spec": pod},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"kueue.x-k8s.io/queue-name": queue} if queue else {},
            "annotations": dict(annotations or {}),
        },
        "spec": {
            "network": {"enableDNSHostnames": True},
            "failurePolicy": {"maxRestarts": max_restarts},
            "replicatedJobs": [{"name": REPLICATED_JOB, "replicas": 1, "template": {"spec": job}}],
        },
    }


def add_jobset_arguments(parser: OneLineParser) -> None:
    """Adds the options of a JobSet, the same for TPUs and GPUs."""
    parser.add_argument("--name", required=True, help="of the JobSet, as in dlrm-zoo")
    parser.add_argument("--namespace", default="default", help="to put it in (default: default)")
    parser.add_argument("--image", required=True, help="container image with recjax, its repository as working folder")
    parser.add_argument("--queue", help="a LocalQueue of Kueue, where the cluster uses Kueue")
    parser.add_argument(
        "--claim", help=f"a PersistentVolumeClaim for {RESULTS_FOLDER}; without one, results end with their pod"
    )
    add_restarts(parser)


def add_restarts(parser: OneLineParser) -> None:
    """Adds --max-restarts."""
    parser.add_argument(
        "--max-restarts", type=natural, default=0, metavar="N", help="start again that often after a loss (default: 0)"
    )


def add_common_arguments(parser: OneLineParser) -> None:
    """Adds --python and --dry-run."""
    parser.add_argument("--python", default="python3", help="interpreter on the hosts (default: python3)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and do nothing")


def natural(text: str) -> int:
    """Returns a whole number of at least 0, for argparse."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)


def positive(text: str) -> int:
    """Returns a whole number of at least 1, for argparse."""
    if natural(text) == 0:
        raise argparse.ArgumentTypeError("0 is less than 1")
    return int(text)


def submit(command: Sequence[str], standard_input: str | None = None, dry_run: bool = False) -> int:
    """Returns the tool's exit code; a dry run prints what a shell would run, and returns 0.

    Raises:
      UserError: the tool is not installed.
    """
    if dry_run:
        print(shlex.join(command) + (f" <<'EOF'\n{standard_input}\nEOF" if standard_input else ""))
        return 0
    if shutil.which(command[0]) is None:
        raise UserError(
            f"{command[0]} is not installed here; install it, or run what --dry-run prints on a machine that has it"
        )
    return subprocess.run(command, input=standard_input, text=True, check=False).returncode


def apply_manifest(manifest: Manifest, dry_run: bool) -> int:
    """Returns kubectl's exit code after applying the manifest, as JSON, which it takes like YAML."""
    return submit(["kubectl", "apply", "-f", "-"], json.dumps(manifest, indent=2), dry_run)
