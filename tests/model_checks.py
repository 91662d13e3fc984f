"""What every model promises, asserted in one way: one function a promise; and the short trainings that show it."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.config import Dataset, Experiment, ModelConfig, Training
from recjax.evaluation import Data
from recjax.training.fit import FitResult
from recjax.training.optimizer import make_optimizer
from recjax.training.pipeline import finalize, load_data, train
from recjax.training.step import init_params, init_state, is_solved, make_train_step
from recjax.transforms.protocol import chain
from recjax.transforms.quantize import quantize

Batch = Mapping[str, np.ndarray]


def compiled(model: Any, method: str = "__call__", **fixed: Any) -> Any:
    """Returns the method as a compiled function of (variables, batch)."""
    return jax.jit(lambda variables, batch: model.apply(variables, batch, method=method, **fixed))


def multi_hot(history: np.ndarray, n_items: int) -> np.ndarray:
    """Returns padded histories as dense rows of ones and zeros."""
    rows = np.zeros((len(history), n_items), np.float32)
    for row, items in zip(rows, history, strict=True):
        row[items[items >= 0]] = 1
    return rows


def check_padding_ids(model: Any, variables: Any, batch: Batch) -> None:
    """Asserts that a longer history column, its tail all padding, changes neither scores nor loss."""
    wider = {**batch, "history": np.pad(batch["history"], ((0, 0), (0, 3)), constant_values=-1)}
    functions = [compiled(model)]
    if not is_solved(model):
        functions.append(compiled(model, "loss", train=False))
    for function in functions:
        np.testing.assert_array_equal(function(variables, wider), function(variables, batch))


def check_padding_rows(model: Any, variables: Any, batch: Batch) -> None:
    """Asserts that rows of zeros with weight 0, as batches have them, change neither the loss nor its gradients."""
    padded = _of_columns(batch, lambda column: np.pad(column, [(0, 2)] + [(0, 0)] * (column.ndim - 1)))
    gradient = jax.jit(jax.value_and_grad(lambda v, b: model.apply(v, b, train=False, method="loss")))
    loss, gradients = gradient(variables, batch)
    padded_loss, padded_gradients = gradient(variables, padded)
    assert padded_loss == pytest.approx(float(loss), rel=1e-6)
    for a, b in zip(jax.tree.leaves(padded_gradients), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def check_serve(model: Any, variables: Any, batch: Batch, top_k: int) -> None:
    """Asserts that `serve` returns the best items that are not in the history, in order.

    A history's items are the first `lengths` of its row where the batch has them, else those that are not padding.
    """
    scores = np.asarray(compiled(model)(variables, batch))
    answer = compiled(model, "serve", top_k=top_k)(variables, batch)
    assert answer["items"].dtype == jnp.int32
    for row, history in enumerate(batch["history"]):
        seen = set(history[: batch["lengths"][row]] if "lengths" in batch else history)
        unseen = [item for item in np.argsort(-scores[row], kind="stable").tolist() if item not in seen]
        assert answer["items"][row].tolist() == unseen[:top_k]
        np.testing.assert_allclose(answer["scores"][row], scores[row, unseen[:top_k]], rtol=1e-5)


def check_one_program_a_shape(model: Any, variables: Any, batch: Batch, request: Batch | None = None) -> None:
    """Asserts that training steps, scores and answers of one shape compile once, whatever the values and the step.

    What is scored is the training batch, or `request`.
    """
    optimizer = make_optimizer(Training(), chain(), model.config, 10)
    step, score, serve = make_train_step(model, optimizer, 0), compiled(model), compiled(model, "serve", top_k=2)
    state = init_state(variables["params"], optimizer)
    for shift in range(3):
        other, scored = (
            _of_columns(columns, lambda column, shift=shift: np.roll(column, shift, axis=0))
            for columns in (batch, request or batch)
        )
        state, loss = step(state, other)
        assert np.isfinite(loss)
        score({"params": state.params}, scored)
        serve({"params": state.params}, scored)
    assert step._cache_size() == score._cache_size() == serve._cache_size() == 1


def _of_columns(batch: Batch, change: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
    """Returns the batch with every column changed; `context` is no column."""
    return {name: value if name == "context" else change(np.asarray(value)) for name, value in batch.items()}


def check_random_loss(model: Any, variables: Any, batch: Batch) -> None:
    """Asserts that the training loss is decided by its key, and changes with it."""
    loss = jax.jit(lambda v, b, key: model.apply(v, b, train=True, method="loss", rngs={"dropout": key}))
    keys = [jax.random.key(seed, impl="unsafe_rbg") for seed in (0, 0, 1)]
    first, again, other = (loss(variables, {**batch, "step": jnp.zeros([], jnp.int32)}, key) for key in keys)
    assert first == again != other


def check_hidden_units(config: Any, variables: Any) -> None:
    """Asserts that every hidden layer names parameters that exist, with an index a unit."""
    assert config.hidden_units()
    for layer in config.hidden_units():
        for path, axis in layer.slices:
            leaf = variables["params"]
            for key in path.split("/"):
                leaf = leaf[key]
            assert leaf.shape[axis] == getattr(config, layer.field)[layer.index]


def train_tiny(ratings_file: Path, model: ModelConfig, **training: Any) -> FitResult:
    """Returns the fit of a top-n model on the tiny data set."""
    settings = Training(**{"epochs": 20, "batch_size": 8, "learning_rate": 1e-2, **training})
    experiment = Experiment(
        name="tiny",
        dataset=Dataset(source=str(ratings_file), min_interactions=1, split="random_by_user"),
        model=model,
        training=settings,
        finetuning=settings,
    )
    return train(experiment, load_data(experiment))


def check_learns(ratings_file: Path, model: ModelConfig, **training: Any) -> None:
    """Asserts that a short training lowers the loss and ranks better than its first epoch did."""
    result = train_tiny(ratings_file, model, **training)
    assert result.history[-1].train_loss < result.history[0].train_loss
    assert result.best.validation["ndcg@10"] > result.history[0].validation["ndcg@10"]


class ShortTraining(NamedTuple):
    """What a few epochs without validation gave."""

    data: Data
    params: Any
    losses: list[float]  # mean of each epoch
    step: Any  # the compiled step


def short_training(experiment: Experiment, data: Data) -> ShortTraining:
    """Returns what the experiment's epochs give on the data, every one of more than one batch."""
    training, module, context = experiment.training, experiment.model.build(data.schema), dict(data.context)
    optimizer, losses = make_optimizer(training, chain(), experiment.model, 100), []

    def batches(epoch: int) -> list[Batch]:
        given = data.train_batches(training.batch_size, 0, epoch)
        return [{**batch, "context": context} if context else batch for batch in given]

    state, step = init_state(init_params(module, batches(1)[0], 0), optimizer), make_train_step(module, optimizer, 0)
    for epoch in range(training.epochs):
        of_epoch = []
        for batch in batches(epoch):
            state, loss = step(state, batch)
            of_epoch.append(float(loss))
        assert len(of_epoch) > 1
        losses.append(sum(of_epoch) / len(of_epoch))
    return ShortTraining(data, state.params, losses, step)


def check_int8(experiment: Experiment, trained: ShortTraining, kernels: list[str], *, tolerance: float) -> None:
    """Asserts which kernels int8 freezes, and that a score differs by at most that share of the largest."""
    plain = finalize(experiment, trained.data, trained.params)
    int8 = finalize(dataclasses.replace(experiment, transforms=(quantize(),)), trained.data, trained.params)
    assert list(int8.report.details["int8"]["kernels"]) == kernels
    batch = next(iter(trained.data.eval_batches("valid", 16)))
    expected, scores = (jax.jit(model.score)(model.variables, batch) for model in (plain, int8))
    np.testing.assert_allclose(scores, expected, atol=tolerance * np.abs(expected).max())
