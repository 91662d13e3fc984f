"""The process that sends queries when they are due and notes when their answers come; it knows no model.

It imports NumPy and nothing of JAX, so that it starts fast and holds little memory, and it never waits for an answer
before it sends: latency runs from the *scheduled* arrival. A window's schedule comes whole, before it begins.

Shapes: N queries, S their samples, A frames of answers.
"""

import bisect
import contextlib
import ctypes
import gc
import io
import os
import platform
import select
import socket
import struct
import sys
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection

import numpy as np
from numpy.typing import NDArray

from recjax.load.wire import INT32, STAGES, FrameReader, pack_end, pack_queries

HEAD_START_S = 2e-3  # from the schedule's receipt to its second 0
# A timer wakes tens of microseconds late: the last stretch before an arrival is spun. It wakes later the longer a core
# has slept, and finds cold caches: before an idle system that stretch is a share of the gap to the arrival before.
SHORTEST_SPIN_S, LONGEST_SPIN_S, SHARE_OF_GAP = 1e-4, 1e-3, 0.03
ANSWER_SPIN_S = 2e-4  # an answer is waited for spinning as long, if the last one came within it
SPIN_SHARE = 0.3  # of a core, at most: at higher rates nothing is spun and what is due is sent together
GAVE_UP = 3  # exit code
POLL_S = 0.05  # how often an idle generator looks at its limits
KEPT_FRAMES = 256  # of answers, spread evenly over the window, for `check_answers`
PR_SET_TIMERSLACK = 29
PRIORITY = -10  # as of `nice`
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # Linux's number of the system call; sched_getattr's is one more
SCHED_ATTR = "=IIQiIQQQII"  # size, policy, flags, nice, priority, runtime, deadline, period, two clamps
SLICE_NS = 100_000  # the shortest that the scheduler takes


def play(
    connection: socket.socket,
    due_N: NDArray,
    sizes_N: NDArray,
    rows_S: NDArray,
    limit_s: float,
    silence_s: float,
    end_s: float,
    slo_s: float,
    most_over: int,
) -> dict[str, NDArray]:
    """Sends every query at its time, receives all answers, and returns what was seen.

    Args:
      connection: to the system.
      due_N: scheduled arrivals in seconds after the start, ascending.
      sizes_N: samples of each query.
      rows_S: rows of all samples.
      limit_s: the window is ended when the oldest query without an answer has waited this long since it was sent.
      silence_s: likewise when the system has answered nothing for this long while something waited.
      end_s: for the system to understand that the window is over.
      slo_s: latency limit.
      most_over: answers that may exceed it; one more ends the window.

    Returns:
      Arrays: `sent`, `received` [N] seconds after the start, NaN where that did not happen; `stamps` [A, STAGES];
      `completed` [A] queries completed until and with each frame; `kept` frames, their `kept_sizes` and `kept_bytes`;
      `overloaded`, `silent`, `failed_early`, `cpu_s` and `duration_s` as single values.
    """
    connection.setblocking(False)
    reader, n = FrameReader(connection), len(due_N)
    size_bytes, row_bytes = sizes_N.tobytes(), rows_S.tobytes()
    ends = [0, *np.cumsum(sizes_N, dtype=np.int64).tolist()]
    sent_N, received_N = np.full(n, np.nan), np.full(n, np.nan)
    stamps: list[tuple[float, ...]] = []
    completed: list[int] = []
    kept: dict[int, bytes] = {}
    keep_every = 1
    next_up = done = over = 0
    due = due_N.tolist()
    unsent = b""
    overloaded = silent = failed_early = False
    rate = n / (due[-1] + 1e-9)
    cpu_before = time.process_time()
    start = time.perf_counter() + HEAD_START_S
    last_answer = took = 0.0
    while done < n:
        now = time.perf_counter() - start
        if next_up < n and due[next_up] <= now:
            end = bisect.bisect_right(due, now, next_up)
            unsent += pack_queries(
                size_bytes[INT32 * next_up : INT32 * end], row_bytes[INT32 * ends[next_up] : INT32 * ends[end]]
            )
            # Before, as the system may have read it when this process goes on. What the socket does not take yet waits
            # for the system to read: that is the system's queue.
            now = time.perf_counter() - start
            unsent = _send(connection, unsent)
            sent_N[next_up:end] = now
            next_up = end
        elif unsent:
            unsent = _send(connection, unsent)
        wait_s = POLL_S if next_up == n else due[next_up] - (time.perf_counter() - start)
        if rate * SHORTEST_SPIN_S < SPIN_SHARE:
            comes_soon = took < ANSWER_SPIN_S and rate * (SHORTEST_SPIN_S + took) < SPIN_SHARE
            answer_is_near = comes_soon and done < next_up and now - sent_N[done] < ANSWER_SPIN_S
            spin_s = SHORTEST_SPIN_S
            if done == next_up:  # a busy system needs its cores, and a query would wait for it anyway
                gap_s = due[next_up] - (due[next_up - 1] if next_up else 0.0)
                spin_s = min(max(spin_s, SHARE_OF_GAP * gap_s), LONGEST_SPIN_S)
            wait_s = 0.0 if answer_is_near else wait_s - spin_s  # 0 or less: the loop goes round without sleeping
        select.select([connection], [connection] if unsent else [], [], min(max(wait_s, 0.0), POLL_S))
        if reader.fill():
            seen = time.perf_counter() - start
            while (frame := reader.next_answers()) is not None:
                received_N[done : done + frame.completed] = last_answer = seen
                over += bisect.bisect_left(due, seen - slo_s, done, done + frame.completed) - done
                done += frame.completed
                took = seen - float(sent_N[done - 1])
                number = len(completed)
                if number % keep_every == 0:
                    kept[number] = frame.answers
                    if len(kept) > KEPT_FRAMES:
                        keep_every *= 2
                        kept = {k: v for k, v in kept.items() if k % keep_every == 0}
                completed.append(done)
                stamps.append(frame.stamps)
        failed_early = over > most_over and done < n
        if failed_early:
            break
        now = time.perf_counter() - start
        if done < next_up:
            overloaded = now - sent_N[done] > limit_s  # by the schedule, a generator that stood still would be
            silent = now - max(last_answer, sent_N[done]) > silence_s
            if overloaded or silent:
                break
    cpu_s, duration_s = time.process_time() - cpu_before, time.perf_counter() - start
    _end(connection, reader, unsent, abort=done < n, end_s=end_s)
    return {
        "sent": sent_N,
        "received": received_N,
        "stamps": np.array(stamps).reshape(-1, len(STAGES)) - start,
        "completed": np.array(completed, np.int64),
        "kept": np.array(list(kept), np.int64),
        "kept_sizes": np.array([len(answers) for answers in kept.values()], np.int64),
        "kept_bytes": np.frombuffer(b"".join(kept.values()), np.uint8),
        "overloaded": np.array(overloaded),
        "silent": np.array(silent),
        "failed_early": np.array(failed_early),
        "cpu_s": np.array(cpu_s),
        "duration_s": np.array(duration_s),
    }


