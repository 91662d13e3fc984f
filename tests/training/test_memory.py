"""Bytes that a training needs: by hand, and against the arrays of a state that is there."""

import dataclasses
import functools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from recjax.config import Dataset, Experiment, Parallel, Training
from recjax.errors import UserError
from recjax.evaluation import Data
from recjax.free_memory import FreeMemory
from recjax.models.matrix_factorization import MatrixFactorizationConfig
from recjax.training.first_step import PlannedStep, plan_step
from recjax.training.memory import (
    BATCHES_IN_FLIGHT,
    Needs,
    Tensor,
    check_fits,
    in_words,
    largest_tensors,
    training_needs,
    validation_bytes,
)
from recjax.training.pipeline import load_data, one_batch
from recjax.training.step import init_params
from recjax.transforms.protocol import chain

USERS, ITEMS, DIM, BATCH = 30, 24, 4, 8
PARAMS = 4 * (USERS + ITEMS) * (DIM + 1)  # bytes of two tables and two columns of biases
COUNTS = 3 * 4  # the step's number, and those of AdamW and of its schedule
COLUMNS = 4 * 4 * BATCH  # user, item, rating and weight


@pytest.fixture(scope="module")
def data(ratings_file: Path) -> Data:
    training = Training()
    dataset = Dataset(source=str(ratings_file), min_interactions=1, split="random")
    model = MatrixFactorizationConfig(embedding_dim=DIM)
    return load_data(Experiment(name="mf", dataset=dataset, model=model, training=training, finetuning=training))


def drawn(data: Data, model: Any) -> Any:
    return jax.eval_shape(lambda: init_params(model.build(data.schema), one_batch(data, 1), 0))


def plan(
    data: Data, table_optimizer: Any = "dense", parallel: Parallel | None = None, n_devices: int = 1
) -> tuple[PlannedStep, dict[str, np.ndarray]]:
    """Returns the training of a matrix factorisation, and a batch."""
    model = MatrixFactorizationConfig(embedding_dim=DIM)
    batch = next(iter(data.train_batches(BATCH, 0, 1)))
    training = Training(batch_size=BATCH, table_optimizer=table_optimizer)
    planned = plan_step(
        model,
        drawn(data, model),
        data.schema,
        batch,
        training,
        chain(),
        total_steps=10,
        parallel=parallel or Parallel(),
        jax_devices=jax.devices()[:n_devices],
    )
    return planned, batch


PJIT, PMAP = Parallel(strategy="pjit"), Parallel(strategy="pmap")
SHARDED = Parallel(strategy="pjit", fully_sharded=True)
BY_ROWS = Parallel(strategy="pjit", tables="row_wise")


def test_dense_adam_on_one_device(data: Data):
    assert (data.schema.n_users, data.schema.n_items) == (USERS, ITEMS)
    planned, batch = plan(data)
    needs = training_needs(planned, batch, keeps_drawn=True)
    assert needs.held == {
        "parameters": PARAMS,
        "optimizer state": 2 * PARAMS + COUNTS,
        "best parameters": PARAMS,
        "parameters as drawn": PARAMS,
        "batches": BATCHES_IN_FLIGHT * COLUMNS,
        "beside the batches": 0,
    }
    assert {moment: size for moment, size in needs.passing.items() if size} == {"gradients": PARAMS}
    assert needs.n_bytes == 6 * PARAMS + COUNTS + BATCHES_IN_FLIGHT * COLUMNS


def test_a_checkpoint_on_a_cpu_holds_the_state_and_the_writers_copy_of_all(data: Data):
    planned, batch = plan(data)
    state = 3 * PARAMS + COUNTS
    encoded = 2 * (4 * USERS * DIM)  # the users' table and one of its moments
    written = training_needs(planned, batch, saves=True).held["checkpoint being written"]
    assert written == 2 * state + PARAMS + encoded


@pytest.mark.parametrize(
    ("optimizer", "slots"), [("sgd", 0), ("rowwise_adagrad", 4 * 2 * (USERS + ITEMS)), ("lazy_adam", 2 * PARAMS)]
)
def test_row_updates_have_no_gradient_of_a_table(data: Data, optimizer: str, slots: int):
    planned, batch = plan(data, optimizer)
    needs = training_needs(planned, batch)
    assert needs.held["parameters"] == PARAMS
    assert needs.held["optimizer state"] == slots + COUNTS
    assert needs.held["parameters as drawn"] == 0
    assert needs.passing["gradients"] == 0


def test_devices_with_memories_of_their_own_hold_their_part(data: Data):
    # Of 30 rows 4 devices cannot share any evenly, nor of the one column of biases; of 4 columns they can.
    planned, batch = plan(data, parallel=SHARDED, n_devices=4)
    part = 4 * (USERS * DIM + ITEMS * DIM + ITEMS) // 4 + 4 * USERS
    needs = training_needs(planned, batch, sharing=1)
    assert needs.held["parameters"] == needs.held["best parameters"] == needs.passing["gradients"] == part
    assert needs.held["optimizer state"] == 2 * part + COUNTS
    assert needs.held["batches"] == BATCHES_IN_FLIGHT * COLUMNS // 4
    together = training_needs(planned, batch)
    assert together.held == {name: 4 * size for name, size in needs.held.items()}


