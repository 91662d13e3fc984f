"""Checkpoints of a training run, and of a final model, written atomically by Orbax."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from recjax.config import Experiment, to_dict
from recjax.errors import CheckpointError

FREE_SPACE = "free space or give another folder; earlier checkpoints are intact"
ANOTHER_FOLDER = "give another output folder, or delete this one to start anew"
CHECKSUMS = "sha256.json"


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """The two newest checkpoints of one training run, under `directory`, one folder an epoch.

    Attributes:
      directory: made if it is not there.
      identity: JSON values that say which experiment this is; a checkpoint of another one is refused.
    """

    directory: Path
    identity: dict[str, Any]

    def save(self, epoch: int, tree: Any, records: list[dict[str, Any]]) -> None:
        """Writes the state after `epoch`; a folder appears under its final name only when it is whole.

        Then it gets a `sha256.json`, the digest of every file, which `restore` checks; a run that is stopped in
        between leaves a checkpoint without one, which is read all the same.

        Raises:
          CheckpointError: the disk is full or cannot be written; earlier checkpoints are untouched.
        """
        record = {"identity": self.identity, "arrays": _described(tree), "history": records}
        with (
            self._manager() as manager,
            _explained(f"cannot write checkpoint {self.directory / str(epoch)}", FREE_SPACE),
        ):
            args = ocp.args.Composite(state=ocp.args.StandardSave(tree), record=ocp.args.JsonSave(record))
            manager.save(epoch, args=args, force=True)
            _write_checksums(self.directory / str(epoch))

    def restore(self, like: Any) -> tuple[Any, list[dict[str, Any]]] | None:
        """Returns the newest checkpoint's tree and records, or None if there is none.

        Args:
          like: a tree of the same structure, shapes and types.

        Raises:
          CheckpointError: the newest checkpoint is corrupt, of another experiment, or of other arrays, as after a
            change of the data.
        """
        with self._manager() as manager:
            epoch = manager.latest_step()
            if epoch is None:
                return None
            where = self.directory / str(epoch)
            remedy = f"delete that folder to go on from {self._describe_previous(manager, epoch)}"
            if (where / CHECKSUMS).exists():
                _check_files(where, f"cannot read checkpoint {where}", remedy)
            with _explained(f"cannot read checkpoint {where}", remedy):
                record = manager.restore(epoch, args=ocp.args.Composite(record=ocp.args.JsonRestore())).record
            if record["identity"] != self.identity:
                different = sorted(k for k in self.identity if record["identity"].get(k) != self.identity[k])
                raise CheckpointError(
                    f"checkpoint {where} is of another experiment: {', '.join(different)} differ; {ANOTHER_FOLDER}"
                )
            expected, stored = _described(like), record["arrays"]
            for name in sorted(expected.keys() | stored.keys()):
                here, there = expected.get(name, "missing"), stored.get(name, "missing")
                if here != there:
                    raise CheckpointError(
                        f"checkpoint {where} does not fit, because the data or recjax changed since: {name} is {there} "
                        f"in it and {here} now; {ANOTHER_FOLDER}"
                    )
            with _explained(f"cannot read checkpoint {where}", remedy):
                abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
                args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
                return manager.restore(epoch, args=args).state, record["history"]

    def _manager(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        with _explained(f"cannot open checkpoint folder {self.directory}", "give a folder that can be written"):
            return ocp.CheckpointManager(self.directory.resolve(), options=options)

    def _describe_previous(self, manager: ocp.CheckpointManager, epoch: int) -> str:
        earlier = [step for step in manager.all_steps() if step < epoch]
        return f"epoch {max(earlier)}" if earlier else "the start"


def save_tree(directory: Path, tree: Any, metadata: dict[str, Any]) -> None:
    """Writes a tree of arrays and its JSON metadata into `directory`, replacing what was there when it is whole.

    `arrays/sha256.json` gets the digest of every file of arrays, which `load_tree` checks.

    Raises:
      CheckpointError: the disk is full or cannot be written; what was there before is untouched.
    """
    directory = directory.resolve()
    fresh = directory.with_name(directory.name + ".new")
    with _explained(f"cannot write {directory}", FREE_SPACE):
        shutil.rmtree(fresh, ignore_errors=True)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(fresh / "arrays", tree)
        _write_checksums(fresh / "arrays")
        (fresh / "metadata.json").write_text(json.dumps(metadata, indent=1) + "\n")
        if directory.exists():
            shutil.rmtree(directory)
        fresh.rename(directory)


def load_metadata(directory: Path, keys: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the JSON metadata that `save_tree` wrote.

    Raises:
      CheckpointError: there is none, it is not a JSON object, or one of `keys` is missing.
    """
    with _explained(f"cannot read {directory}", "train it first, or give the folder that `recjax train` printed"):
        metadata = json.loads((directory / "metadata.json").read_text())
    missing = [key for key in keys if not isinstance(metadata, dict) or key not in metadata]
    if missing or not isinstance(metadata, dict):
        raise CheckpointError(f"cannot read {directory}: metadata.json has no {', '.join(missing)}; train it again")
    return metadata


