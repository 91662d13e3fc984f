import dataclasses
import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.config import Experiment, Parallel
from recjax.data.labelled import LabelledData
from recjax.errors import CheckpointError, UserError
from recjax.models.dlrm import DLRMConfig
from recjax.training.checkpoint import (
    Checkpoints,
    bytes_on_disk,
    complete_epochs,
    load_metadata,
    load_tree,
    save_tree,
)
from recjax.training.fit import EpochRecord, FitResult
from recjax.training.pipeline import train
from recjax.transforms.prune import prune

IDENTITY = {"name": "a", "training": {"learning_rate": 1e-3, "ratios": [0.8, 0.1]}}


def tree(value: float) -> dict[str, Any]:
    return {
        "w": jnp.full((40, 30), value, jnp.float32),
        "b": jnp.full(30, value, jnp.float32),
        "step": jnp.int32(value),
    }


def saved(folder: Path, epochs: int = 2) -> Checkpoints:
    checkpoints = Checkpoints(folder, IDENTITY)
    for epoch in range(1, epochs + 1):
        checkpoints.save(epoch, tree(epoch), [{"epoch": n} for n in range(1, epoch + 1)])
    return checkpoints


def test_restore_returns_the_newest_tree_and_records(tmp_path: Path):
    checkpoints = saved(tmp_path / "run", epochs=3)
    restored, records = checkpoints.restore(tree(0))
    jax.tree.map(np.testing.assert_array_equal, restored, tree(3))
    assert records == [{"epoch": 1}, {"epoch": 2}, {"epoch": 3}]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["2", "3"]  # the two newest


def test_no_checkpoint_is_none(tmp_path: Path):
    assert Checkpoints(tmp_path / "run", IDENTITY).restore(tree(0)) is None


class StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def pruning_experiment(dlrm_experiment: Experiment) -> Experiment:
    return dataclasses.replace(dlrm_experiment, transforms=(prune(0.5, update_every=2),))


@pytest.fixture(scope="module")
def resumed(
    pruning_experiment: Experiment, labelled: LabelledData, dlrm_params: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, FitResult, list[int]]:
    """Returns the folder of a run that broke after epoch 2, the finished run, and the epochs after the break."""

    def stop(record: EpochRecord, epochs: int) -> None:
        if record.epoch == 2:
            raise StoppedError

    folder = tmp_path_factory.mktemp("resumed") / "run"
    with pytest.raises(StoppedError):
        train(pruning_experiment, labelled, start=dlrm_params, folder=folder, on_epoch=stop)
    epochs: list[int] = []
    result = train(
        pruning_experiment,
        labelled,
        start=dlrm_params,
        folder=folder,
        on_epoch=lambda record, _: epochs.append(record.epoch),
    )
    return folder, result, epochs


def test_resumed_run_repeats_the_unbroken_one_bit_for_bit(
    pruning_experiment: Experiment, labelled: LabelledData, dlrm_params: Any, resumed: tuple[Path, FitResult, list[int]]
):
    unbroken = train(pruning_experiment, labelled, start=dlrm_params)
    _, result, epochs = resumed
    assert epochs == [3, 4]
    assert result.history == unbroken.history
    jax.tree.map(np.testing.assert_array_equal, result.params, unbroken.params)


@pytest.mark.parametrize("strategy", ["single", "pjit"])
def test_a_resumed_run_holds_no_more_than_an_unbroken_one(
    logistic_experiment: Experiment, labelled: LabelledData, tmp_path: Path, strategy: Any
):
    training = dataclasses.replace(
        logistic_experiment.training, epochs=2, patience=0, table_optimizer="rowwise_adagrad", table_learning_rate=0.01
    )
    model = DLRMConfig(embedding_dim=512, bottom_mlp=(8,), top_mlp=(8,))
    parallel = Parallel(strategy=strategy)
    wide = dataclasses.replace(logistic_experiment, model=model, training=training, parallel=parallel)
    held = []

    def live_bytes() -> int:
        gc.collect()
        shards = [shard.data for array in jax.live_arrays() for shard in array.addressable_shards]
        return sum({shard.unsafe_buffer_pointer(): shard.nbytes for shard in shards}.values())

    def note(record: EpochRecord, epochs: int) -> None:
        del epochs
        if record.epoch == 2:
            held.append(live_bytes() - before)

    def stop(record: EpochRecord, epochs: int) -> None:
        raise StoppedError

    before = live_bytes()
    train(wide, labelled, folder=tmp_path / "unbroken", on_epoch=note)
    with pytest.raises(StoppedError):
        train(wide, labelled, folder=tmp_path / "broken", on_epoch=stop)
    before = live_bytes()
    train(wide, labelled, folder=tmp_path / "broken", on_epoch=note)
    unbroken, resumed = held
    assert unbroken > 4 * 512 * sum(field.vocab_size for field in labelled.schema.fields)
    assert resumed <= 1.01 * unbroken


