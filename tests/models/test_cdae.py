import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import (
    check_hidden_units,
    check_learns,
    check_one_program_a_shape,
    check_padding_ids,
    check_padding_rows,
    check_random_loss,
    check_serve,
    compiled,
    multi_hot,
    train_tiny,
)
from random_variables import random_variables

from recjax.data.top_n import TopNSchema
from recjax.errors import UserError
from recjax.models.cdae import CDAE, CDAEConfig

V = 7
CONFIG = CDAEConfig(hidden_dims=(5,), negatives=1, l2=0.01)
HISTORY = np.array([[0, 3, -1, -1], [6, 1, 2, 5]], np.int32)
SCHEMA = TopNSchema(n_users=3, n_items=V, max_history=4)
ACTIVATIONS = {"sigmoid": lambda x: 1 / (1 + np.exp(-x)), "tanh": np.tanh, "identity": lambda x: x}


@pytest.fixture(scope="module")
def model() -> CDAE:
    return CONFIG.build(SCHEMA)


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    return {"user": np.array([2, 0], np.int32), "history": HISTORY, "weight": np.ones(2, np.float32)}


@pytest.fixture(scope="module")
def variables(model: CDAE, batch: Any) -> Any:
    return random_variables(model, batch)


def logits(params: Any, users: np.ndarray, rows: np.ndarray, activation: str = "sigmoid") -> np.ndarray:
    """Returns the logits of dense rows, in plain NumPy."""
    encoder, decoder = params["encoder"], params["decoder"]
    node = np.asarray(params["users"]["table"])[users]
    hidden = ACTIVATIONS[activation](rows @ np.asarray(encoder["kernel"]) + np.asarray(encoder["bias"]) + node)
    return hidden @ np.asarray(decoder["kernel"]) + np.asarray(decoder["bias"])


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_scores_agree_with_numpy(variables: Any, batch: Any, activation: Any):
    model = dataclasses.replace(CONFIG, activation=activation).build(SCHEMA)
    expected = logits(variables["params"], batch["user"], multi_hot(HISTORY, V), activation)
    np.testing.assert_allclose(compiled(model)(variables, batch), expected, rtol=1e-5, atol=1e-5)


def test_an_unobserved_item_counts_as_often_as_it_would_be_drawn(model: CDAE):
    observed = multi_hot(HISTORY, V)
    # Two of seven observed: 2 negatives among 5. Four of seven observed: 4 negatives among 3, which is all of them.
    expected = np.where(observed > 0, 1.0, np.array([[2 / 5], [1.0]]))
    np.testing.assert_allclose(model.entry_weights(jnp.asarray(observed)), expected, rtol=1e-6)
    every = dataclasses.replace(CONFIG, negatives=0).build(SCHEMA)
    assert (every.entry_weights(jnp.asarray(observed)) == 1).all()


def test_loss_agrees_with_numpy(model: CDAE, variables: Any, batch: Any):
    params, rows = variables["params"], multi_hot(HISTORY, V)
    p = 1 / (1 + np.exp(-logits(params, batch["user"], rows)))
    entries = -np.where(rows > 0, np.log(p), np.log(1 - p)) * np.where(rows > 0, 1.0, np.array([[2 / 5], [1.0]]))
    owned = (params["encoder"]["kernel"], params["decoder"]["kernel"], params["users"]["table"])
    penalty = sum(np.sum(np.asarray(array) ** 2) for array in owned)
    loss = compiled(model, "loss", train=False)(variables, batch)
    assert loss == pytest.approx(entries.sum(1).mean() + 0.01 * penalty, rel=1e-5)


def test_padding_changes_nothing(model: CDAE, variables: Any, batch: Any):
    check_padding_ids(model, variables, batch)
    check_padding_rows(model, variables, batch)


def test_items_are_taken_away_at_random_in_training(model: CDAE, variables: Any, batch: Any):
    check_random_loss(model, variables, batch)


def test_serve_returns_the_best_unseen_items_in_order(model: CDAE, variables: Any, batch: Any):
    check_serve(model, variables, batch, top_k=3)


def test_hidden_units_name_real_parameters_of_the_stated_width(variables: Any):
    check_hidden_units(CONFIG, variables)


def test_one_program_a_shape(model: CDAE, variables: Any, batch: Any):
    check_one_program_a_shape(model, variables, batch)


def test_it_learns(ratings_file: Path):
    check_learns(ratings_file, CDAEConfig(hidden_dims=(16,)))


def test_nodes_start_at_zero_and_those_of_users_in_training_move(ratings_file: Path):
    one_step = train_tiny(ratings_file, CDAEConfig(hidden_dims=(4,)), epochs=1, batch_size=64)
    table = np.asarray(one_step.params["users"]["table"])
    # Adam's first step is the learning rate in the direction of the gradient, from wherever it starts.
    np.testing.assert_allclose(np.abs(table), 0.01, rtol=1e-2)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"hidden_dims": ()}, "CDAEConfig.hidden_dims is (); allowed: one width >= 1"),
        ({"hidden_dims": (8, 4)}, "CDAEConfig.hidden_dims is (8, 4); allowed: one width >= 1"),
        ({"activation": "relu"}, "unknown CDAEConfig.activation 'relu'; valid: identity, sigmoid, tanh"),
        ({"dropout_rate": -0.1}, "CDAEConfig.dropout_rate is -0.1; allowed: [0, 1)"),
        ({"negatives": -1}, "CDAEConfig.negatives is -1; allowed: >= 0"),
        ({"l2": -0.1}, "CDAEConfig.l2 is -0.1; allowed: >= 0"),
    ],
)
def test_a_bad_config_says_what_is_allowed(values: dict[str, Any], error: str):
    with pytest.raises(UserError) as caught:
        CDAEConfig(**values)
    assert str(caught.value) == error
