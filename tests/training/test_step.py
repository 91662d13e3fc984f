from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.config import Experiment, ModelConfig
from recjax.data.labelled import LabelledData
from recjax.training.optimizer import make_optimizer
from recjax.training.step import init_params, init_state, make_train_step
from recjax.transforms.protocol import chain


@pytest.fixture(scope="module")
def made(dlrm_experiment: Experiment, labelled: LabelledData) -> Any:
    module = dlrm_experiment.model.build(labelled.schema)
    optimizer = make_optimizer(dlrm_experiment.training, chain(), dlrm_experiment.model, 10)
    return optimizer, make_train_step(module, optimizer, 0)


def test_parameters_depend_on_the_seed_alone(logistic_experiment: Experiment, labelled: LabelledData):
    module = logistic_experiment.model.build(labelled.schema)
    batches = [next(labelled.train_batches(n, n, 1)) for n in (1, 3)]
    first, again, other = (init_params(module, batches[i], seed) for i, seed in ((0, 0), (1, 0), (0, 1)))
    jax.tree.map(np.testing.assert_array_equal, again, first)
    assert (other["dense"]["kernel"] != first["dense"]["kernel"]).any()
    assert {leaf.dtype for leaf in jax.tree.leaves(first)} == {np.dtype("float32")}


def test_one_program_serves_every_batch_of_an_epoch_and_donation_spares_the_start(
    made: Any, labelled: LabelledData, dlrm_params: Any
):
    optimizer, step = made
    before = jax.tree.map(np.array, dlrm_params)
    state = init_state(dlrm_params, optimizer)
    batches = list(labelled.train_batches(64, 0, 1))
    assert batches[-1]["weight"].min() == 0  # the last one is padded
    for batch in batches:
        state, _ = step(state, batch)
    assert step._cache_size() == 1
    assert int(state.step) == len(batches)
    jax.tree.map(np.testing.assert_array_equal, dlrm_params, before)


def test_padding_rows_change_nothing(made: Any, labelled: LabelledData, dlrm_params: Any):
    optimizer, step = made
    batch = dict(next(labelled.train_batches(64, 0, 1)))
    batch["weight"] = np.where(np.arange(64) < 20, batch["weight"], 0)
    junk = dict(batch)
    for name in ("dense", "labels"):
        junk[name] = batch[name].copy()
        junk[name][20:] = 1 - junk[name][20:]
    after, loss = step(init_state(dlrm_params, optimizer), batch)
    after_junk, loss_junk = step(init_state(dlrm_params, optimizer), junk)
    assert loss == loss_junk
    jax.tree.map(np.testing.assert_array_equal, after_junk.params, after.params)


def test_dropout_keys_come_from_the_step(made: Any, labelled: LabelledData, dlrm_params: Any):
    optimizer, step = made
    batch = next(labelled.train_batches(64, 0, 1))

    def loss_at(number: int) -> float:
        state = init_state(dlrm_params, optimizer)
        return float(step(state._replace(step=state.step + number), batch)[1])

    assert loss_at(3) == loss_at(3)
    assert loss_at(3) != loss_at(4)


class StepReader(nn.Module):
    """A model whose loss is the step that its batch says, so that the loss tells what it was given."""

    config: ModelConfig

    @nn.compact
    def loss(self, batch: Any, *, train: bool) -> jax.Array:
        assert ("step" in batch) is train
        value = self.param("value", nn.initializers.zeros, ())
        return 0 * value + (batch["step"].astype(jnp.float32) if train else 0.0)


def test_a_training_batch_knows_the_steps_taken(logistic_experiment: Experiment):
    module, batch = StepReader(logistic_experiment.model), {"weight": np.ones(1, np.float32)}
    optimizer = make_optimizer(logistic_experiment.training, chain(), logistic_experiment.model, 10)
    step = make_train_step(module, optimizer, 0)
    state = init_state(init_params(module, batch, 0), optimizer)
    losses = []
    for _ in range(3):
        state, loss = step(state, batch)
        losses.append(float(loss))
    assert losses == [0, 1, 2]
    assert step._cache_size() == 1
    assert set(batch) == {"weight"}
