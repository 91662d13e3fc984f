"""What is asserted of every top-n model that is solved, on the tiny data set."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax

from recjax.config import Dataset, Experiment, ModelConfig, Training
from recjax.data.top_n import TopNData
from recjax.training.final_model import FinalModel
from recjax.training.fit import FitResult
from recjax.training.optimizer import make_optimizer
from recjax.training.pipeline import finalize, load_data, train
from recjax.training.step import init_params, init_state, make_train_step
from recjax.transforms.protocol import chain


@dataclasses.dataclass(frozen=True)
class Solved:
    experiment: Experiment
    data: TopNData
    fit: FitResult
    model: FinalModel


def solve(ratings_file: Path, config: ModelConfig, epochs: int = 1, split: Any = "strong_generalisation") -> Solved:
    """Returns the model trained on the tiny data set, where held-out users are unknown in training."""
    training = Training(epochs=epochs)
    experiment = Experiment(
        name="tiny",
        dataset=Dataset(source=str(ratings_file), min_interactions=1, split=split),
        model=config,
        training=training,
        finetuning=training,
    )
    data = load_data(experiment)
    fit = train(experiment, data)
    return Solved(experiment, data, fit, finalize(experiment, data, fit.params))


def assert_one_program(solved: Solved) -> None:
    """Asserts that all updates share one program, the scores of both parts another, and their answers a third."""
    score, serve = jax.jit(solved.model.score), jax.jit(functools.partial(solved.model.serve, top_k=2))
    for part in ("valid", "test"):
        for request in solved.data.eval_batches(part, 2):
            score(solved.model.variables, request)
            serve(solved.model.variables, request)
    assert score._cache_size() == serve._cache_size() == 1
    module, config = solved.model.module, solved.experiment.model
    optimizer = make_optimizer(solved.experiment.training, chain(), config, 1)
    step = make_train_step(module, optimizer, 0)
    batch = next(solved.data.train_batches(1, 0, 1))
    state = init_state(init_params(module, batch, 0), optimizer)
    for _ in range(2):
        state, _ = step(state, batch)
    assert step._cache_size() == 1
