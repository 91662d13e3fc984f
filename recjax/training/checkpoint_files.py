"""What checkpoints and final models share: digests of files, deletion in one move, errors of one line, shardings."""

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from recjax.errors import CheckpointError

CHECKSUMS = "sha256.json"
WRITTEN_AFTER_CHECKSUMS = ("_CHECKPOINT_METADATA", "commit_success.txt")  # by Orbax; they hold no array and no record
BEING_DELETED = ".deleted"
FAILED = -2  # where an epoch, or -1 for none, is expected


def write_checksums(directory: Path) -> None:
    """Writes `sha256.json` into the folder, which appears when it is whole."""
    fresh = directory / f"{CHECKSUMS}.new"
    names = [str(path.relative_to(directory)) for path in sorted(directory.rglob("*")) if path.is_file()]
    digests = {name: _digest(directory / name) for name in names if Path(name).name not in WRITTEN_AFTER_CHECKSUMS}
    fresh.write_text(json.dumps(digests, indent=1) + "\n")
    fresh.rename(directory / CHECKSUMS)


def check_files(directory: Path, what: str, remedy: str) -> None:
    """Raises CheckpointError if a file below `directory` is not what its `sha256.json` says, or is missing.

    Orbax would find out too, but where it does, reads that go on in the background complain on stderr.
    """
    with explained(what, remedy):
        expected = json.loads((directory / CHECKSUMS).read_text())
        damaged = [name for name, digest in expected.items() if _digest(directory / name) != digest]
    if damaged:
        n_files = len(expected)
        raise CheckpointError(
            f"{what}: {len(damaged)} of {n_files} files are missing or damaged, {damaged[0]} first; {remedy}"
        )


def _digest(path: Path) -> str | None:
    """Returns the file's SHA-256, or None if there is no such file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def delete_folder(directory: Path) -> None:
    """Deletes the folder, if it is there, under another name: half of one never stands under its own."""
    if directory.exists():
        shutil.rmtree(directory.rename(name_while_deleted(directory)))


def name_while_deleted(directory: Path) -> Path:
    """Returns the name to give a folder that is to be deleted; nothing has it."""
    path = directory.with_name(directory.name + BEING_DELETED)
    shutil.rmtree(path, ignore_errors=True)
    return path


def abstract_tree(tree: Any) -> Any:
    """Returns the tree as ShapeDtypeStructs, of which those without a sharding get the default device's."""
    default = jnp.zeros(()).sharding
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or default),
        tree,
    )


def by_process_0(choose: Callable[[], int]) -> int:
    """Returns what `choose` returns, which process 0 alone calls, on every process; all fail where it does.

    Raises:
      CheckpointError: on the others, as `choose` failed on process 0, which raises its own error.
    """
    if jax.process_count() == 1:
        return choose()
    number = FAILED
    try:
        if jax.process_index() == 0:
            number = choose()
    finally:
        number = int(multihost_utils.broadcast_one_to_all(np.int32(number)))
    if number == FAILED:
        raise CheckpointError("process 0 could not use the checkpoint folder; its own line says why")
    return number


@contextlib.contextmanager
def explained(what: str, remedy: str) -> Iterator[None]:
    """Turns whatever Orbax and TensorStore raise, which is many types, into one CheckpointError of one line."""
    try:
        with without_orbax_logs():
            yield
    except CheckpointError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{what}: {reason}; {remedy}") from error


@contextlib.contextmanager
def without_orbax_logs() -> Iterator[None]:
    """Drops what Orbax logs through absl within the block: each failure with its traceback, from its threads too."""

    def keep(record: logging.LogRecord) -> bool:  # one for each block, as blocks nest
        return "orbax" not in record.pathname

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
