"""Two processes of four devices each, over gloo, have the losses of one device; so has the command line."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from quick_compile import quick_environment
from test_parallel_losses import (
    AGREE,
    CLIPPED,
    FULLY_SHARDED,
    HOT_ROWS,
    INT8,
    NAMES,
    PJIT,
    PMAP,
    ROW_WISE,
    TENSOR,
    on_one_device,
)

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
from test_parallel_losses import losses
from test_two_processes import CASES
found = {label: losses(*case) for label, case in CASES.items()}
if is_writer():
    Path(sys.argv[1]).write_text(json.dumps(found))
finish()
"""
TRAIN = (
    *("train", "configs/dlrm_dcnv2_movielens_small.py", "--set", "training.table_optimizer=rowwise_adagrad"),
    *("--set", "training.epochs=1", "--set", "training.batch_size=4096", "--set", "dataset.min_interactions=20"),
)
SPLIT = ("--set", "parallel.fully_sharded=true", "--set", "parallel.hot_rows=16")
CASES = {  # arguments of `losses`
    f"{name} {precision} {parallel.strategy}": (name, transforms, parallel, 8)
    for name in NAMES
    if name != CLIPPED
    for precision, transforms, parallel in (("fp32", (), PJIT), ("fp32", (), PMAP), ("int8", INT8, PJIT))
} | {
    "two devices of a process share each layer": ("sasrec", (), TENSOR, 8),
    "a device of each process shares each layer": ("sasrec", (), TENSOR, 2),
    "fully sharded": ("sasrec", (), FULLY_SHARDED, 8),
    "fully sharded beside tables with row updates": ("dlrm_dcnv2_by_rows", (), FULLY_SHARDED, 8),
    "row-wise tables": (CLIPPED, (), ROW_WISE, 4),  # "weekday" has seven rows
    "copied hot rows": ("dlrm_dcnv2_by_rows", (), HOT_ROWS, 8),
}


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
            env=quick_environment(**shared, RECJAX_PROCESS=str(process)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(2)
    ]
    try:
        written = [process.communicate(timeout=1800)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], written
    return written


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_device(tmp_path: Path, port: int):
    run_two(port, sys.executable, "-c", LOSSES, str(tmp_path / "losses.json"), str(TESTS), str(TESTS.parent))
    found = json.loads((tmp_path / "losses.json").read_text())
    assert found.keys() == CASES.keys()
    for label, (name, transforms, *_) in CASES.items():
        np.testing.assert_allclose(found[label], on_one_device(name, transforms), rtol=AGREE, err_msg=label)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("in_two", "in_one"),
    [
        (("--parallel=pjit", *SPLIT), ("--parallel=pjit", *SPLIT)),
        (("--parallel=pmap",), ("--parallel=pjit",)),
        ((), ("--parallel=pjit",)),  # several processes that are told nothing share the training
    ],
    ids=["pjit", "pmap", "nothing"],
)
def test_the_same_command_in_two_processes_writes_once(
    tmp_path: Path, port: int, in_two: tuple[str, ...], in_one: tuple[str, ...]
):
    command = (sys.executable, "-c", "from recjax.cli import main; exit(main())", *TRAIN)
    of_first, of_second = run_two(port, *command, *in_two, "--out", str(tmp_path / "two"))
    assert "final model in" in of_first
    assert ("16 hot" in of_first) == ("--parallel=pjit" in in_two)
    assert of_second == ""
    alone = quick_environment(JAX_NUM_CPU_DEVICES="8")
    subprocess.run((*command, *in_one, "--out", str(tmp_path / "one")), env=alone, check=True, timeout=600)
    history = {}
    for name in ("one", "two"):
        assert complete_epochs(tmp_path / name / "checkpoints") == [1]
        record = tmp_path / name / "checkpoints" / "1" / "record" / "metadata"
        history[name] = json.loads(record.read_text())["history"]
        assert "quality" in load_metadata(tmp_path / name / "final")
    losses = {name: [record["train_loss"] for record in records] for name, records in history.items()}
    np.testing.assert_allclose(losses["two"], losses["one"], rtol=AGREE)
