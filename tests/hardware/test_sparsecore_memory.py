"""The programs of SparseCore tables compile for TPUs that are not there, each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from assertions import assert_one_line

from recjax.hardware.sparsecore_memory import ProgramMemory, SparseCoreMemory, main, markdown_table
from recjax.hardware.topology import environment, parse_target

REPOSITORY = Path(__file__).parents[2]
CHIPS = {"v5p:2x2x1": ("TPU v5", 4, 4), "v6e:2x2": ("TPU v6 lite", 4, 2), "v7x:2x2x1": ("TPU7x", 8, 2)}

# Two fields of one stack and one of another, 8 samples a SparseCore.
TABLES = """
import dataclasses, json, sys
import jax
from recjax.data.features import Field, LabelledSchema
from recjax.hardware.sparsecore_memory import sparsecore_memory
from recjax.hardware.topology import absent_devices, parse_target
from recjax.parallel.mesh import make_mesh
from recjax.parallel.sparsecore import input_shapes, make_sparsecore_tables, variable_shapes

target, *optimizers = sys.argv[1:]
schema = LabelledSchema(3, (Field("a", 1000, 3, "mean"), Field("b", 100, 2, "mean"), Field("c", 7, 1, "sum")))
mesh = make_mesh({"data": -1}, absent_devices(parse_target(target)))

def make(optimizer):
    batch = 8 * mesh.size * make_sparsecore_tables(schema, 12, mesh, 64 * mesh.size).sparsecores
    return make_sparsecore_tables(schema, 12, mesh, batch, optimizer=optimizer)
"""
MEMORY = TABLES + "print(json.dumps([dataclasses.asdict(sparsecore_memory(make(o))) for o in optimizers]))"
STEP = (
    TABLES
    + """
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from recjax.models.dlrm_dcnv2 import DLRMDCNv2Config
from recjax.parallel.sparsecore_step import SparseCoreState, make_sparsecore_train_step, without_tables

tables = make("lazy_adam")
module = DLRMDCNv2Config(embedding_dim=12, bottom_mlp=(16,), cross_ranks=(8,), top_mlp=(16, 8)).build(schema)