def test_a_finished_run_is_not_trained_again(
    pruning_experiment: Experiment, labelled: LabelledData, dlrm_params: Any, resumed: tuple[Path, FitResult, list[int]]
):
    def forbidden(*_: Any) -> None:
        raise AssertionError("trained again")

    folder, result, _ = resumed
    again = train(pruning_experiment, labelled, start=dlrm_params, folder=folder, on_epoch=forbidden)
    assert again.history == result.history
    jax.tree.map(np.testing.assert_array_equal, again.params, result.params)


def test_checkpoint_of_another_experiment_is_refused_by_its_differences(tmp_path: Path):
    saved(tmp_path / "run")
    other = Checkpoints(tmp_path / "run", IDENTITY | {"name": "b"})
    with pytest.raises(CheckpointError) as error:
        other.restore(tree(0))
    assert str(error.value) == (
        f"checkpoint {tmp_path / 'run' / '2'} is of another experiment: name differ; "
        "give another output folder, or delete this one to start anew"
    )


def test_training_of_another_experiment_is_refused(
    logistic_experiment: Experiment, labelled: LabelledData, tmp_path: Path
):
    short = dataclasses.replace(
        logistic_experiment, training=dataclasses.replace(logistic_experiment.training, epochs=1)
    )
    train(short, labelled, folder=tmp_path / "run")
    other = dataclasses.replace(short, training=dataclasses.replace(short.training, learning_rate=0.2))
    with pytest.raises(CheckpointError, match=r"another experiment: training.learning_rate differ"):
        train(other, labelled, folder=tmp_path / "run")


def truncate(folder: Path, pattern: str) -> int:
    files = [path for path in folder.rglob(pattern) if path.is_file()]
    for path in files:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return len(files)


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ("", "Unterminated string starting at: "),  # the checksums themselves
        ("state", r"\d+ of \d+ files are missing or damaged, state/"),
        ("record", r"\d+ of \d+ files are missing or damaged, record/"),
    ],
)
def test_corrupt_checkpoint_says_which_folder_to_delete_and_then_the_previous_one_serves(
    tmp_path: Path, part: str, reason: str
):
    checkpoints = saved(tmp_path / "run")
    newest = tmp_path / "run" / "2"
    assert truncate(newest / part, "*") > 0
    with pytest.raises(CheckpointError, match=f"^cannot read checkpoint {newest}: {reason}") as error:
        checkpoints.restore(tree(0))
    message = str(error.value)
    assert message.endswith("delete that folder to go on from epoch 1")
    assert "\n" not in message
    for path in sorted(newest.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    newest.rmdir()
    restored, records = checkpoints.restore(tree(0))
    jax.tree.map(np.testing.assert_array_equal, restored, tree(1))
    assert records == [{"epoch": 1}]


def test_corrupt_only_checkpoint_starts_anew_once_deleted(tmp_path: Path):
    checkpoints = saved(tmp_path / "run", epochs=1)
    truncate(tmp_path / "run" / "1", "*")
    with pytest.raises(CheckpointError, match=r"delete that folder to go on from the start$"):
        checkpoints.restore(tree(0))


def test_folder_without_checksums_is_passed_over_and_then_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    checkpoints, newest = saved(tmp_path / "run"), tmp_path / "run" / "2"
    (newest / "sha256.json").unlink()
    restored, records = checkpoints.restore(tree(0))
    jax.tree.map(np.testing.assert_array_equal, restored, tree(1))
    assert records == [{"epoch": 1}]
    assert capsys.readouterr().err == (
        f"checkpoint {newest} was not complete when the run stopped: going on from epoch 1\n"
    )
    checkpoints.save(2, tree(20), [])
    restored, _ = checkpoints.restore(tree(0))
    jax.tree.map(np.testing.assert_array_equal, restored, tree(20))
    assert capsys.readouterr().err == ""


def test_what_a_killed_run_was_writing_is_deleted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    for name in ("1.orbax-checkpoint-tmp", "0.deleted", "mine.deleted", "7.mine"):
        (tmp_path / name / "state").mkdir(parents=True)
    assert checkpoints.restore(tree(0)) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["7.mine", "mine.deleted"]
    assert capsys.readouterr().err == (
        f"checkpoint {tmp_path / '1'} was not complete when the run stopped: starting anew\n"
    )


def test_nothing_of_another_experiment_is_deleted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    checkpoints, writing = saved(tmp_path / "run"), tmp_path / "run" / "3.orbax-checkpoint-tmp"
    writing.mkdir()
    with pytest.raises(CheckpointError, match="another experiment: name differ"):
        Checkpoints(tmp_path / "run", IDENTITY | {"name": "b"}).restore(tree(0))
    assert writing.exists()
    assert capsys.readouterr().err == ""
    restored, _ = checkpoints.restore(tree(0))
    jax.tree.map(np.testing.assert_array_equal, restored, tree(2))
    assert not writing.exists()


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_as_many_are_kept_as_asked_for(tmp_path: Path, keep: int):
    checkpoints = Checkpoints(tmp_path, IDENTITY, keep)
    with checkpoints.saver() as save:
        for epoch in (5, 8, 9, 10):
            save(epoch, tree(epoch), [])
    assert complete_epochs(tmp_path) == [5, 8, 9, 10][-keep:]
    assert len(list(tmp_path.iterdir())) == keep
    restored, _ = checkpoints.restore(tree(0))
    jax.tree.map(np.testing.assert_array_equal, restored, tree(10))


def test_none_to_keep_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"^checkpoints to keep: 0; allowed: 1 or more$"):
        Checkpoints(tmp_path, IDENTITY, keep=0)


