"""Checkpoints of a training run, written in the background, and a final model's arrays; both atomic, by Orbax."""

import contextlib
import copy
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from recjax.config import Experiment, to_dict
from recjax.errors import CheckpointError, UserError
from recjax.progress import console
from recjax.training.checkpoint_files import (
    BEING_DELETED,
    CHECKSUMS,
    abstract_tree,
    by_process_0,
    check_files,
    delete_folder,
    explained,
    name_while_deleted,
    without_orbax_logs,
    write_checksums,
)

FREE_SPACE = "free space or give another folder; earlier checkpoints are intact"
ANOTHER_FOLDER = "give another output folder, or delete this one to start anew"
BEING_WRITTEN = ".orbax-checkpoint-tmp"  # how Orbax ends the name of what is no checkpoint yet
NONE = -1  # where an epoch is expected

Save = Callable[[int, Any, list[dict[str, Any]]], None]


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """The newest checkpoints of one training run, under `directory`, one folder an epoch.

    A checkpoint is complete when its folder has the epoch for a name and holds `sha256.json`, the digests of its files.
    It is written under another name, with its digests, and gets its own by one rename at the very end; an old one is
    renamed before it is deleted. So a run that is killed at any moment leaves complete checkpoints and folders that
    are none; `restore` takes the newest complete one and deletes those others.

    In a run of several processes each of them calls every method at the same point, on a folder that all of them see.
    Each writes and reads its own part of the arrays; process 0 does everything else.

    Attributes:
      directory: made if it is not there.
      identity: JSON values that say which experiment this is; a checkpoint of another one is refused.
      keep: how many to keep, at least 1; while one is written, one more is there.
    """

    directory: Path
    identity: dict[str, Any]
    keep: int = 2

    def __post_init__(self) -> None:
        """Raises UserError if none would be kept."""
        if self.keep < 1:
            raise UserError(f"checkpoints to keep: {self.keep}; allowed: 1 or more")

    def save(self, epoch: int, tree: Any, records: list[dict[str, Any]]) -> None:
        """Writes the state after `epoch`, and waits until it is written.

        Raises:
          CheckpointError: the disk is full or cannot be written; earlier checkpoints are untouched.
        """
        with self.saver() as save:
            save(epoch, tree, records)

    @contextlib.contextmanager
    def saver(self) -> Iterator[Save]:
        """Yields `save(epoch, tree, records)`, which writes in the background while training goes on.

        It returns when the arrays may be donated or deleted: Orbax then holds a copy in host memory, and on a CPU,
        where that copy is the array's own memory, JAX does not reuse memory that is held. The next save waits for
        the one before it, and the end of the block for the last.

        Raises:
          CheckpointError: by `save` or the end of the block: this or the previous checkpoint cannot be written;
            earlier ones are untouched.
        """
        writing = self.directory

        def add_checksums() -> None:  # called on process 0 when all files are written, just before the rename
            write_checksums(Path(checkpointer.get_temporary_path(writing.resolve()).get()))

        def finish() -> None:
            with explained(f"cannot write checkpoint {writing}", FREE_SPACE):
                checkpointer.wait_until_finished()
                if jax.process_index() == 0:
                    for old in complete_epochs(self.directory)[: -self.keep]:
                        delete_folder(self.directory / str(old))

        def save(epoch: int, tree: Any, records: list[dict[str, Any]]) -> None:
            nonlocal writing
            finish()
            writing = self.directory / str(epoch)
            record = {"identity": self.identity, "arrays": _described(tree), "history": copy.deepcopy(records)}
            with explained(f"cannot write checkpoint {writing}", FREE_SPACE):
                if jax.process_index() == 0:
                    delete_folder(writing)
                args = ocp.args.Composite(state=ocp.args.StandardSave(tree), record=ocp.args.JsonSave(record))
                checkpointer.save(writing.resolve(), args=args)

        with explained(f"cannot open checkpoint folder {self.directory}", "give a folder that can be written"):
            self.directory.mkdir(parents=True, exist_ok=True)
        options = ocp.AsyncOptions(post_finalization_callback=add_checksums)
        with (
            without_orbax_logs(),
            contextlib.closing(
                ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(), async_options=options)
            ) as checkpointer,
        ):
            try:
                yield save
            except BaseException:
                with contextlib.suppress(CheckpointError):  # the error that came first is the one to report
                    finish()
                raise
            finish()

    def restore(self, like: Any) -> tuple[Any, list[dict[str, Any]]] | None:
        """Returns the newest complete checkpoint's tree and records, or None if there is none.

        A line tells the user of an epoch that is lost because the run was stopped while it was written.

        Args:
          like: a tree of the same structure, shapes and types, of arrays or of ShapeDtypeStructs. Each array is read
            into the sharding of its counterpart, every device its own part, however it was sharded when it was
            saved; where a counterpart has no sharding, onto the default device.

        Raises:
          CheckpointError: the newest complete checkpoint is corrupt, of another experiment, or of other arrays, as
            after a change of the data.
        """
        epoch = by_process_0(lambda: self._newest(like))
        if epoch == NONE:
            return None
        where = self.directory / str(epoch)
        with (
            explained(f"cannot read checkpoint {where}", self._without(epoch)),
            ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer,
        ):
            args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_tree(like)))
            return checkpointer.restore(where.resolve(), args=args).state, _record(where)["history"]

    def _newest(self, like: Any) -> int:
        """Returns the epoch of the newest complete checkpoint, which is found sound and fitting, or NONE.

        What a killed run left behind is deleted, and the user is told what it costs.
        """
        epochs = complete_epochs(self.directory)
        if not epochs:
            self._delete_incomplete(epochs)
            return NONE
        where, remedy = self.directory / str(epochs[-1]), self._without(epochs[-1])
        check_files(where, f"cannot read checkpoint {where}", remedy)
        with explained(f"cannot read checkpoint {where}", remedy):
            record = _record(where)
        if record["identity"] != self.identity:
            different = ", ".join(differing_fields(self.identity, record["identity"]))
            raise CheckpointError(f"checkpoint {where} is of another experiment: {different} differ; {ANOTHER_FOLDER}")
        expected, stored = _described(like), record["arrays"]
        for name in sorted(expected.keys() | stored.keys()):
            here, there = expected.get(name, "missing"), stored.get(name, "missing")
            if here != there:
                raise CheckpointError(
                    f"checkpoint {where} does not fit, because the data or recjax changed since: {name} is {there} "
                    f"in it and {here} now; {ANOTHER_FOLDER}"
                )
        self._delete_incomplete(epochs)
        return epochs[-1]

    def _delete_incomplete(self, epochs: list[int]) -> None:
        """Deletes what a killed run was writing or deleting, and says which epoch is lost with it, if one is.

        A folder with an epoch for a name and no digests is left alone: who knows what it is; `save` replaces it.
        """
        lost = {int(path.name) for path in self.directory.glob("*") if path.name.isdecimal()} - set(epochs)
        with explained(f"cannot open checkpoint folder {self.directory}", "give a folder that can be written"):
            for path in self.directory.glob("*.*"):
                epoch, dot, ending = path.name.partition(".")
                if epoch.isdecimal() and dot + ending in (BEING_WRITTEN, BEING_DELETED):
                    shutil.rmtree(path)
                    lost.add(int(epoch))
        if lost and max(lost) > max(epochs, default=NONE):
            where = self.directory / str(max(lost))
            going_on = f"going on from epoch {epochs[-1]}" if epochs else "starting anew"
            console.print(f"checkpoint {where} was not complete when the run stopped: {going_on}", markup=False)

    def _without(self, epoch: int) -> str:
        earlier = [step for step in complete_epochs(self.directory) if step < epoch]
        return f"delete that folder to go on from {f'epoch {earlier[-1]}' if earlier else 'the start'}"