def over(spec, shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

B, optimizer = tables.batch_size, optax.adam(1e-3)
columns = {"dense": (B, 3), "labels": (B,), "weight": (B,), "sparse_ids": (B, 6)}
batch = {name: over(tables.rows, shape) for name, shape in columns.items()}
batch["sparse_ids"] = over(tables.rows, (B, 6), jnp.int32)
params = jax.eval_shape(lambda: module.init(jax.random.key(0), jax.tree.map(
    lambda x: jnp.zeros((1, *x.shape[1:]), x.dtype), batch), train=False, method="loss"))["params"]
dense = without_tables(params, schema)
replicated = lambda tree: jax.tree.map(lambda x: over(PartitionSpec(), x.shape, x.dtype), tree)
state = SparseCoreState(over(PartitionSpec(), (), jnp.int32), replicated(dense),
                        replicated(jax.eval_shape(optimizer.init, dense)), variable_shapes(tables))
formats = jax.tree.map(lambda x: x.format if x.format.layout else x.sharding, state)
step = jax.jit(make_sparsecore_train_step(module, tables, optimizer, 0), donate_argnums=0,
               out_shardings=(formats, NamedSharding(mesh, PartitionSpec())))
compiled = step.lower(state, batch, input_shapes(tables)).compile()
text, memory = compiled.as_text(), compiled.memory_analysis()
sizes = sum(x.size * 4 for x in jax.tree.leaves(variable_shapes(tables))) // mesh.size
print(json.dumps({"aliased": memory.alias_size_in_bytes, "variables": sizes,
                  "table_shapes": [str(list(x.shape)) for x in jax.tree.leaves(params) if x.shape[0] == 1000],
                  "text_has_1000_rows": "f32[1000,12]" in text}))
"""
)


def run_child(code: str, target: str, *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", code, target, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **environment(parse_target(target))},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def rounded(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def check_memory(said: dict[str, Any], target: str, slots: int) -> None:
    kind, devices, cores = CHIPS[target]
    assert (said["device"], said["devices"], said["sparsecores"], said["stacks"]) == (kind, devices, cores, 2)
    # Rows are rounded up to 8 a SparseCore, 12 columns to 16, 4 bytes each.
    rows = sum(rounded(n, 8 * devices * cores) for n in (1000, 100, 7))
    assert said["table_bytes"] == rows * 16 * 4 // devices
    assert said["slot_bytes"] == slots * said["table_bytes"]
    lookup, update = said["lookup"], said["update"]
    # What the compiler reads is what the layout says, but for the vectors that it keeps in place of a small table's.
    assert lookup["argument_bytes"] >= said["table_bytes"] + said["input_bytes"] - 1024
    assert update["argument_bytes"] >= (1 + slots) * said["table_bytes"]
    assert update["aliased_bytes"] >= (1 + slots) * said["table_bytes"]  # updated where it lies
    assert lookup["temporary_bytes"] > 0
    assert lookup["compile_s"] > 0


@pytest.mark.sparsecore_library
@pytest.mark.tpu_compiler
@pytest.mark.parametrize(
    "target", ["v6e:2x2", *(pytest.param(t, marks=pytest.mark.slow) for t in CHIPS if t != "v6e:2x2")]
)
def test_lookups_and_updates_compile(target: str):
    (said,) = run_child(MEMORY, target, "adagrad")
    check_memory(said, target, slots=1)


@pytest.mark.sparsecore_library
@pytest.mark.tpu_compiler
@pytest.mark.slow
@pytest.mark.parametrize("target", list(CHIPS))
def test_other_optimizers_compile(target: str):
    for said, slots in zip(run_child(MEMORY, target, "sgd", "lazy_adam"), (0, 2), strict=True):
        check_memory(said, target, slots)


@pytest.mark.sparsecore_library
@pytest.mark.tpu_compiler
@pytest.mark.slow
@pytest.mark.parametrize("target", list(CHIPS))
def test_a_whole_training_step_compiles(target: str):
    said = run_child(STEP, target)
    assert said["aliased"] >= said["variables"]
    # The model's own tables, which nothing reads, are in no program.
    assert said["table_shapes"] == ["[1000, 12]"]
    assert not said["text_has_1000_rows"]


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "recjax.hardware.sparsecore_memory", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.sparsecore_library
@pytest.mark.tpu_compiler
@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--devices=v4:2x2x1"], ("TPU v4 has no SparseCore that jax-tpu-embedding knows",)),
        (
            ["--devices=v6e:2x2", "--any-batch", "--samples=512"],
            ("does not fit TPU v6 lite", "give limits from measure_limits, fewer samples a SparseCore (512 now)"),
        ),
    ],
)
def test_what_cannot_be_compiled_is_one_line(arguments: list[str], parts: tuple[str, ...]):
    done = command(*arguments)
    assert done.returncode == 2
    error = [line for line in done.stderr.splitlines(keepends=True) if line.startswith("error: ")]
    assert_one_line("".join(error), *parts)


@pytest.mark.sparsecore_library
@pytest.mark.tpu_compiler
@pytest.mark.slow
def test_the_command_prints_a_row_a_slice():
    done = command(
        "--devices=v5p:2x2x1,v6e:2x2", "--samples=16", "--table-scale=0.001", "--embedding-dim=16", "--limits"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert lines[0].startswith("| hardware | SparseCores | stacks | tables, MB |")
    assert [line.split(" | ")[:2] for line in lines[2:4]] == [["| v5p:2x2x1", "4 x 4"], ["| v6e:2x2", "4 x 2"]]
    assert lines[5] == "| hardware | tables of the stack | ids | unique_ids | buffer |"
    assert sorted(" ".join(line.split(" | ")[1] for line in lines[7:]).split()) == sorted(
        2 * [f"C{number}" for number in range(1, 27)]  # every table is in one stack of each slice
    )


@pytest.mark.parametrize(
    ("devices", "parts"),
    [
        ("v6e:2x2,v9z:2x2", ("unknown accelerator 'v9z'", "valid: a100")),
        ("v6e:2x2x1", ("device 'v6e:2x2x1': 2x2x1 is no size of a v6e", "as v6e:4x4")),
        ("v6e:2x2,h200:8", ("h200:8 has no SparseCores", "as v5p:2x2x1")),
        ("v5e:2x2", ("v5e:2x2 has no SparseCores",)),
    ],
)
def test_hardware_without_sparsecores_is_refused(devices: str, parts: tuple[str, ...], capsys: pytest.CaptureFixture):
    assert main([f"--devices={devices}"]) == 2  # before any process is started
    assert_one_line(capsys.readouterr().err, *parts)


def test_a_row_of_the_table():
    program = ProgramMemory(
        argument_bytes=10_000_000,
        output_bytes=8_000_000,
        temporary_bytes=500_000,
        aliased_bytes=7_000_000,
        compile_s=1.26,
    )
    row = SparseCoreMemory(
        device="TPU v6 lite",
        devices=4,
        sparsecores=2,
        stacks=3,
        table_bytes=8_000_000,
        slot_bytes=0,
        input_bytes=300_000,
        lookup=program,
        update=program,
    )
    assert program.peak_bytes == 11_500_000  # 10 + 8 - 7 + 0.5 MB
    assert row.table_bytes_a_sparsecore == 4_000_000
    cells = "v6e:2x2 | 4 x 2 | 3 | 8.0 | 4.0 | 0.0 | 0.3 | 11.5 | 0.5 | 1.3 | 11.5 | 0.5 | 1.3"
    assert markdown_table({"v6e:2x2": row}).splitlines()[-1] == f"| {cells} |"
