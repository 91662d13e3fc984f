"""What two processes, of which one sleeps while the other works, add to the time that one of them computes.

A program of its own, without recjax and JAX: `bare_echo.py SERVICE_S N` prints each part's percentiles in ms.
"""

import json
import os
import select
import socket
import struct
import sys
import time

GAP = 1.5  # service times between an answer and the next query
SPIN_S = 1e-3  # before a query is due
STAMPS = struct.Struct("=ddd")


def spin_until(moment_s: float) -> None:
    while time.perf_counter() < moment_s:
        pass


def answer(connection: socket.socket, service_s: float) -> None:
    """Answers each query after `service_s` of computing, until the other process has gone."""
    while connection.recv(64):
        taken = time.perf_counter()
        spin_until(taken + service_s)
        computed = time.perf_counter()
        content = b"".join(part.to_bytes(4, "little") for part in range(4))
        connection.sendall(STAMPS.pack(taken, computed, time.perf_counter()) + content)


def ask(connection: socket.socket, service_s: float, n: int) -> dict[str, dict[str, float]]:
    """Returns how long each part took, and all of them together ("added"), but for the service itself; milliseconds."""
    seen, due = [], time.perf_counter() + service_s
    for _ in range(n):
        time.sleep(max(due - SPIN_S - time.perf_counter(), 0.0))
        spin_until(due)
        sent = time.perf_counter()
        connection.send(bytes(16))
        select.select([connection], [], [])
        stamps = STAMPS.unpack_from(connection.recv(64))
        received = time.perf_counter()
        taken, computed, packed = stamps
        parts = (sent - due, taken - sent, computed - taken - service_s, packed - computed, received - packed)
        seen.append((*parts, sum(parts)))
        due = received + GAP * service_s
    names = ("send_lag", "way_there", "computing", "packing", "way_back", "added")
    percentiles = (sorted(part) for part in zip(*seen, strict=True))
    return {
        name: {f"p{p}": round(part[p * (n - 1) // 100] * 1e3, 3) for p in (50, 90)}
        for name, part in zip(names, percentiles, strict=True)
    }


def main(service_s: float, n: int) -> None:
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        answer(theirs, service_s)
        os._exit(0)
    theirs.close()
    print(json.dumps(ask(ours, service_s, n)))


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