def complete_epochs(directory: Path) -> list[int]:
    """Returns the epochs of the complete checkpoints in a folder of `Checkpoints`, in order; none if there is none."""
    folders = [path.parent.name for path in directory.glob(f"*/{CHECKSUMS}")]
    return sorted(int(name) for name in folders if name.isdecimal())


def save_tree(directory: Path, tree: Any, metadata: dict[str, Any]) -> None:
    """Writes a tree of arrays and its JSON metadata into `directory`, replacing what was there when it is whole.

    `arrays/sha256.json` gets the digest of every file of arrays, which `load_tree` checks. The arrays may be sharded;
    in a run of several processes each of them calls this for arrays of all, or one of them for its own. The old folder
    is renamed, then the new one: a kill between the two leaves none, and the run that is started again writes it.

    Raises:
      CheckpointError: the disk is full or cannot be written; what was there before is untouched.
    """
    directory = directory.resolve()
    fresh = directory.with_name(directory.name + ".new")

    def replace() -> int:
        write_checksums(fresh / "arrays")
        (fresh / "metadata.json").write_text(json.dumps(metadata, indent=1) + "\n")
        old = name_while_deleted(directory)
        if directory.exists():
            directory.rename(old)
        fresh.rename(directory)
        shutil.rmtree(old, ignore_errors=True)
        return NONE

    is_own = all(leaf.is_fully_addressable for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array))
    options = ocp.options.MultiprocessingOptions()
    if is_own and jax.process_count() > 1:
        process = jax.process_index()
        options = ocp.options.MultiprocessingOptions(process, {process}, f"process_{process}")
        tree = jax.tree.map(np.asarray, tree)  # Orbax takes no array of a single process for one of the run
    with (
        explained(f"cannot write {directory}", FREE_SPACE),
        ocp.StandardCheckpointer(multiprocessing_options=options) as checkpointer,
    ):
        if is_own or jax.process_index() == 0:
            shutil.rmtree(fresh, ignore_errors=True)
        checkpointer.save(fresh / "arrays", tree)
        checkpointer.wait_until_finished()
        if is_own:
            replace()
        else:
            by_process_0(replace)


