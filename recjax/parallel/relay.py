"""A byte-for-byte relay between this process and JAX's coordination service in process 0.

JAX's client aborts its process the moment the service's connection closes, with a log that does not say who was lost.
Through the relay it does not see that connection close: `peers.Watch` does, and ends the process with one line. JAX
offers no other way; its `missed_heartbeat_callback` cannot be a Python function (std::bad_cast on jax 0.10.2 and 0.12).
Traffic is small: key-value pairs when devices and communicators are set up, then heartbeats.
"""

import contextlib
import socket
import threading
import time

RETRY_S = 0.2
HELD_OPEN_S = 10.0  # a closed service is hidden for this long; then JAX may reconnect, or say what it has to say


def start_relay(host: str, port: int) -> int:
    """Returns a port on localhost whose connections are relayed to `host:port` until this process ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, host, port), name="relay", daemon=True).start()
    local_port: int = listener.getsockname()[1]
    return local_port


def _accept(listener: socket.socket, host: str, port: int) -> None:
    while True:
        inner, _ = listener.accept()
        threading.Thread(target=_relay, args=(inner, host, port), name="relay-out", daemon=True).start()


def _relay(inner: socket.socket, host: str, port: int) -> None:
    while True:
        try:
            outer = socket.create_connection((host, port))
            break
        except OSError:  # process 0 has not started the service yet; JAX's own timeout ends this
            time.sleep(RETRY_S)
    for end in (inner, outer):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=_copy, args=(outer, inner, HELD_OPEN_S), name="relay-in", daemon=True).start()
    _copy(inner, outer, 0.0)


def _copy(source: socket.socket, target: socket.socket, held_open_s: float) -> None:
    """Copies bytes until the source closes, then closes the target, `held_open_s` later."""
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    time.sleep(held_open_s)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
    target.close()
