"""Losses on any number of devices, under every strategy, are those of one device."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import numpy as np
import pytest

from recjax.config import Dataset, Experiment, Parallel, Training
from recjax.evaluation import Data
from recjax.models.dlrm_dcnv2 import DLRMDCNv2Config
from recjax.models.hstu import HSTUConfig
from recjax.models.mult_vae import MultVAEConfig
from recjax.models.sasrec import SASRecConfig
from recjax.training.devices import TrainingDevices
from recjax.training.first_step import plan_step
from recjax.training.pipeline import load_data, set_up
from recjax.transforms.protocol import chain
from recjax.transforms.quantize import quantize

STEPS = 6
AGREE = 1e-5  # of a loss
INT8 = (quantize(bits=8),)

MODELS = {
    "sasrec": (SASRecConfig(embedding_dim=16, heads=2, mlp_dims=(32,), loss_chunk=32), "leave_last_one_out", 16),
    "hstu": (
        HSTUConfig(embedding_dim=16, layers=1, heads=2, key_dim=8, value_dim=8, loss_chunk=32),
        "leave_last_one_out",
        16,
    ),
    "dlrm_dcnv2": (
        DLRMDCNv2Config(embedding_dim=8, bottom_mlp=(16,), cross_ranks=(8,), top_mlp=(32, 16), dropout_rate=0.1),
        "random",
        64,
    ),
    "mult_vae": (MultVAEConfig(encoder_dims=(32,), latent_dim=8, decoder_dims=(32,)), "random_by_user", 16),
}
CLIPPED = "dlrm_dcnv2_by_rows_clipped"
TABLE_OPTIMIZERS = {"dlrm_dcnv2_by_rows": "rowwise_adagrad", CLIPPED: "lazy_adam"}
NAMES = (*MODELS, *TABLE_OPTIMIZERS)


@functools.cache
def experiment(name: str) -> tuple[Experiment, Data]:
    """Returns a small experiment on the shipped MovieLens, and its data."""
    config, split, batch_size = MODELS[name.partition("_by_rows")[0]]
    training = Training(
        batch_size=batch_size,
        learning_rate=3e-3,
        table_optimizer=TABLE_OPTIMIZERS.get(name, "dense"),
        max_grad_norm=0.1 if name == CLIPPED else 0.0,
    )
    made = Experiment(
        name=name,
        dataset=Dataset(min_interactions=20, split=split, max_history=8),
        model=config,
        training=training,
        finetuning=training,
    )
    return made, load_data(made)


def losses(name: str, transforms: tuple[Any, ...], parallel: Parallel, n_devices: int) -> list[float]:
    """Returns the losses of the first steps, on as many devices of every process."""
    made, data = experiment(name)
    setup = set_up(dataclasses.replace(made, transforms=transforms), data)
    batches = list(itertools.islice(data.train_batches(made.training.batch_size, 0, 1), STEPS))
    planned = plan_step(
        setup.model_config,
        setup.params,
        data.schema,
        batches[0],
        made.training,
        chain(*transforms),
        total_steps=100,
        parallel=parallel,
        counts=setup.counts if parallel.hot_rows else None,
        jax_devices=jax.devices()[:: jax.device_count() // n_devices],
    )
    if parallel.hot_rows:
        assert planned.plan is not None
        assert max(len(place.hot_ids) for place in planned.plan.layout.places.values()) == parallel.hot_rows
    devices: TrainingDevices = planned.devices
    state, found = devices.first_state(planned.init, setup.params), []
    for batch in batches:
        state, loss = planned.step(state, devices.put_batch(batch))
        found.append(float(loss))
    return found


@functools.cache
def on_one_device(name: str, transforms: tuple[Any, ...]) -> list[float]:
    """Returns what all others are held to: the losses on a mesh of one device."""
    return losses(name, transforms, Parallel(strategy="pjit"), 1)


def check(name: str, transforms: tuple[Any, ...], parallel: Parallel, n_devices: int) -> None:
    found = losses(name, transforms, parallel, n_devices)
    np.testing.assert_allclose(found, on_one_device(name, transforms), rtol=AGREE)
    assert found[-1] < found[0]


PJIT, PMAP = Parallel(strategy="pjit"), Parallel(strategy="pmap")
TENSOR = Parallel(strategy="pjit", model=2)
FULLY_SHARDED = Parallel(strategy="pjit", model=2, fully_sharded=True)
ROW_WISE = Parallel(strategy="pjit", tables="row_wise")
HOT_ROWS = Parallel(strategy="pjit", hot_rows=8)


@pytest.mark.parametrize("parallel", [PJIT, PMAP], ids=["pjit", "pmap"])
@pytest.mark.parametrize("name", ["sasrec", "mult_vae", "dlrm_dcnv2_by_rows"])
def test_eight_devices_have_the_losses_of_one(name: str, parallel: Parallel):
    check(name, (), parallel, 8)


@pytest.mark.slow
@pytest.mark.parametrize("n_devices", [2, 4, 8])
@pytest.mark.parametrize("transforms", [(), INT8], ids=["fp32", "int8"])
@pytest.mark.parametrize("name", NAMES)
def test_data_parallel_losses(name: str, transforms: tuple[Any, ...], n_devices: int):
    for parallel in (PJIT, PMAP):
        check(name, transforms, parallel, n_devices)


@pytest.mark.slow
@pytest.mark.parametrize("transforms", [(), INT8], ids=["fp32", "int8"])
@pytest.mark.parametrize("name", NAMES)
def test_tensor_parallel_and_fully_sharded_losses(name: str, transforms: tuple[Any, ...]):
    check(name, transforms, TENSOR, 8)
    check(name, transforms, FULLY_SHARDED, 4)


@pytest.mark.slow
@pytest.mark.parametrize("tables", ["replicated", "row_wise", "column_wise", "table_wise"])
def test_tables_split_in_any_way_have_the_same_losses(tables: Any):
    n_devices = 4 if tables == "row_wise" else 8  # "weekday" has seven rows
    for name in TABLE_OPTIMIZERS:
        check(name, (), Parallel(strategy="pjit", tables=tables), n_devices)


@pytest.mark.slow
@pytest.mark.parametrize(("tables", "n_devices"), [("row_wise", 2), ("row_wise", 4), ("planned", 8)])
def test_copied_hot_rows_have_the_same_losses(tables: Any, n_devices: int):
    """Of a row-wise "weekday" all seven rows are copied, so that none travels to an owner."""
    for name in TABLE_OPTIMIZERS:
        check(name, (), dataclasses.replace(HOT_ROWS, tables=tables), n_devices)
