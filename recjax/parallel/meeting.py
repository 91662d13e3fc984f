"""How the processes of a run on several hosts meet: process 0 listens until all others have said who they are.

JAX would meet by itself, but where a process is missing, doubled or of another version, it aborts all of them with a
log that does not say which. Here each of these is one line, and the same line everywhere.
"""

import dataclasses
import os
import socket
import time

from recjax.errors import UserError
from recjax.parallel.peers import Connection

GREETING = "recjax"
GREETING_S = 5.0  # how long a stranger on the port may keep silent
RETRY_S = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
    """Who a process of a run is.

    Attributes:
      index: 0 is the coordinator.
      count: processes of the run.
      name: host and process id.
      version: of JAX; it must be the same everywhere.
    """

    index: int
    count: int
    name: str
    version: str


def gather(member: Member, port: int, timeout_s: float) -> tuple[dict[int, Connection], tuple[str, ...], int]:
    """Returns, in process 0, the connection to each other process, all names, and a free port for JAX's service.

    Raises:
      UserError: the port is taken, a process did not come in time, or one does not fit the run; all that came are told.
    """
    deadline = time.monotonic() + timeout_s
    members, connections = {0: member}, dict[int, Connection]()
    try:
        with _listen(port) as listener:
            while len(members) < member.count:
                listener.settimeout(max(deadline - time.monotonic(), 0.001))
                try:
                    accepted, _ = listener.accept()
                except TimeoutError:
                    raise UserError(_who_is_missing(members, member, port, timeout_s)) from None
                joined = _greet(connection := Connection(accepted))
                if joined is None:  # a port scanner or a health check
                    connection.close()
                    continue
                if objection := _objection(joined, members):
                    connection.send(error=objection)
                    connection.close()
                    raise UserError(objection)
                members[joined.index], connections[joined.index] = joined, connection
            names = tuple(members[i].name for i in range(member.count))
            service_port = _free_port()
    except UserError as error:
        for connection in connections.values():
            connection.send(error=str(error))
            connection.close()
        raise
    for connection in connections.values():
        connection.send(names=names, service_port=service_port)
    return connections, names, service_port


def join(member: Member, host: str, port: int, timeout_s: float) -> tuple[Connection, tuple[str, ...], int]:
    """Returns, in any other process, the connection to process 0, all names, and the port of JAX's service.

    Raises:
      UserError: nobody listens there, or process 0 gave the run up; the message is the one it printed.
    """
    deadline = time.monotonic() + timeout_s
    connection = Connection(_connect(host, port, deadline, timeout_s))
    connection.send(greeting=GREETING, **dataclasses.asdict(member))
    connection.socket.settimeout(max(deadline - time.monotonic(), 1.0) + GREETING_S)  # process 0 gives up first
    try:
        answer = connection.receive()
    except OSError:
        answer = None
    if answer is None or not ({"error", "names"} & answer.keys()):
        connection.close()
        raise UserError(
            f"process 0 at {host}:{port} does not answer, or is not recjax; see that it runs, and that no other "
            "program uses that port"
        )
    if "error" in answer:
        connection.close()
        raise UserError(answer["error"])
    connection.socket.settimeout(None)
    return connection, tuple(answer["names"]), answer["service_port"]


def _greet(connection: Connection) -> Member | None:
    """Returns who connected, None for a stranger."""
    connection.socket.settimeout(GREETING_S)
    try:
        message = connection.receive()
    except OSError:
        return None
    if message is None or message.pop("greeting", None) != GREETING:
        return None
    connection.socket.settimeout(None)
    try:
        return Member(**message)
    except TypeError:  # another version of recjax
        return None


def _objection(joined: Member, members: dict[int, Member]) -> str | None:
    """Returns why the run cannot go on with this process, None if it can."""
    first, who = members[0], f"process {joined.index} ({joined.name})"
    if joined.count != first.count:
        return (
            f"{who} was told of {joined.count} processes, process 0 ({first.name}) of {first.count}; give every "
            "process the same number"
        )
    if joined.index in members:
        return (
            f"{who} and {members[joined.index].name} have the same index {joined.index} of {joined.count}; give every "
            f"process another one, 0 to {joined.count - 1}"
        )
    if joined.version != first.version:
        return (
            f"{who} has jax {joined.version}, process 0 ({first.name}) has {first.version}; install the same version "
            "on all hosts"
        )
    return None


def _who_is_missing(members: dict[int, Member], member: Member, port: int, timeout_s: float) -> str:
    missing = [str(i) for i in range(member.count) if i not in members]
    plural = "es" * (len(missing) > 1)
    return (
        f"process{plural} {', '.join(missing)} of {member.count} did not come to {member.name.split(':')[0]}:{port} "
        f"within {timeout_s:g} s; see that every host runs the same command and reaches that port"
    )


def _listen(port: int) -> socket.socket:
    """Returns a listening socket on all addresses of this host."""
    both = socket.has_dualstack_ipv6()
    try:
        return socket.create_server(
            ("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both, backlog=1024
        )
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen on port {port}: {os.strerror(error.errno or 0)}; give all processes a "
            "coordinator with another port"
        ) from error


def _connect(host: str, port: int, deadline: float, timeout_s: float) -> socket.socket:
    """Returns a connection to process 0, which may start later than this process."""
    while True:
        try:
            return socket.create_connection((host, port), timeout=max(deadline - time.monotonic(), 0.001))
        except OSError as error:
            if time.monotonic() + RETRY_S > deadline:
                raise UserError(
                    f"no process 0 at {host}:{port} within {timeout_s:g} s ({error.strerror or error}); see that it "
                    "runs and that its address and port are reachable from this host"
                ) from error
            time.sleep(RETRY_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
    return port
