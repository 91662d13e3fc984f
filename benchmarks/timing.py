"""What must hold around a timed window: nothing compiles, no garbage from before is collected, all is warm."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from recjax.load.quiet_heap import quiet_heap

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class CompileCounter:
    """Counts the compilations of this process; `jax.monitoring` has no way to unregister, so make one."""

    def __init__(self) -> None:
        """Starts counting."""
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._on_event)

    def _on_event(self, event: str, duration_secs: float, **attributes: str | int) -> None:
        self.count += event == COMPILE_EVENT


def in_turn(calls: Mapping[str, Callable[[], Any]], window_s: float, fewest: int, most: int) -> dict[str, list[float]]:
    """Returns milliseconds of each call; whole rounds, every one in another random order, until the window is over.

    Args:
      calls: compiled and called before; what they return is waited for.
      window_s: seconds for all of them.
      fewest: rounds that are done however long they take.
      most: rounds that are done at most.
    """
    rng, latency_ms = np.random.default_rng(0), {name: list[float]() for name in calls}
    with quiet_heap():
        end = time.perf_counter() + window_s
        for done in range(most):
            if done >= fewest and time.perf_counter() >= end:
                break
            for name in rng.permutation(list(calls)):
                start = time.perf_counter()
                jax.block_until_ready(calls[name]())
                latency_ms[name].append((time.perf_counter() - start) * 1e3)
    return latency_ms
