import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import (
    ShortTraining,
    check_int8,
    check_one_program_a_shape,
    check_serve,
    short_training,
)
from random_variables import random_variables

from recjax.config import Experiment, Training
from recjax.data.next_item import NextItemSchema
from recjax.errors import UserError
from recjax.models.gru4rec import GRU4Rec, GRU4RecConfig
from recjax.training.pipeline import load_data

B, L, D, V = 4, 6, 8, 11
CONFIG = GRU4RecConfig(embedding_dim=D, units=(5, 7), tied=False, dropout_rate=0.3, loss_chunk=5)
LENGTHS = np.array([6, 3, 1, 4], np.int32)


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    used = np.arange(L) < LENGTHS[:, None]
    history = np.where(used, rng.integers(V, size=(B, L)), 0).astype(np.int32)
    labels = np.where(used, rng.integers(V, size=(B, L)), 0).astype(np.int32)
    return {"history": history, "labels": labels, "lengths": LENGTHS, "weight": np.ones(B, np.float32)}


@pytest.fixture(scope="module", params=[False, True], ids=["separate", "tied"])
def model(request: pytest.FixtureRequest) -> GRU4Rec:
    return dataclasses.replace(CONFIG, tied=request.param).build(NextItemSchema(n_items=V, max_history=L))


@pytest.fixture(scope="module")
def variables(model: GRU4Rec, batch: dict[str, np.ndarray]) -> Any:
    return random_variables(model, batch)


@pytest.fixture(scope="module")
def score(model: GRU4Rec) -> Any:
    return jax.jit(model.apply)


@pytest.fixture(scope="module")
def loss_of(model: GRU4Rec) -> Any:
    return jax.jit(lambda variables, batch: model.apply(variables, batch, train=False, method="loss"))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def logits(params: Any, history: np.ndarray) -> np.ndarray:
    """Returns the [L, V] scores after each item of one history, in plain NumPy."""
    params = jax.tree.map(np.asarray, params)
    x = params["items"]["table"][history] * np.sqrt(D)
    for index, units in enumerate(CONFIG.units):
        layer, state, states = params[f"layer_{index}"], np.zeros(units), []
        for step in x @ layer["input"]["kernel"] + layer["input"]["bias"]:
            before = state @ layer["state_kernel"]
            reset, update = sigmoid(step[: 2 * units] + before[: 2 * units]).reshape(2, units)
            new = np.tanh(step[2 * units :] + reset * (before[2 * units :] + layer["state_bias"]))
            state = (1 - update) * new + update * state
            states.append(state)
        x = np.stack(states)
    x = x @ params["project"]["kernel"] + params["project"]["bias"]
    return x @ params["outputs" if "outputs" in params else "items"]["table"].T


def test_scores_agree_with_numpy(score: Any, variables: Any, batch: dict[str, np.ndarray]):
    expected = [
        logits(variables["params"], history[:length])[-1]  # no padding at all
        for history, length in zip(batch["history"], LENGTHS, strict=True)
    ]
    scores = score(variables, batch)
    assert scores.dtype == jnp.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def test_loss_agrees_with_numpy(loss_of: Any, variables: Any, batch: dict[str, np.ndarray]):
    losses = []
    for history, labels, length in zip(batch["history"], batch["labels"], LENGTHS, strict=True):
        of_history = logits(variables["params"], history[:length])
        losses.append(np.log(np.exp(of_history).sum(1)) - of_history[np.arange(length), labels[:length]])
    assert loss_of(variables, batch) == pytest.approx(np.concatenate(losses).mean(), rel=1e-5)


def test_tied_means_one_table(model: GRU4Rec, variables: Any):
    assert ("outputs" in variables["params"]) == (not model.config.tied)


def test_later_items_never_change_earlier_positions(model: GRU4Rec, variables: Any):
    encode = jax.jit(lambda variables, history: model.apply(variables, history, method="encode"))
    history = np.random.default_rng(2).integers(V, size=(B, L)).astype(np.int32)
    before = encode(variables, history)
    for changed in range(1, L):
        other = history.copy()
        other[:, changed:] = (other[:, changed:] + 1) % V
        after = encode(variables, other)
        np.testing.assert_array_equal(after[:, :changed], before[:, :changed])
        assert (after[:, changed] != before[:, changed]).any()


def test_padding_means_nothing(loss_of: Any, score: Any, variables: Any, batch: dict[str, np.ndarray]):
    used = np.arange(L) < LENGTHS[:, None]
    junk = np.random.default_rng(3).integers(1, V, size=(B, L)).astype(np.int32)
    other = batch | {name: np.where(used, batch[name], junk) for name in ("history", "labels")}
    np.testing.assert_array_equal(score(variables, other), score(variables, batch))
    assert loss_of(variables, other) == loss_of(variables, batch)
    padded = {name: np.pad(column, [(0, 2)] + [(0, 0)] * (column.ndim - 1)) for name, column in batch.items()}
    assert loss_of(variables, padded) == pytest.approx(float(loss_of(variables, batch)), rel=1e-6)


def test_one_program_a_shape(model: GRU4Rec, variables: Any, batch: dict[str, np.ndarray]):
    check_one_program_a_shape(model, variables, batch)


def test_serve_returns_the_best_unseen_items_in_order(model: GRU4Rec, variables: Any, batch: dict[str, np.ndarray]):
    check_serve(model, variables, batch, 5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"embedding_dim": 0}, "GRU4RecConfig.embedding_dim is 0; allowed: >= 1"),
        ({"units": ()}, "GRU4RecConfig.units is (); allowed: one width >= 1 a layer"),
        ({"units": (8, 0)}, "GRU4RecConfig.units is (8, 0); allowed: one width >= 1 a layer"),
        ({"dropout_rate": 1.0}, "GRU4RecConfig.dropout_rate is 1.0; allowed: [0, 1)"),
        ({"loss_chunk": 0}, "GRU4RecConfig.loss_chunk is 0; allowed: >= 1"),
    ],
)
def test_config_rejects(values: dict[str, Any], message: str):
    with pytest.raises(UserError) as error:
        GRU4RecConfig(**values)
    assert str(error.value) == message


@pytest.fixture(scope="module")
def experiment(sasrec_experiment: Experiment) -> Experiment:
    return dataclasses.replace(
        sasrec_experiment,
        name="tiny_gru4rec",
        model=GRU4RecConfig(embedding_dim=8, units=(12,), dropout_rate=0.1, loss_chunk=32),
        training=Training(epochs=6, batch_size=16, learning_rate=1e-2),
    )


@pytest.fixture(scope="module")
def trained(experiment: Experiment) -> ShortTraining:
    return short_training(experiment, load_data(experiment))


def test_a_short_training_learns_with_one_program(trained: ShortTraining):
    assert trained.losses[-1] < trained.losses[0] - 0.2
    assert trained.step._cache_size() == 1


def test_int8_answers_nearly_the_same(experiment: Experiment, trained: ShortTraining):
    check_int8(experiment, trained, ["layer_0/input/kernel", "project/kernel"], tolerance=0.05)
