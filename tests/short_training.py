"""A few epochs without validation, for tests of models: what the loss does and how often it compiles."""

from typing import Any

from recjax.config import Experiment
from recjax.evaluation import Data
from recjax.training.optimizer import make_optimizer
from recjax.training.step import init_params, init_state, make_train_step
from recjax.transforms.protocol import chain


def short_training(experiment: Experiment, data: Data) -> tuple[Any, list[float], int]:
    """Returns the parameters after the experiment's epochs, each epoch's mean loss, and the programs compiled."""
    training, module, context = experiment.training, experiment.model.build(data.schema), dict(data.context)
    optimizer = make_optimizer(training, chain(), experiment.model, 100)
    first = next(iter(data.train_batches(training.batch_size, 0, 1)))
    state = init_state(init_params(module, {**first, "context": context}, 0), optimizer)
    step, epochs = make_train_step(module, optimizer, 0), []
    for epoch in range(training.epochs):
        losses = []
        for batch in data.train_batches(training.batch_size, 0, epoch):
            state, loss = step(state, {**batch, "context": context})
            losses.append(float(loss))
        epochs.append(sum(losses) / len(losses))
    return state.params, epochs, step._cache_size()