def test_a_save_returns_before_it_is_written_and_what_it_saved_may_be_given_away(tmp_path: Path):
    def noise() -> dict[str, jax.Array]:
        return {"w": jax.random.normal(jax.random.key(0), (1_000_000, 8))}  # 32 MB that do not compress

    checkpoints, records = Checkpoints(tmp_path, IDENTITY), [{"epoch": 1}]
    double = jax.jit(lambda tree: jax.tree.map(lambda array: array + array, tree), donate_argnums=0)
    state = noise()
    with checkpoints.saver() as save:
        save(1, state, records)
        assert complete_epochs(tmp_path) == []
        records[0]["epoch"] = 2
        for _ in range(5):
            state = double(state)
        jax.block_until_ready(state)
    restored, records = checkpoints.restore(state)
    np.testing.assert_array_equal(restored["w"], noise()["w"])
    assert records == [{"epoch": 1}]


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"w": jnp.zeros((3, 3))}, r"w is float32\[40, 30\] in it and float32\[3, 3\] now"),
        ({"b": jnp.zeros(30, jnp.bfloat16)}, r"b is float32\[30\] in it and bfloat16\[30\] now"),
        ({"new": {"x": jnp.zeros(3)}}, r"new/x is missing in it and float32\[3\] now"),
    ],
)
def test_checkpoint_of_other_arrays_is_refused_by_the_first_that_differs(
    tmp_path: Path, changes: dict[str, Any], difference: str
):
    checkpoints = saved(tmp_path / "run")
    newest = tmp_path / "run" / "2"
    with pytest.raises(
        CheckpointError,
        match=f"^checkpoint {newest} does not fit, because the data or recjax changed since: {difference}; "
        "give another output folder, or delete this one to start anew$",
    ):
        checkpoints.restore(tree(0) | changes)


def test_folder_that_cannot_be_made_is_explained(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="give a folder that can be written"):
        Checkpoints(tmp_path / "file" / "run", IDENTITY).save(1, tree(1), [])


FULL_DISK = """
import resource, sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
import jax, numpy as np
jax.config.update("jax_platforms", "cpu")
from recjax.errors import CheckpointError
from recjax.training.checkpoint import Checkpoints, load_metadata, load_tree, save_tree

folder = Path(sys.argv[1])
values = np.random.default_rng(0).standard_normal((300, 300)).astype(np.float32)  # 360 kB that do not compress
checkpoints = Checkpoints(folder / "run", {"name": "a"})
checkpoints.save(1, {"w": jax.numpy.asarray(values)}, [])
save_tree(folder / "final", {"w": jax.numpy.asarray(values)}, {"number": 1})
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # writes beyond it fail as on a full disk
for attempt in (
    lambda: checkpoints.save(2, {"w": jax.numpy.asarray(2 * values)}, []),
    lambda: save_tree(folder / "final", {"w": jax.numpy.asarray(2 * values)}, {"number": 2}),
):
    try:
        attempt()
    except CheckpointError as error:
        print(error)
    else:
        print("no error")
try:
    with checkpoints.saver() as save:
        save(2, {"w": jax.numpy.asarray(2 * values)}, [])
        print("training goes on")
        save(3, {"w": jax.numpy.asarray(3 * values)}, [])
        print("no error")
except CheckpointError as error:
    print(error)
restored, _ = checkpoints.restore({"w": jax.numpy.zeros((300, 300))})
assert (np.asarray(restored["w"]) == values).all()
assert load_metadata(folder / "final", ["number"]) == {"number": 1}
assert (np.asarray(load_tree(folder / "final")["w"]) == values).all()
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
checkpoints.save(2, {"w": jax.numpy.asarray(2 * values)}, [])
restored, _ = checkpoints.restore({"w": jax.numpy.zeros((300, 300))})
assert (np.asarray(restored["w"]) == 2 * values).all()
print("intact")
"""


