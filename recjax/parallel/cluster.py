"""Where this process stands in a run on several hosts: from arguments, a JobSet, or what JAX finds out by itself."""

import dataclasses
import os

from recjax.errors import UserError

COORDINATOR, PROCESSES, PROCESS = "RECJAX_COORDINATOR", "RECJAX_PROCESSES", "RECJAX_PROCESS"
JOBSET_PORT = 8476  # of process 0 in a JobSet; a pod has its own ports
# JAX's own detection, in the order it tries them. Its Kubernetes detection is left out: it needs another package and
# the right to ask the cluster's API, where the environment of a JobSet's pod says the same.
JAX_CLUSTERS = {
    "GkeTpuCluster": "TPU slice on GKE",
    "GceTpuCluster": "TPU VM slice",
    "SlurmCluster": "Slurm",
    "OmpiCluster": "Open MPI",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where a process stands.

    Attributes:
      coordinator: host:port of process 0.
      processes: how many there are.
      process: index of this one.
      found_by: in words, what said so.
      local_device_ids: devices of this host that are this process's own; None is all of them.
    """

    coordinator: str
    processes: int
    process: int
    found_by: str
    local_device_ids: tuple[int, ...] | None = None


def find_place(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None, timeout_s: float = 300.0
) -> Place | None:
    """Returns this process's place, None where nothing says what it is.

    Args:
      coordinator: host:port of process 0; None asks the environment, as for the next two.
      processes: how many there are.
      process: index of this one.
      timeout_s: how long the coordinator's name may take to be known to the name service.

    Raises:
      UserError: a value is missing or cannot be.
    """
    coordinator = coordinator or os.environ.get(COORDINATOR)
    processes = _number(PROCESSES) if processes is None else processes
    process = _number(PROCESS) if process is None else process
    if coordinator is not None or process is not None:
        return _by_hand(coordinator, processes, process)
    if processes is None or "JOBSET_NAME" not in os.environ:
        place = _found_by_jax(timeout_s)
        if place is not None:
            return _checked(place)
    if "JOBSET_NAME" in os.environ:
        return _in_jobset(processes)
    return None if processes is None else _by_hand(coordinator, processes, process)


def split_address(address: str) -> tuple[str, int]:
    """Returns host and port of "host:port"; an IPv6 address stands in brackets.

    Raises:
      UserError: it has no port, or not one of 1 to 65535.
    """
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 1 <= int(port) <= 65_535:
        raise UserError(
            f"coordinator {address!r} is no address; give host:port with a port of 1 to 65535, as in 10.0.0.1:8476"
        )
    return host.removeprefix("[").removesuffix("]"), int(port)


def _by_hand(coordinator: str | None, processes: int | None, process: int | None) -> Place:
    values = {COORDINATOR: coordinator, PROCESSES: processes, PROCESS: process}
    missing = [name for name, value in values.items() if value is None]
    if coordinator is None or processes is None or process is None:
        given = ", ".join(f"{name}={value}" for name, value in values.items() if value is not None)
        raise UserError(
            f"a run on several processes needs {COORDINATOR} (host:port of process 0), {PROCESSES} (how many) and "
            f"{PROCESS} (0 to one less); {given} is given, {' and '.join(missing)} is missing"
        )
    return _checked(Place(coordinator=coordinator, processes=processes, process=process, found_by="arguments"))


def _in_jobset(processes: int | None) -> Place:
    """Returns the place of a pod; JobSet names pods JOBSET-REPLICATEDJOB-JOB-POD and gives them a service's names."""
    names = ("JOBSET_NAME", "REPLICATED_JOB_NAME", "JOB_COMPLETION_INDEX")
    missing = [name for name in names if name not in os.environ] + [PROCESSES] * (processes is None)
    process = _number("JOB_COMPLETION_INDEX")
    if processes is None or process is None or missing:
        raise UserError(
            f"JOBSET_NAME is set, {' and '.join(missing)} is not: several pods would run as if alone; start them with "
            "tools.launch_gpu or tools.launch_tpu, which set all of it, or unset JOBSET_NAME"
        )
    jobset, job = os.environ["JOBSET_NAME"], os.environ["REPLICATED_JOB_NAME"]
    return _checked(
        Place(
            coordinator=f"{jobset}-{job}-0-0.{jobset}:{JOBSET_PORT}",
            processes=processes,
            process=process,
            found_by="JobSet",
        )
    )


def _found_by_jax(timeout_s: float) -> Place | None:
    """Returns what JAX's detection of clusters says, None in none of JAX_CLUSTERS."""
    from jax._src.clusters import ClusterEnv  # JAX has no public way to ask without starting

    by_name = {cluster.__name__: cluster for cluster in ClusterEnv._cluster_types}
    for name, words in JAX_CLUSTERS.items():
        cluster = by_name.get(name)
        if cluster is None or not cluster.is_env_present():
            continue
        processes = cluster.get_process_count()
        if processes == 1:  # a slice of one host, or one task, whatever a JobSet around it says
            return Place(coordinator=f"localhost:{JOBSET_PORT}", processes=1, process=0, found_by=words)
        try:
            coordinator = cluster.get_coordinator_address(
                timeout_secs=int(timeout_s), override_coordinator_port=os.environ.get("JAX_COORDINATOR_PORT")
            )
        except RuntimeError as error:
            raise UserError(f"this is a {words}, and its process 0 cannot be found: {error}") from error
        return Place(
            coordinator=coordinator,
            processes=processes,
            process=cluster.get_process_id(),
            found_by=words,
            local_device_ids=_own_devices(cluster.get_local_process_id()),
        )
    return None


def _own_devices(local_process: int | None) -> tuple[int, ...] | None:
    """Returns the one device of a process that shares its host with others, None where a host has one process.

    JAX's own rule gives one device to every process of Slurm and Open MPI, so that one process on a host of eight GPUs
    would use one of them.
    """
    if "OMPI_COMM_WORLD_LOCAL_SIZE" in os.environ:
        shared = int(os.environ["OMPI_COMM_WORLD_LOCAL_SIZE"]) > 1
    else:
        shared = int(os.environ.get("SLURM_NTASKS", 1)) > int(os.environ.get("SLURM_STEP_NUM_NODES", 1))
    return (local_process,) if shared and local_process is not None else None


def _checked(place: Place) -> Place:
    split_address(place.coordinator)
    if place.processes < 1 or not 0 <= place.process < place.processes:
        raise UserError(
            f"process {place.process} of {place.processes} cannot be; give {PROCESSES} of at least 1 and a {PROCESS} "
            "of 0 to one less"
        )
    return place


def _number(name: str) -> int | None:
    value = os.environ.get(name)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit()):
        raise UserError(f"{name}={value!r} is no number; give a whole number of at least 0")
    return int(value)