def test_parameters_that_a_transform_starts_from_are_drawn_by_one_device(data: Data):
    planned, batch = plan(data, parallel=SHARDED, n_devices=4)
    count = functools.partial(training_needs, planned, batch, sharing=1)
    assert count().held["parameters as drawn"] == 0
    assert count().held["parameters"] < PARAMS
    assert count(keeps_drawn=True).held["parameters as drawn"] == PARAMS


def test_row_wise_tables_are_halved_by_two_devices(data: Data):
    planned, batch = plan(data, "rowwise_adagrad", BY_ROWS, 2)
    needs = training_needs(planned, batch, sharing=1)
    assert needs.held["parameters"] == PARAMS // 2
    assert needs.held["optimizer state"] == 4 * (USERS + ITEMS) + COUNTS
    # Outside a step tables are split by columns, of which biases have one, and slots are whole.
    best = 4 * (USERS + ITEMS) * (DIM // 2 + 1)
    assert needs.held["best parameters"] == best
    saving = training_needs(planned, batch, sharing=1, saves=True)
    assert saving.passing["next best parameters"] == best
    assert saving.held["checkpoint being written"] >= 3 * best + 2 * 4 * 2 * (USERS + ITEMS)
    assert needs.tensors[0] == Tensor("users/table", "float32", (USERS, DIM), 4 * 15 * DIM, "a device (row_wise)")


def test_replicas_hold_everything_each(data: Data):
    planned, batch = plan(data, parallel=PMAP, n_devices=4)
    needs = training_needs(planned, batch)
    assert needs.held["parameters"] == 4 * PARAMS
    assert needs.held["best parameters"] == PARAMS
    assert needs.held["batches"] == BATCHES_IN_FLIGHT * COLUMNS
    assert training_needs(planned, batch, sharing=1).held["batches"] == BATCHES_IN_FLIGHT * COLUMNS // 4


@pytest.mark.parametrize(
    ("optimizer", "parallel", "n_devices"),
    [
        ("dense", Parallel(), 1),
        ("lazy_adam", Parallel(), 1),
        ("dense", PJIT, 4),
        ("dense", SHARDED, 4),
        ("dense", PMAP, 4),
        ("rowwise_adagrad", BY_ROWS, 4),
        ("lazy_adam", Parallel(strategy="pjit", tables="table_wise"), 2),
        ("rowwise_adagrad", PMAP, 2),
    ],
    ids=lambda value: getattr(value, "strategy", value),
)
def test_a_state_that_is_there_has_the_bytes_that_were_counted(
    data: Data, optimizer: str, parallel: Parallel, n_devices: int
):
    planned, batch = plan(data, optimizer, parallel, n_devices)
    params = jax.tree.map(lambda shape: np.zeros(shape.shape, shape.dtype), planned.whole_like.params)
    state = planned.devices.first_state(planned.init, params)
    shards = [shard for leaf in jax.tree.leaves(state) for shard in leaf.addressable_shards]
    held = training_needs(planned, batch).held
    assert held["parameters"] + held["optimizer state"] == sum(shard.data.nbytes for shard in shards)
    of_each = [sum(s.data.nbytes for s in shards if s.device == device) for device in jax.devices()[:n_devices]]
    held = training_needs(planned, batch, sharing=1).held
    assert held["parameters"] + held["optimizer state"] == max(of_each)


def test_what_stands_beside_batches_counts_until_it_is_on_the_device(data: Data):
    planned, batch = plan(data)
    graph = {"rows": np.zeros(10, np.int64), "degree": np.zeros(6, np.float32)}  # 64-bit integers become 32-bit ones
    count = functools.partial(training_needs, planned)
    assert count({**batch, "context": graph}).held["beside the batches"] == 4 * 10 + 4 * 6
    assert count({**batch, "context": jax.device_put(graph)}).held["beside the batches"] == 0


def test_a_validation_needs_scores_and_masks_of_all_items(next_item: Data, data: Data):
    assert validation_bytes(next_item) == 256 * next_item.schema.n_items * 5
    assert validation_bytes(data) == 0
    planned, batch = plan(data)
    assert training_needs(planned, batch, scores_bytes=10_000_000).passing["validation"] == 10_000_000


def test_the_largest_tensors_come_first():
    shape = functools.partial(jax.ShapeDtypeStruct, dtype="float32")
    tensors = largest_tensors({"a": {"table": shape((10, 4))}, "kernel": shape((30, 2)), "bias": shape((2,))})
    assert list(map(str, tensors)) == [
        "kernel float32[30, 2] 0.2 kB",
        "a/table float32[10, 4] 0.2 kB",
        "bias float32[2] 0.0 kB",
    ]


@pytest.mark.parametrize(
    ("n_bytes", "words"),
    [
        (0, "0.0 kB"),
        (430_592, "430.6 kB"),
        (1_500_000, "1.5 MB"),
        (20_480_000_000, "20.5 GB"),
        (2 * 10**15, "2,000.0 TB"),
    ],
)
def test_bytes_in_words(n_bytes: int, words: str):
    assert in_words(n_bytes) == words


def needs_of(**held: int) -> Needs:
    table = Tensor("items/table", "float32", (1000, 500), 2_000_000)
    passing = {"gradients": 2_000_000, "validation": 1_000_000}
    return Needs(held=held, passing=passing, tensors=(table, *[dataclasses.replace(table, path=p) for p in "bcd"]))


def test_the_error_is_one_line_with_needs_free_the_three_largest_and_the_advice():
    needs = needs_of(parameters=9_000_000, counts=10)
    with pytest.raises(UserError) as refused:
        check_fits("training It", needs, FreeMemory(5_000_000, "gpu:0"), lambda free: f"buy {needs.n_bytes - free}")
    assert str(refused.value) == (
        "training It needs at least 11.0 MB of memory and 5.0 MB are free on gpu:0 (parameters 9.0 MB, gradients "
        "2.0 MB; largest: items/table float32[1000, 500] 2.0 MB; b float32[1000, 500] 2.0 MB; c float32[1000, 500] "
        "2.0 MB); buy 6000010"
    )


@pytest.mark.parametrize("free", [11_000_010, 10**12, None])
def test_what_fits_or_cannot_be_known_passes(free: int | None):
    def advise(free_bytes: int) -> str:
        raise AssertionError("nobody asked")

    check_fits("training It", needs_of(parameters=9_000_000, counts=10), FreeMemory(free, "this host"), advise)


def test_gradients_are_a_part_of_what_the_compiled_step_needs(data: Data):
    """The compiler's temporaries of a step of dense tables hold their gradients."""
    model = MatrixFactorizationConfig(embedding_dim=4096)
    batch = next(iter(data.train_batches(BATCH, 0, 1)))
    planned = plan_step(
        model, drawn(data, model), data.schema, batch, Training(batch_size=BATCH), chain(), total_steps=10
    )
    compiled = planned.step.lower(planned.whole_like, batch).compile()
    counted = training_needs(planned, batch).passing["gradients"]
    assert counted == 4 * (USERS + ITEMS) * 4097
    assert counted <= compiled.memory_analysis().temp_size_in_bytes <= 2 * counted
    assert math.isclose(counted, 885e3, rel_tol=0.01)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell a process's peak memory")
@pytest.mark.parametrize("optimizer", ["dense", "rowwise_adagrad"])
def test_a_training_takes_what_was_counted(optimizer: str, tmp_path: Path):
    """The peak of a process with wide tables less that of one with narrow ones, checkpoints written in both.

    What the checkpoints' writer holds beside a step depends on when it comes to run: the largest of three peaks counts,
    and of narrow tables, which need next to nothing, the smallest.
    """
    file = tmp_path / "ratings.csv"
    rows = [f"{i},{i},{1 + i % 5},{1_000_000_000 + i}" for i in range(20_000)]
    file.write_text("\n".join(["user,item,rating,timestamp", *rows]) + "\n")
    code = """
import re, sys
from pathlib import Path
from recjax.config import Dataset, Experiment, Training
from recjax.models.matrix_factorization import MatrixFactorizationConfig
from recjax.training.pipeline import load_data, train

_, file, optimizer, dim = sys.argv
training = Training(epochs=3, batch_size=1024, table_optimizer=optimizer)
dataset = Dataset(source=file, min_interactions=1, split="random")
model = MatrixFactorizationConfig(embedding_dim=int(dim))
experiment = Experiment(name="wide", dataset=dataset, model=model, training=training, finetuning=training)
train(experiment, load_data(experiment), folder=Path(file).parent / dim)
print(re.search("VmHWM:\\s+([0-9]+) kB", Path("/proc/self/status").read_text())[1])
"""

    def peak_bytes(dim: int) -> int:
        command = [sys.executable, "-c", code, str(file), optimizer, str(dim)]
        return 1024 * int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])

    def counted(dim: int) -> int:
        model = MatrixFactorizationConfig(embedding_dim=dim)
        training = Training(batch_size=1024, table_optimizer=optimizer)
        dataset = Dataset(source=str(file), min_interactions=1, split="random")
        data = load_data(Experiment(name="w", dataset=dataset, model=model, training=training, finetuning=training))
        batch, params = next(iter(data.train_batches(1024, 0, 1))), drawn(data, model)
        planned = plan_step(model, params, data.schema, batch, training, chain(), total_steps=10)
        return training_needs(planned, batch, saves=True).n_bytes

    taken = max(peak_bytes(1024) for _ in range(3)) - min(peak_bytes(16) for _ in range(3))
    print(f"{optimizer}: counted over taken {(counted(1024) - counted(16)) / taken:.2f}")
    assert 0.8 <= (counted(1024) - counted(16)) / taken <= 1.15