def load_metadata(directory: Path, keys: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the JSON metadata that `save_tree` wrote.

    Raises:
      CheckpointError: there is none, it is not a JSON object, or one of `keys` is missing.
    """
    with explained(f"cannot read {directory}", "train it first, or give the folder that `recjax train` printed"):
        metadata = json.loads((directory / "metadata.json").read_text())
    missing = [key for key in keys if not isinstance(metadata, dict) or key not in metadata]
    if missing or not isinstance(metadata, dict):
        raise CheckpointError(f"cannot read {directory}: metadata.json has no {', '.join(missing)}; train it again")
    return metadata


def load_tree(directory: Path) -> Any:
    """Returns the arrays that `save_tree` wrote, as nested dicts on the default device, however they were sharded.

    Raises:
      CheckpointError: a file is missing or is not what was written.
    """
    path = directory.resolve() / "arrays"
    check_files(path, f"cannot read {directory}", "train it again")
    with explained(f"cannot read {directory}", "train it again"), ocp.StandardCheckpointer() as checkpointer:
        stored = checkpointer.metadata(path).item_metadata.tree
        unsharded = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), stored)
        return checkpointer.restore(path, abstract_tree(unsharded))


def _described(tree: Any) -> dict[str, str]:
    """Returns each array's type and shape by its path, as in {"best/items/table": "float32[1682, 64]"}."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _record(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / "record" / "metadata").read_text())  # Orbax's name for the file of a JsonSave


def experiment_identity(experiment: Experiment) -> dict[str, Any]:
    """Returns the experiment as JSON values with the names of its classes: equal only for the same experiment.

    A field of the model that `follows_from_others` is left out where it says nothing of its own, so that the
    experiments of before it came are still the same.
    """
    model = {"class": type(experiment.model).__name__, **to_dict(experiment.model)}
    for field in dataclasses.fields(experiment.model):  # type: ignore[arg-type]
        if field.metadata.get("follows_from_others") and model[field.name] == field.default:
            del model[field.name]
    identity = to_dict(experiment) | {"model": model, "transforms": [t.to_json() for t in experiment.transforms]}
    del identity["parallel"]  # where it is computed; a run may go on elsewhere
    return identity


def differing_fields(identity: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Returns the dotted names of what two experiments' identities do not share, as "training.epochs"."""
    found = []
    for name in sorted(identity.keys() | other.keys()):
        here, there = identity.get(name), other.get(name)
        if isinstance(here, dict) and isinstance(there, dict):
            found += [f"{name}.{inner}" for inner in differing_fields(here, there)]
        elif here != there:
            found.append(name)
    return found


def bytes_on_disk(directory: Path) -> int:
    """Returns the bytes of all files below `directory`."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
