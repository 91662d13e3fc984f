"""The start of a run on several hosts, its normal end, and its end when a peer is lost or fails."""

import atexit
import dataclasses
import os
import socket
import sys
import time
from types import TracebackType

import jax

from recjax.command_line import INTERRUPTED, UNUSABLE
from recjax.errors import UserError
from recjax.parallel import cluster, meeting, peers
from recjax.parallel.relay import start_relay
from recjax.progress import console

LOCALHOST = "127.0.0.1"
FAILED = 1  # Python's code for an exception that nobody caught
VERDICT_S = 1.0  # a collective that fails because a peer is lost fails a moment before the peer is known to be lost
HEARTBEAT_S = 300  # of JAX's own watch, behind ours: for a process that is there and makes no progress
SHUTDOWN_S = 60  # all have come to `finish` before


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes of this run.

    Attributes:
      index: of this process.
      count: of all.
      found_by: in words, what said so; "alone" for one process.
      coordinator: host:port of process 0, None for one process.
      names: host and process id of each.
    """

    index: int
    count: int
    found_by: str
    coordinator: str | None
    names: tuple[str, ...]

    @property
    def is_writer(self) -> bool:
        """Returns whether this process writes results and speaks on the console."""
        return self.index == 0


@dataclasses.dataclass(kw_only=True)
class _Run:
    """The run that this Python process takes part in; there is one at most."""

    processes: Processes
    watch: peers.Watch
    finished: bool = False


_run: _Run | None = None


def start(
    *,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    timeout_s: float = 300.0,
) -> Processes:
    """Returns the processes of this run, connected to each other; call it before anything else touches a device.

    Without arguments it looks at RECJAX_COORDINATOR, RECJAX_PROCESSES and RECJAX_PROCESS, then for a TPU slice, Slurm,
    Open MPI and a JobSet. Where nothing speaks of several processes it does nothing. From here until `finish`, a peer
    that is lost or fails ends this process with one line and exit code 2.

    Args:
      coordinator: host:port of process 0.
      processes: how many there are.
      process: index of this one.
      timeout_s: how long to wait for the others.

    Raises:
      UserError: values that are missing or cannot be, a process that did not come, or it is too late to start.
    """
    global _run
    place = cluster.find_place(coordinator, processes, process, timeout_s)
    name = f"{socket.gethostname()}:{os.getpid()}"
    if place is None or place.processes == 1:
        return Processes(index=0, count=1, found_by="alone", coordinator=None, names=(name,))
    _check_not_too_late()
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # nothing else crosses CPU processes
    # It catches SIGTERM and only notes it, so that Slurm and Kubernetes would have to kill the process.
    jax.config.update("jax_enable_preemption_service", False)
    # gRPC would send even what goes to this host through a proxy, and wait there until its timeout.
    jax.config.update("jax_check_proxy_envs", False)
    os.environ["no_proxy"] = ",".join(filter(None, (os.environ.get("no_proxy"), LOCALHOST)))

    host, port = cluster.split_address(place.coordinator)
    member = meeting.Member(index=place.process, count=place.processes, name=name, version=jax.__version__)
    if member.index == 0:
        connections, names, service_port = meeting.gather(member, port, timeout_s)
        service = f"{LOCALHOST}:{service_port}"
    else:
        first, names, service_port = meeting.join(member, host, port, timeout_s)
        connections = {0: first}
        service = f"{LOCALHOST}:{start_relay(host, service_port)}"
    started = Processes(
        index=member.index, count=member.count, found_by=place.found_by, coordinator=place.coordinator, names=names
    )
    _run = _Run(processes=started, watch=peers.Watch(member.index, names, connections))
    sys.excepthook = _on_exception
    atexit.register(_on_exit)
    try:
        jax.distributed.initialize(
            service,
            member.count,
            member.index,
            local_device_ids=place.local_device_ids,
            cluster_detection_method="deactivate",
            coordinator_bind_address=f"[::]:{service_port}" if member.index == 0 else None,
            initialization_timeout=int(timeout_s),
            heartbeat_timeout_seconds=HEARTBEAT_S,
            shutdown_timeout_seconds=SHUTDOWN_S,
        )
    except RuntimeError as error:
        raise UserError(f"jax.distributed cannot start on port {service_port}: {error}; start again") from error
    return started


def finish() -> None:
    """Returns when every process has come here; call it at the end of a run that went well, and only then.

    A process that ends without it counts as failed, and the others stop.
    """
    if _run is not None and not _run.finished:
        _run.watch.finish()
        _run.finished = True


def is_writer() -> bool:
    """Returns whether this process writes results: process 0, or the only one."""
    return _run is None or _run.processes.is_writer


def quiet_others() -> None:
    """Takes stdout and progress away from every process but the writer; errors still go to stderr."""
    if is_writer():
        return
    console.quiet = True
    sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # the descriptor, because JAX's collectives print to it from C++
    os.close(nowhere)


def _check_not_too_late() -> None:
    from jax._src import xla_bridge  # what jax.distributed.initialize itself asks; asked before anybody is kept waiting

    if _run is not None:
        raise UserError("recjax.parallel.start.start was called before in this process; call it once")
    if xla_bridge.backends_are_initialized():
        raise UserError(
            "recjax.parallel.start.start must come before anything touches a device (jax.devices(), an array, a "
            "computation); call it first"
        )


def _on_exception(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Prints the traceback, tells the others, and ends: JAX's own exit would wait for them."""
    if _run is None or _run.finished:
        sys.__excepthook__(kind, error, traceback)
        return
    if not isinstance(error, KeyboardInterrupt):
        time.sleep(VERDICT_S)  # meanwhile the watch may end this process with the cause
    sys.__excepthook__(kind, error, traceback)
    first_line = str(error).strip().split("\n")[0]
    _run.watch.leave(f"it failed ({kind.__name__}: {first_line})" if first_line else f"it failed ({kind.__name__})")
    peers.end_process(INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED)


def _on_exit() -> None:
    """Ends a process that has not come to `finish`: after an error that was caught, and said in its own words."""
    if _run is not None and not _run.finished:
        _run.watch.leave("it ended before the run did")
        peers.end_process(UNUSABLE)