def load_tree(directory: Path) -> Any:
    """Returns the arrays that `save_tree` wrote, as nested dicts on the default device.

    Raises:
      CheckpointError: a file is missing or is not what was written.
    """
    path = directory.resolve() / "arrays"
    _check_files(path, f"cannot read {directory}", "train it again")
    with _explained(f"cannot read {directory}", "train it again"), ocp.StandardCheckpointer() as checkpointer:
        described = checkpointer.metadata(path).item_metadata
        return checkpointer.restore(path, jax.tree.map(ocp.utils.to_shape_dtype_struct, described.tree))


def _described(tree: Any) -> dict[str, str]:
    """Returns each array's type and shape by its path, as in {"best/items/table": "float32[1682, 64]"}."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _write_checksums(directory: Path) -> None:
    """Writes `sha256.json` into the folder, which appears when it is whole."""
    fresh = directory / f"{CHECKSUMS}.new"
    fresh.write_text(json.dumps(_checksums(directory), indent=1) + "\n")
    fresh.rename(directory / CHECKSUMS)


def _check_files(directory: Path, what: str, remedy: str) -> None:
    """Raises CheckpointError if a file below `directory` is not what its `sha256.json` says, or one is missing.

    Orbax would find out too, but where it does, reads that go on in the background complain on stderr.
    """
    with _explained(what, remedy):
        expected = json.loads((directory / CHECKSUMS).read_text())
        found = _checksums(directory)
        damaged = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if damaged:
        n_files = len(expected)
        raise CheckpointError(
            f"{what}: {len(damaged)} of {n_files} files are missing or damaged, {damaged[0]} first; {remedy}"
        )


def _checksums(directory: Path) -> dict[str, str]:
    """Returns the SHA-256 of every file below `directory`, but for those of checksums, by its relative path."""
    digests = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.name.startswith(CHECKSUMS):
            with path.open("rb") as file:
                digests[str(path.relative_to(directory))] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def experiment_identity(experiment: Experiment) -> dict[str, Any]:
    """Returns the experiment as JSON values with the names of its classes: equal only for the same experiment.

    A field of the model that `follows_from_others` is left out where it says nothing of its own, so that the
    experiments of before it came are still the same.
    """
    model = {"class": type(experiment.model).__name__, **to_dict(experiment.model)}
    for field in dataclasses.fields(experiment.model):  # type: ignore[arg-type]
        if field.metadata.get("follows_from_others") and model[field.name] == field.default:
            del model[field.name]
    return to_dict(experiment) | {"model": model, "transforms": [t.to_json() for t in experiment.transforms]}


def bytes_on_disk(directory: Path) -> int:
    """Returns the bytes of all files below `directory`."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


@contextlib.contextmanager
def _explained(what: str, remedy: str) -> Iterator[None]:
    """Turns whatever Orbax and TensorStore raise, which is many types, into one CheckpointError of one line.

    Orbax also logs each failure with its traceback through absl; within the block that is turned off.
    """
    logger = logging.getLogger("absl")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{what}: {reason}; {remedy}") from error
    finally:
        logger.disabled = was_disabled
