"""A run that is killed at any moment goes on from its newest complete checkpoint as if nothing had been."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick_compile import quick_environment

from recjax.training.checkpoint import Checkpoints, complete_epochs, load_tree

IDENTITY = {"name": "a"}

# Copies the run's folder, as a kill would leave it, before every change that Python makes to a file or folder in it.
SAVE_AND_COPY = """
import os, shutil, sys, threading
from pathlib import Path
import jax, jax.numpy as jnp
from recjax.training.checkpoint import Checkpoints

jax.config.update("jax_platforms", "cpu")
run, copies, keep = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
copying, lock, seen = threading.local(), threading.Lock(), []

def copy_before(event, arguments):
    if event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir") or getattr(copying, "now", False):
        return
    copying.now = True
    with lock:
        copy = copies / f"{epoch}-{len(seen)}"
        try:
            state = sorted((str(path), path.is_file() and path.stat().st_size) for path in run.rglob("*"))
            if not seen or state != seen[-1]:
                shutil.copytree(run, copy)
                seen.append(state)
        except OSError:  # TensorStore's threads moved a file meanwhile: the copy would be of no single moment
            shutil.rmtree(copy, ignore_errors=True)
    copying.now = False

run.mkdir()
checkpoints = Checkpoints(run, {"name": "a"}, keep)
epoch = 0
sys.addaudithook(copy_before)
for epoch in range(1, keep + 3):
    tree = {"w": jnp.full((40, 30), epoch, jnp.float32), "step": jnp.int32(epoch)}
    checkpoints.save(epoch, tree, [{"epoch": n + 1} for n in range(epoch)])
"""


def like() -> dict[str, jax.Array]:
    return {"w": jnp.zeros((40, 30)), "step": jnp.int32(0)}


@pytest.mark.parametrize("keep", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_whatever_a_kill_leaves_is_the_checkpoint_before_or_after(tmp_path: Path, keep: int):
    copies = tmp_path / "copies"
    command = [sys.executable, "-c", SAVE_AND_COPY, str(tmp_path / "run"), str(copies), str(keep)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    kinds = set()
    for copy in sorted(copies.iterdir()):
        writing = int(copy.name.split("-")[0])
        names, complete = {path.name for path in copy.iterdir()}, complete_epochs(copy)
        kinds |= {name.partition(".")[2] for name in names} | {len(complete)}
        assert all(name in names for name in map(str, complete))
        restored = Checkpoints(copy, IDENTITY, keep).restore(like())
        if restored is None:
            assert writing == 1, copy
            assert not complete
        else:
            tree, records = restored
            epoch = int(tree["step"])
            assert epoch in (writing - 1, writing), copy
            np.testing.assert_array_equal(tree["w"], np.full((40, 30), epoch))
            assert records == [{"epoch": n} for n in range(1, epoch + 1)]
        assert sorted(path.name for path in copy.iterdir()) == [str(epoch) for epoch in complete]
    # The copies are of moments within the writing, between the rename and the deletion, and within the deletion.
    assert kinds == {"orbax-checkpoint-tmp", "", "deleted"} | set(range(keep + 2)), len(list(copies.iterdir()))


CONFIG = """
from recjax.config import Dataset, Experiment, Training
from recjax.models.dlrm_dcnv2 import DLRMDCNv2Config


def get_config():
    training = Training(epochs={epochs}, batch_size=32, learning_rate=1e-2, patience=0)
    return Experiment(
        name="tiny",
        dataset=Dataset(source={source!r}, min_interactions=1, split="random", ratios=(0.6, 0.2, 0.2)),
        model=DLRMDCNv2Config(embedding_dim=4, bottom_mlp=(4,), cross_ranks=(4,), top_mlp=(8,), dropout_rate=0.1),
        training=training,
        finetuning=training,
    )
"""
EPOCHS, KILLS = 120, 20


def start(config: Path, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "import sys; from recjax.cli import main; sys.exit(main(sys.argv[1:]))"]
    return subprocess.Popen(
        [*command, "train", str(config), "--out", str(folder)],
        env=quick_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()


def wait_for_a_save(process: subprocess.Popen[bytes], checkpoints: Path, timeout_s: float = 60) -> None:
    """Waits until the run has written something, beyond what it deletes when it goes on from an earlier one."""
    before, deadline = set(checkpoints.glob("[0-9]*")), time.monotonic() + timeout_s
    while process.poll() is None and not set(checkpoints.glob("[0-9]*")) - before:
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.long
def test_a_run_killed_twenty_times_gives_what_an_unbroken_one_gives(tmp_path: Path, ratings_file: Path):
    config, unbroken, killed = tmp_path / "tiny.py", tmp_path / "unbroken", tmp_path / "killed"
    config.write_text(CONFIG.format(epochs=EPOCHS, source=str(ratings_file)))
    process = start(config, unbroken)
    wait_for_a_save(process, unbroken / "checkpoints")
    started = time.monotonic()
    finish(process)
    epoch_s = (time.monotonic() - started) / EPOCHS
    moments, checkpoints, found = random.Random(0), killed / "checkpoints", []
    for kill in range(KILLS):
        process = start(config, killed)
        if kill % 5 == 4:
            time.sleep(moments.uniform(0, 3))  # before the first epoch as well
        else:
            wait_for_a_save(process, checkpoints)
            time.sleep(moments.uniform(0, 4 * epoch_s))
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, (kill, errors.decode())
        found.append({path.name for path in checkpoints.glob("*")} if checkpoints.exists() else set())
    progress = [max((int(name) for name in names if name.isdecimal()), default=0) for names in found]
    assert progress == sorted(progress)
    assert progress[-1] < EPOCHS
    assert any(name.endswith("-tmp") for names in found for name in names)  # some were within a write
    finish(start(config, killed))
    histories = [
        json.loads((folder / "checkpoints" / str(EPOCHS) / "record" / "metadata").read_text())["history"]
        for folder in (unbroken, killed)
    ]
    assert len(histories[0]) == EPOCHS
    assert histories[0] == histories[1]
    jax.tree.map(np.testing.assert_array_equal, load_tree(unbroken / "final"), load_tree(killed / "final"))
