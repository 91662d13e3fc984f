"""Two processes of four devices each, over gloo, have the losses of one device; so has the command line."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_parallel_losses import AGREE, INT8, NAMES, on_one_device

from recjax.training.checkpoint import complete_epochs, load_metadata

TESTS = Path(__file__).parent
LOSSES = """
import json, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
import jax
jax.config.update("jax_platforms", "cpu")
from recjax.parallel.start import finish, is_writer, start
start()
from test_parallel_losses import CLIPPED, INT8, NAMES, PJIT, PMAP, losses
found = {}
for name in (name for name in NAMES if name != CLIPPED):
    for precision, transforms in (("fp32", ()), ("int8", INT8)):
        for parallel in (PJIT, PMAP):
            found[f"{name} {precision} {parallel.strategy}"] = losses(name, transforms, parallel, 8)
if is_writer():
    Path(sys.argv[1]).write_text(json.dumps(found))
finish()
"""
TRAIN = (
    *("train", "configs/dlrm_dcnv2_movielens_small.py", "--set", "training.table_optimizer=rowwise_adagrad"),
    *("--set", "training.epochs=1", "--set", "training.batch_size=1024", "--set", "dataset.min_interactions=20"),
)


@pytest.fixture
def port() -> int:
    """Returns a port of this host that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_two(port: int, *command: str) -> list[str]:
    """Returns what each of two processes with four devices wrote, once both have ended well."""
    shared = {"RECJAX_COORDINATOR": f"127.0.0.1:{port}", "RECJAX_PROCESSES": "2", "JAX_NUM_CPU_DEVICES": "4"}
    running = [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "RECJAX_PROCESS": str(process)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(2)
    ]
    try:
        written = [process.communicate(timeout=900)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], written
    return written


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_device(tmp_path: Path, port: int):
    run_two(port, sys.executable, "-c", LOSSES, str(tmp_path / "losses.json"), str(TESTS), str(TESTS.parent))
    found = json.loads((tmp_path / "losses.json").read_text())
    assert len(found) == 4 * (len(NAMES) - 1)
    for key, losses in found.items():
        name, precision, _ = key.split()
        expected = on_one_device(name, INT8 if precision == "int8" else ())
        np.testing.assert_allclose(losses, expected, rtol=AGREE, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["pjit", "pmap"])
def test_the_same_command_in_two_processes_writes_once(tmp_path: Path, port: int, strategy: str):
    command = (sys.executable, "-c", "from recjax.cli import main; exit(main())", *TRAIN, f"--parallel={strategy}")
    of_first, of_second = run_two(port, *command, "--out", str(tmp_path / "two"))
    assert "final model in" in of_first
    assert of_second == ""
    alone = {**os.environ, "JAX_NUM_CPU_DEVICES": "8"}
    subprocess.run((*command, "--out", str(tmp_path / "one")), env=alone, check=True, timeout=600)
    history = {}
    for name in ("one", "two"):
        assert complete_epochs(tmp_path / name / "checkpoints") == [1]
        record = tmp_path / name / "checkpoints" / "1" / "record" / "metadata"
        history[name] = json.loads(record.read_text())["history"]
        assert "quality" in load_metadata(tmp_path / name / "final")
    losses = {name: [record["train_loss"] for record in records] for name, records in history.items()}
    np.testing.assert_allclose(losses["two"], losses["one"], rtol=AGREE)
