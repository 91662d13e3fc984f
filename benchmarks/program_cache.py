"""JAX's compilation cache, as the processes that measure one case share it: the first compiles, later ones read."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache


def keep_programs(folder: Path) -> None:
    """Lets JAX keep every program in the folder, however small, for the processes that come after this one."""
    _use(str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@contextlib.contextmanager
def kept_apart(name: str) -> Iterator[None]:
    """Keeps what is compiled inside in a folder of its own within the cache.

    Two variants may have the same program; each of them is compiled, and takes what that takes.
    """
    folder = jax.config.values["jax_compilation_cache_dir"]
    if folder is None:
        yield
        return
    _use(str(Path(folder) / name))
    try:
        yield
    finally:
        _use(folder)


def _use(folder: str) -> None:
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()  # or it stays where the first program was kept
