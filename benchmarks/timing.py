"""What must hold around a timed window: nothing compiles, no garbage from before is collected, all is warm."""

import contextlib
import gc
from collections.abc import Iterator

import jax

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class CompileCounter:
    """Counts the compilations of this process; `jax.monitoring` has no way to unregister, so make one."""

    def __init__(self) -> None:
        """Starts counting."""
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._on_event)

    def _on_event(self, event: str, duration_secs: float, **attributes: str | int) -> None:
        self.count += event == COMPILE_EVENT


@contextlib.contextmanager
def quiet_heap() -> Iterator[None]:
    """Moves everything alive out of the garbage collector's sight for the window; collection stays on.

    A serving process does the same at start-up. Without it, a full collection walks the training code's
    objects in the middle of a window.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
