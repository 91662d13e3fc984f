"""The load generator in simulated time: its own code, but no clock and no process, and a computed queue for a system.

What it does is the same on every machine, however busy. `play` runs in this process, and the modules that read the time
or wait are given the clock of `SimulatedTime`.
"""

import contextlib
import socket
from typing import Any

import numpy as np
import pytest
import simulated_systems
from simulated_systems import SimulatedSystem

from recjax.load import checks, client, closed_loop, generator
from recjax.load.client import LoadGenerator
from recjax.load.generator import HEAD_START_S, arrays_of_bytes, arrays_to_bytes, play
from recjax.load.serve import Served
from recjax.load.window import Privileges
from recjax.load.wire import ABORT, ANSWERS, QUERIES, STAGES

LOOK_S = 1e-5  # that every wait takes at least: a spinning generator looks as often
LATE_S = 7e-5  # that a timer wakes late
LATE_SHARE = 0.02  # of the time slept, that it wakes late where nothing else keeps the machine awake, if that is longer


class SimulatedTime:
    """Stands for `time` and `select` in one process, which does nothing for `stopped_s` from `stop_s` on."""

    def __init__(self) -> None:
        self.now_s = self.cpu_s = self.stopped_s = 0.0
        self.stop_s = np.inf

    def perf_counter(self) -> float:
        return self.now_s

    def process_time(self) -> float:
        return self.cpu_s

    def pass_until(self, moment_s: float) -> None:
        self.now_s = max(self.now_s, moment_s)
        if self.now_s >= self.stop_s:
            self.now_s, self.stop_s = max(self.now_s, self.stop_s + self.stopped_s), np.inf

    def select(self, readers: list[Any], writers: list[Any], failing: list[Any], timeout_s: float) -> None:
        [channel] = readers
        answered_s, is_idle = channel.next_answer_s(), channel.is_idle()
        wakes_s = self.now_s + timeout_s
        if timeout_s > 0:
            wakes_s += max(LATE_S, LATE_SHARE * timeout_s) if is_idle else LATE_S
        self.pass_until(max(self.now_s + LOOK_S, min(wakes_s, answered_s)))


class Channel(socket.socket):
    """The generator's end of a connection to a system, which answers each batch in the next of its service times.

    It takes whatever waits when it is free, up to its largest bucket, and knows of a query what is sent and when.
    """

    def __init__(self, time: SimulatedTime, system: SimulatedSystem) -> None:
        # No socket is opened: the base class is for those who check the type.
        self.time, self.system = time, system
        self.unread = b""
        self.waiting_s: list[float] = []  # when each query that waits was sent
        self.answers: list[tuple[float, bytes]] = []  # when each frame is there
        self.free_s = 0.0
        self.batches: list[int] = []

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def send(self, content: bytes) -> int:  # type: ignore[override]
        self._go_on()
        self.unread += content
        while len(self.unread) >= QUERIES.size:
            n, samples = QUERIES.unpack_from(self.unread)
            if n == 0:  # the window is over
                late = [] if samples == ABORT else self.answers
                self.answers = [*late, (self.time.now_s, ANSWERS.pack(0, 0, *(0.0,) * len(STAGES)))]
                self.waiting_s.clear()
            assert len(self.unread) >= QUERIES.size + 4 * (n + samples) * (n > 0)
            self.unread = self.unread[QUERIES.size + 4 * (n + samples) * (n > 0) :]
            self.waiting_s += [self.time.now_s] * n
        self._go_on()
        return len(content)

    def recv_into(self, buffer: bytearray, nbytes: int = 0, flags: int = 0) -> int:  # type: ignore[override]
        self._go_on()
        content = b"".join(frame for moment_s, frame in self.answers if moment_s <= self.time.now_s)
        self.answers = [(moment_s, frame) for moment_s, frame in self.answers if moment_s > self.time.now_s]
        if not content:
            raise BlockingIOError
        buffer[: len(content)] = content
        return len(content)

    def next_answer_s(self) -> float:
        self._go_on()
        return min((moment_s for moment_s, _ in self.answers), default=np.inf)

    def is_idle(self) -> bool:
        return not self.waiting_s and self.free_s <= self.time.now_s

    def _go_on(self) -> None:
        """Forms the batches that begin until now."""
        while self.waiting_s and (start := max(self.free_s, self.waiting_s[0])) <= self.time.now_s:
            n = min(sum(sent <= start for sent in self.waiting_s), self.system.buckets[-1])
            end = start + float(self.system.service_s[self.system.calls % len(self.system.service_s)])
            self.answers.append((end, ANSWERS.pack(n, 0, start, start, start, end, end, end)))
            self.system.calls += 1
            self.batches.append(n)
            self.free_s = end
            del self.waiting_s[:n]


class SimulatedGenerator(LoadGenerator):
    """A `LoadGenerator` whose windows take no time; it is its own control connection."""

    def __init__(self, time: SimulatedTime) -> None:
        self.time = time
        self.privileges = Privileges(0, short_slice=False)
        self._control: Any = self
        self._data: Any = None
        self._reader: Any = None
        self._process: Any = None
        self._watchdog: Any = contextlib.nullcontext()

    def stop_once(self, stop_s: float, stopped_s: float) -> None:
        """In the next window, from `stop_s` after its start on."""
        self.time.stop_s, self.time.stopped_s = self.time.now_s + HEAD_START_S + stop_s, stopped_s

    def send_bytes(self, content: bytes) -> None:
        self.plan = arrays_of_bytes(content)

    def serve(self, connection: Any, reader: Any, system: SimulatedSystem) -> Served:
        """Stands for `serve_until_end`, and does what `generator.main` does with a plan."""
        ends = [self.plan[name].item() for name in ("limit_s", "silence_s", "end_s", "slo_s", "most_over")]
        channel = Channel(self.time, system)
        self.seen = play(channel, self.plan["due"], self.plan["sizes"], self.plan["rows"], *ends)
        return Served(np.array(channel.batches), np.array([system.padded(n) for n in channel.batches]))

    def recv_bytes(self) -> bytes:
        return arrays_to_bytes(self.seen)


def simulate_time(monkeypatch: pytest.MonkeyPatch) -> SimulatedGenerator:
    """Gives `recjax.load` and the simulated systems a simulated time, and returns the generator in it."""
    time = SimulatedTime()
    for module in (checks, closed_loop, generator, simulated_systems):
        monkeypatch.setattr(module, "time", time)
    monkeypatch.setattr(generator, "select", time)
    monkeypatch.setattr(simulated_systems, "spin_until", time.pass_until)
    simulated = SimulatedGenerator(time)
    monkeypatch.setattr(client, "serve_until_end", simulated.serve)
    return simulated