def _send(connection: socket.socket, unsent: bytes) -> bytes:
    """Returns what the socket does not take yet."""
    try:
        return unsent[connection.send(unsent) :]
    except BlockingIOError:
        return unsent


def _end(connection: socket.socket, reader: FrameReader, unsent: bytes, *, abort: bool, end_s: float) -> None:
    """Tells the system that the window is over, and waits until it has understood; late answers are dropped.

    Raises:
      TimeoutError: it does not answer.
    """
    unsent += pack_end(abort=abort)
    until = time.perf_counter() + end_s
    while time.perf_counter() < until:
        unsent = _send(connection, unsent) if unsent else unsent
        select.select([connection], [connection] if unsent else [], [], POLL_S)
        reader.fill()
        while (frame := reader.next_answers()) is not None:
            if frame.completed == 0 and not any(frame.stamps):
                return
    raise TimeoutError


def arrays_to_bytes(arrays: Mapping[str, NDArray]) -> bytes:
    """Returns named arrays as the bytes of an .npz."""
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def arrays_of_bytes(content: bytes) -> dict[str, NDArray]:
    """Returns the named arrays of the bytes of an .npz; nothing in it is unpickled."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def be_prompt() -> dict[str, NDArray]:
    """Lets timers wake as early as Linux can, and asks for a priority above the model's and short slices of a core.

    Only a privileged process may have the priority, as root in a container. Real-time priority would take
    cores from the model whenever an answer comes, and so make the latencies longer that are to be measured.

    A process with a short slice is let in sooner when it wakes, without having more of the core; with the default one
    it waits for the end of the model's slice, where the model keeps all cores busy. Kernels before 6.12 do not know it,
    nor do other systems. What was not obtained shows in the queries' lag, which every row has.

    Returns:
      What was obtained: `niceness` (PRIORITY, unless it was refused) and `short_slice`, whether slices are short.
    """
    if sys.platform != "linux":
        return {"niceness": np.array(os.nice(0)), "short_slice": np.array(False)}
    library = ctypes.CDLL(None)
    library.prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    if platform.machine() in SCHED_SETATTR:
        attributes = struct.pack(SCHED_ATTR, 56, 0, 0, os.nice(0), 0, SLICE_NS, 0, 0, 0, 0)
        library.syscall(SCHED_SETATTR[platform.machine()], 0, ctypes.create_string_buffer(attributes), 0)
    return {"niceness": np.array(os.nice(0)), "short_slice": np.array(_slice_ns(library) == SLICE_NS)}


def _slice_ns(library: ctypes.CDLL) -> int:
    """Returns the slice that this process has, 0 where the kernel does not tell: older ones take a slice and drop it.

    Source: Linux, kernel/sched/syscalls.c, `get_params`: from 6.12 on the runtime of a fair task is its slice.
    """
    found = ctypes.create_string_buffer(struct.calcsize(SCHED_ATTR))
    if platform.machine() not in SCHED_SETATTR:
        return 0
    failed = library.syscall(SCHED_SETATTR[platform.machine()] + 1, 0, found, len(found), 0)
    return 0 if failed else struct.unpack(SCHED_ATTR, found.raw)[5]


def main(data_fd: int, control_fd: int) -> int:
    """Says what `be_prompt` obtained, and plays one schedule after another until the control connection is closed.

    Returns:
      The process's exit code: GAVE_UP if the system does not end a window, else 0.
    """
    obtained = be_prompt()
    gc.freeze()
    data, control = socket.socket(fileno=data_fd), Connection(control_fd)
    try:
        control.send_bytes(arrays_to_bytes(obtained))
    except ConnectionError:
        return 0
    while True:
        try:
            plan = arrays_of_bytes(control.recv_bytes())
        except (EOFError, ConnectionError):  # the latter where the other end had not read everything
            return 0
        gc.collect()
        gc.disable()  # a window makes no cycles
        try:
            ends = (plan[name].item() for name in ("limit_s", "silence_s", "end_s", "slo_s", "most_over"))
            seen = play(data, plan["due"], plan["sizes"], plan["rows"], *ends)
        except TimeoutError:
            return GAVE_UP
        except ConnectionError:
            return 0
        gc.enable()
        control.send_bytes(arrays_to_bytes(seen))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