def test_full_disk_is_explained_and_leaves_the_previous_checkpoint(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(lines) == 5, lines
    assert "Traceback" not in done.stderr
    assert lines[0].startswith(f"cannot write checkpoint {tmp_path / 'run' / '2'}: ")
    assert lines[0].endswith("; free space or give another folder; earlier checkpoints are intact")
    assert lines[1].startswith(f"cannot write {tmp_path / 'final'}: ")
    assert lines[2] == "training goes on"
    assert lines[3].startswith(f"cannot write checkpoint {tmp_path / 'run' / '2'}: ")
    assert lines[4] == "intact"


MIXED = {
    "params": {"dense": {"bias": np.array([1.5, -2], np.float32)}, "table": np.arange(6).reshape(2, 3)},
    "int8": {"layer": {"values": np.array([[-128, 127]], np.int8), "scale": np.array([[0.1, 0.2]], np.float32)}},
}


def test_save_tree_round_trips_every_type(tmp_path: Path):
    original = jax.tree.map(jnp.asarray, MIXED)
    original["params"]["rounded"] = jnp.array([1.0, 3.14159], jnp.bfloat16)
    save_tree(tmp_path / "model", original, {"number": 1, "names": ["a"]})
    loaded = load_tree(tmp_path / "model")
    assert jax.tree.structure(loaded) == jax.tree.structure(original)
    for read, written in zip(jax.tree.leaves(loaded), jax.tree.leaves(original), strict=True):
        assert isinstance(read, jax.Array)
        assert read.dtype == written.dtype
        np.testing.assert_array_equal(read, written)
    assert load_metadata(tmp_path / "model", ["number", "names"]) == {"number": 1, "names": ["a"]}
    assert bytes_on_disk(tmp_path / "model") >= sum(leaf.nbytes for leaf in jax.tree.leaves(original))


def test_save_tree_replaces_what_was_there_when_it_is_whole(tmp_path: Path):
    folder = tmp_path / "model"
    save_tree(folder, {"w": jnp.ones(3)}, {"number": 1})
    with pytest.raises(CheckpointError, match=f"cannot write {folder}: .*JSON serializable"):
        save_tree(folder, {"w": jnp.zeros(3)}, {"number": object()})
    np.testing.assert_array_equal(load_tree(folder)["w"], np.ones(3))
    assert load_metadata(folder, ["number"]) == {"number": 1}
    save_tree(folder, {"other": jnp.zeros(2)}, {"number": 2})  # what the failed attempt left is in nobody's way
    assert list(load_tree(folder)) == ["other"]
    assert load_metadata(folder, ["number"]) == {"number": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_loading_what_is_missing_or_corrupt_is_explained(tmp_path: Path):
    with pytest.raises(CheckpointError, match=f"cannot read {tmp_path / 'no'}: .*; train it first, or give the folder"):
        load_metadata(tmp_path / "no", [])
    with pytest.raises(CheckpointError, match=f"cannot read {tmp_path / 'no'}: .*; train it again"):
        load_tree(tmp_path / "no")
    save_tree(tmp_path / "model", {"w": jnp.ones((40, 30))}, {"a": 1})
    with pytest.raises(
        CheckpointError, match=f"cannot read {tmp_path / 'model'}: metadata.json has no b; train it again"
    ):
        load_metadata(tmp_path / "model", ["a", "b"])
    truncate(tmp_path / "model", "*")
    with pytest.raises(CheckpointError, match=f"cannot read {tmp_path / 'model'}: .*; train it first"):
        load_metadata(tmp_path / "model", [])
    with pytest.raises(CheckpointError, match=f"cannot read {tmp_path / 'model'}: .*; train it again"):
        load_tree(tmp_path / "model")
