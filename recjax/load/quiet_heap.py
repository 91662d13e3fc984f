"""No garbage from before is collected in a timed window."""

import contextlib
import gc
from collections.abc import Iterator


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
