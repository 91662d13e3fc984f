"""What eight devices saved is read by four, two and one, by one process or by two."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.training.checkpoint import Checkpoints, load_metadata, load_tree

# The part of each script that makes the tree: a table by rows, one by columns, one replicated, in three types.
COMMON = """
import json, sys, warnings
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

warnings.simplefilter("error")
warnings.filterwarnings("ignore", "Error reading persistent compilation cache entry")  # of another process
jax.config.update("jax_platforms", "cpu")

folder, job = Path(sys.argv[1]), json.loads(sys.argv[2])
say = Path(sys.argv[3]).write_text  # gloo's threads write into stdout, and into each other's lines
if "process" in job:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{job['port']}", num_processes=2, process_id=job["process"])

from recjax.errors import CheckpointError
from recjax.training.checkpoint import Checkpoints, load_metadata, load_tree, save_tree

VALUES = {
    "rows": np.arange(64 * 6, dtype=np.float32).reshape(64, 6),
    "columns": np.arange(10 * 16, dtype=np.int32).reshape(10, 16),
    "replicated": np.arange(24).reshape(8, 3).astype(jnp.bfloat16),
    "step": np.int32(7),
}
SPECS = {"rows": P("model"), "columns": P(None, "model"), "replicated": P(), "step": P()}
checkpoints = Checkpoints(folder / "run", {"name": "a"})

def shardings(n_devices):
    mesh = Mesh(np.array(jax.devices()[:n_devices]), ("model",))
    return {name: NamedSharding(mesh, spec) for name, spec in SPECS.items()}

def put(values, n_devices):
    make = lambda value, sharding: jax.make_array_from_callback(np.shape(value), sharding, lambda i: value[i])
    return jax.tree.map(make, values, shardings(n_devices))

def like(n_devices):
    struct = lambda value, sharding: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding)
    return jax.tree.map(struct, VALUES, shardings(n_devices))

def check(tree, n_devices, factor):
    for name, array in tree.items():
        assert array.sharding == shardings(n_devices)[name], (name, array.sharding)
        for shard in array.addressable_shards:
            np.testing.assert_array_equal(shard.data, factor * VALUES[name][shard.index], err_msg=name)
"""

SAVE = """
n = len(jax.devices())
bump = jax.jit(lambda tree: jax.tree.map(lambda array: array + array, tree), donate_argnums=0)
tree = put(VALUES, n)
with checkpoints.saver() as save:
    for epoch in (1, 2, 3):  # 1, 2 and 4 times the values; each is given away as soon as it is saved
        save(epoch, tree, [{"epoch": epoch}])
        tree = bump(tree)
save_tree(folder / "final", put(VALUES, n), {"number": 1})
say("saved")
"""

RESTORE = """
for n in job["restore_on"]:
    tree, records = checkpoints.restore(like(n))
    assert records == [{"epoch": 3}]
    check(tree, n, 4)
    tree, _ = checkpoints.restore(put(VALUES, n))
    check(tree, n, 4)
final = load_tree(folder / "final")
for name, array in final.items():
    assert array.sharding.device_set == {jax.local_devices()[0]}, array.sharding
    np.testing.assert_array_equal(array, VALUES[name])
say("restored")
"""


def start(script: str, folder: Path, devices: int, **job: Any) -> tuple[subprocess.Popen[str], Path]:
    """Returns the process, and the file that will have what it says."""
    said = folder / f"said-{job.get('process', 0)}.txt"
    said.unlink(missing_ok=True)
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    process = subprocess.Popen(
        [sys.executable, "-c", COMMON + script, str(folder), json.dumps(job), str(said)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return process, said


def finish(started: list[tuple[subprocess.Popen[str], Path]]) -> list[str]:
    """Returns what each process said, once all have ended well."""
    try:
        errors = [process.communicate(timeout=120)[1] for process, _ in started]
    finally:
        for process, _ in started:
            process.kill()
    assert [process.returncode for process, _ in started] == [0] * len(started), errors
    return [said.read_text() for _, said in started]


def two_processes(script: str, folder: Path, **job: Any) -> list[str]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return finish([start(script, folder, 4, port=port, process=process, **job) for process in (0, 1)])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder that a process with eight devices wrote."""
    folder = tmp_path_factory.mktemp("eight")
    assert finish([start(SAVE, folder, 8)]) == ["saved"]
    return folder


def test_one_device_reads_what_eight_wrote(saved: Path):
    like = {
        "rows": jnp.zeros((64, 6)),
        "columns": jnp.zeros((10, 16), jnp.int32),
        "replicated": jax.ShapeDtypeStruct((8, 3), jnp.bfloat16),
        "step": jnp.int32(0),
    }
    tree, records = Checkpoints(saved / "run", {"name": "a"}).restore(like)
    assert records == [{"epoch": 3}]
    np.testing.assert_array_equal(tree["rows"], 4 * np.arange(64 * 6, dtype=np.float32).reshape(64, 6))
    np.testing.assert_array_equal(tree["columns"], 4 * np.arange(160).reshape(10, 16))
    np.testing.assert_array_equal(tree["replicated"], 4 * np.arange(24).reshape(8, 3).astype(jnp.bfloat16))
    assert (tree["step"], tree["step"].dtype) == (28, jnp.int32)
    assert all(array.sharding == jnp.zeros(()).sharding for array in tree.values())
    final = load_tree(saved / "final")
    np.testing.assert_array_equal(final["rows"], np.arange(64 * 6, dtype=np.float32).reshape(64, 6))
    assert all(array.sharding == jnp.zeros(()).sharding for array in final.values())
    assert load_metadata(saved / "final") == {"number": 1}


def test_four_and_two_devices_read_what_eight_wrote(saved: Path):
    """In a process that has no more than four."""
    assert finish([start(RESTORE, saved, 4, restore_on=[4, 2, 1])]) == ["restored"]


REFUSED = """
try:
    Checkpoints(folder / "run", {"name": "b"}).restore(like(8))
except CheckpointError as error:
    say(str(error))
"""


@pytest.mark.slow
def test_two_processes_save_together_and_read_together(tmp_path: Path, saved: Path):
    assert two_processes(SAVE, tmp_path) == ["saved", "saved"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["2", "3"]
    assert two_processes(RESTORE, tmp_path, restore_on=[8]) == ["restored", "restored"]
    assert finish([start(RESTORE, tmp_path, 4, restore_on=[4, 1])]) == ["restored"]
    assert two_processes(RESTORE, saved, restore_on=[8]) == ["restored", "restored"]
    first, second = two_processes(REFUSED, tmp_path)
    assert first.startswith(f"checkpoint {tmp_path / 'run' / '3'} is of another experiment: name differ; ")
    assert second == "process 0 could not use the checkpoint folder; its own line says why"
