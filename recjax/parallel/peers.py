"""The processes of a run on several hosts: all of them stop, with one line that names it, when one is lost.

Every process stays connected to process 0 from its start to its end (`meeting`). The operating system closes a killed
process's connections at once, and its keep-alive notices a host that has gone. Neither needs a heartbeat of ours: a
process that is busy is never taken for a lost one.

What JAX 0.10 and 0.12 do by themselves: when process 0 is lost they abort at once, when another is lost after the
timeout of their heartbeats (100 s by default), with a log of twenty lines and more that names no host. A process that
fails waits at its exit for the others, which wait for it in a collective.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from typing import Any, NoReturn

from recjax.command_line import UNUSABLE

SILENCE_S = 30  # unanswered keep-alive probes for this long, and the host counts as lost
KEEP_ALIVE = (  # the first probe after 10 s without traffic, four more 5 s apart
    (socket.SO_KEEPALIVE, socket.SOL_SOCKET, 1),
    (socket.TCP_KEEPIDLE, socket.IPPROTO_TCP, 10),
    (socket.TCP_KEEPINTVL, socket.IPPROTO_TCP, 5),
    (socket.TCP_KEEPCNT, socket.IPPROTO_TCP, 4),
    (socket.TCP_USER_TIMEOUT, socket.IPPROTO_TCP, SILENCE_S * 1000),  # the same for data that nobody acknowledges
    (socket.TCP_NODELAY, socket.IPPROTO_TCP, 1),
)
MESSAGE_BYTES = 1 << 20  # the names of ten thousand processes
LAST_WORDS_S = 5  # how long flushing the output may hold up the end
OWN_ERROR_S = 1.0  # how long to wait, when a peer failed, for the same error to end this process with its own words


class Connection:
    """A connection that carries one JSON object a line."""

    def __init__(self, peer: socket.socket) -> None:
        """Takes the connection over."""
        for option, level, value in KEEP_ALIVE:
            peer.setsockopt(level, option, value)
        self.socket = peer
        self._lines = peer.makefile("rb")

    def send(self, **message: Any) -> None:
        """Sends the message; that the peer is gone is left to `receive` to find."""
        try:
            self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return

    def receive(self) -> dict[str, Any] | None:
        """Returns the next message, None once the peer has closed the connection or spoken another language.

        Raises:
          OSError: the peer's host has not answered for SILENCE_S, or `settimeout` ran out.
        """
        try:
            message = json.loads(self._lines.readline(MESSAGE_BYTES))
        except ConnectionResetError:  # a process killed while data was on its way to it
            return None
        except ValueError:
            return None
        return message if isinstance(message, dict) else None

    def close(self) -> None:
        """Closes both directions."""
        self._lines.close()
        self.socket.close()


class Watch:
    """Ends this process, with one line that names the peer, when a peer is lost.

    Each connection has a thread that waits for the next line. Process 0 hears everybody and passes on who was lost.
    """

    def __init__(self, index: int, names: tuple[str, ...], connections: dict[int, Connection]) -> None:
        """Starts watching.

        Args:
          index: of this process.
          names: of all processes.
          connections: to all others in process 0, to process 0 elsewhere.
        """
        self._index = index
        self._names = names
        self._connections = connections
        self._finished = set[int]()
        self._over = False  # all have finished: from here on a closed connection is no loss
        self._told = threading.Event()  # all have been told so
        self._changing = threading.Lock()
        self._ending = threading.Lock()
        for peer, connection in connections.items():
            threading.Thread(target=self._hear, args=(peer, connection), name=f"peer-{peer}", daemon=True).start()

    def finish(self) -> None:
        """Returns when all processes have come here; from then on, that one of them ends is no loss."""
        if self._index == 0:
            self._finish_of(0)
        else:
            self._connections[0].send(finished=True)
        self._told.wait()

    def leave(self, why: str) -> None:
        """Tells the others that this process stops before the end of the run."""
        for connection in self._connections.values():
            connection.send(lost=self._index, why=why, failed=True)

    def _finish_of(self, index: int) -> None:
        with self._changing:
            self._finished.add(index)
            if len(self._finished) < len(self._names):
                return
            self._over = True
        for connection in self._connections.values():
            connection.send(finished=True)
        self._told.set()

    def _hear(self, peer: int, connection: Connection) -> None:
        while not self._over:
            try:
                message = connection.receive()
            except OSError:
                self._lost(peer, f"no answer for {SILENCE_S} s: its host or the network is down")
                continue
            if message is None:
                self._lost(peer, "its connection closed, as when a process is killed")
            elif "lost" in message:
                self._lost(message["lost"], message["why"], failed=message["failed"])
            elif self._index == 0:
                self._finish_of(peer)
            else:
                self._over = True
                self._told.set()
        connection.close()

    def _lost(self, peer: int, why: str, failed: bool = False) -> None:
        if self._over:
            return
        self._ending.acquire()  # never released: the first loss is the cause, those after it are consequences
        for other, connection in self._connections.items():
            if other != peer:
                connection.send(lost=peer, why=why, failed=failed)
        if failed:  # bad input fails everywhere alike: let this process say it in its own words
            time.sleep(OWN_ERROR_S)
        remedy = "see its output, then" if failed else "training goes on from the last checkpoint when you"
        end_process(
            UNUSABLE,
            f"error: lost process {peer} of {len(self._names)} ({self._names[peer]}): {why}; {remedy} start all "
            f"{len(self._names)} again\n",
        )


def end_process(code: int, last_words: str = "") -> NoReturn:
    """Ends this process at once, whatever its threads wait for; JAX's exit would wait for the lost peer."""
    os.write(2, last_words.encode())
    signal.alarm(LAST_WORDS_S)  # whoever reads our output may not go on reading; the alarm's default ends the process
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
    os._exit(code)
