"""What a training begins with owns its arrays: the parameters it came from may be deleted at once."""

import dataclasses

import jax
import numpy as np
import pytest

from recjax.config import Experiment, Parallel
from recjax.data.labelled import LabelledData
from recjax.training.first_step import ToTrain, first_step
from recjax.training.step import init_params
from recjax.transforms.protocol import chain


@pytest.mark.parametrize(
    ("parallel", "table_optimizer"),
    [
        (Parallel(), "dense"),
        (Parallel(), "rowwise_adagrad"),
        (Parallel(strategy="pjit", data=2), "dense"),
        (Parallel(strategy="pjit", data=2, fully_sharded=True), "dense"),
        (Parallel(strategy="pjit", data=2), "rowwise_adagrad"),
        (Parallel(strategy="pmap", data=2), "dense"),
    ],
    ids=lambda value: getattr(value, "strategy", value),
)
def test_donated_parameters_are_gone_and_the_step_is_the_same(
    dlrm_experiment: Experiment,
    labelled: LabelledData,
    monkeypatch: pytest.MonkeyPatch,
    parallel: Parallel,
    table_optimizer: str,
) -> None:
    two = jax.devices()[:2]
    monkeypatch.setattr(jax, "devices", lambda *_: two)
    training = dataclasses.replace(dlrm_experiment.training, table_optimizer=table_optimizer)
    batch = next(labelled.train_batches(32, 0, 1))
    module, losses = dlrm_experiment.model.build(labelled.schema), []
    for donates in (False, True):
        params = init_params(module, batch, seed=0)
        to_train = ToTrain(
            model_config=dlrm_experiment.model,
            params=params,
            data=labelled,
            training=training,
            transform=chain(),
            parallel=parallel,
        )
        begun, state = first_step(to_train, donates_params=donates)
        assert all(leaf.is_deleted() == donates for leaf in jax.tree.leaves(params))
        losses_of_run = []
        for _ in range(2):
            state, loss = begun.take(state, begun.devices.put_batch(batch))
            losses_of_run.append(float(np.mean(loss)))
        losses.append(losses_of_run)
    assert losses[0] == losses[1]
    assert losses[0][1] < losses[0][0]
