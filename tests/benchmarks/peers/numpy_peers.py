"""Peers in plain NumPy, good and bad ones, that run in processes of their own as real ones do.

Each function that takes a task is a peer's `prepare`; `peer(name)` is the entry of that peer.
"""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.registry import Peer
from benchmarks.peers.workloads import Answer, Answers, BagSizes, Task, Workload

SIZES = BagSizes(tables=2, rows=20, dim=4, bag_length=3)
WORKLOAD = Workload(name="tiny_bags", sizes=SIZES, batch_sizes=(1, 4))
TURNS_FILE = "RECJAX_TEST_TURNS"  # environment: where calls are written down


def sum_of_bags(task: Task, rows: NDArray) -> NDArray:
    """Returns [B, tables x D] as loops would."""
    sizes = task.sizes
    assert isinstance(sizes, BagSizes)
    ids = task.columns["sparse_ids"][rows].reshape(len(rows), sizes.tables, sizes.bag_length)
    tables = [task.weights[f"table_c{index:02d}/table"] for index in range(sizes.tables)]
    return np.concatenate([table[ids[:, index]].sum(1) for index, table in enumerate(tables)], axis=1)


def honest(task: Task) -> Callable[[int], Answer]:
    def answer(rows: NDArray) -> Answers:
        started_s = time.monotonic()
        bags = sum_of_bags(task, rows)
        if path := os.environ.get(TURNS_FILE):
            with Path(path).open("a") as file:
                file.write(f"{os.getpid()} {started_s!r} {time.monotonic()!r} {len(rows)}\n")
        return {"bags": bags}

    return lambda batch_size: answer


def wrong(task: Task) -> Callable[[int], Answer]:
    return lambda batch_size: lambda rows: {"bags": sum_of_bags(task, rows) + np.float32(0.01)}


def loud(task: Task) -> Callable[[int], Answer]:
    def answer(rows: NDArray) -> Answers:
        print("a library says hello")
        os.write(1, b"and so does one in C\n")
        return {"bags": sum_of_bags(task, rows)}

    return lambda batch_size: answer


def fails_in_large_batches(task: Task) -> Callable[[int], Answer]:
    def compile_for(batch_size: int) -> Answer:
        if batch_size > 1:
            raise NotImplementedError("no kernel for\nthis shape")
        return lambda rows: {"bags": sum_of_bags(task, rows)}

    return compile_for


def dies_in_a_turn(task: Task) -> Callable[[int], Answer]:
    calls = 0

    def answer(rows: NDArray) -> Answers:
        nonlocal calls
        calls += 1
        if calls > 75:  # 69 come before the first turn in batches of 1, 21 in batches of 4; a turn has 3 or more
            os.write(2, b"fatal: heap corrupted\n")
            os._exit(3)
        time.sleep(1e-3)
        return {"bags": sum_of_bags(task, rows)}

    return lambda batch_size: answer


def hangs(task: Task) -> Callable[[int], Answer]:
    def compile_for(batch_size: int) -> Answer:
        time.sleep(60)
        raise AssertionError

    return compile_for


def never_waits(task: Task) -> Callable[[int], Answer]:
    def spin() -> None:
        while True:
            sum(range(1000))

    threading.Thread(target=spin, daemon=True).start()
    return honest(task)


def peer(function: str, **changed: Any) -> Peer:
    """Returns the peer whose `prepare` is the function of that name."""
    return Peer(**{"name": function, "prepare": f"numpy_peers:{function}", "needs": {}, "mode": "NumPy", **changed})
