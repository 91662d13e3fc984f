from pathlib import Path
from typing import Any

import jax
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
)
from random_variables import random_variables

from recjax.data.top_n import TopNSchema
from recjax.errors import UserError
from recjax.models.mult_dae import MultDAE, MultDAEConfig

V = 7
CONFIG = MultDAEConfig(hidden_dims=(5, 4, 6), l2=0.01)
HISTORY = np.array([[0, 3, -1, -1], [6, 1, 2, 5], [-1, -1, -1, -1]], np.int32)


@pytest.fixture(scope="module")
def model() -> MultDAE:
    return CONFIG.build(TopNSchema(n_users=3, n_items=V, max_history=4))


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    return {"user": np.arange(3, dtype=np.int32), "history": HISTORY, "weight": np.ones(3, np.float32)}


@pytest.fixture(scope="module")
def variables(model: MultDAE, batch: Any) -> Any:
    return random_variables(model, batch)


def logits(params: Any, rows: np.ndarray) -> np.ndarray:
    """Returns the logits of dense rows, in plain NumPy."""
    layers = jax.tree.map(np.asarray, params)["mlp"]
    x = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    for index in range(3):
        x = np.tanh(x @ layers[f"dense_{index}"]["kernel"] + layers[f"dense_{index}"]["bias"])
    return x @ layers["dense_3"]["kernel"] + layers["dense_3"]["bias"]


def test_scores_agree_with_numpy(model: MultDAE, variables: Any, batch: Any):
    scores = compiled(model)(variables, batch)
    np.testing.assert_allclose(scores, logits(variables["params"], multi_hot(HISTORY, V)), rtol=1e-5, atol=1e-5)


def test_loss_agrees_with_numpy(model: MultDAE, variables: Any, batch: Any):
    rows = multi_hot(HISTORY, V)
    exp = np.exp(logits(variables["params"], rows))
    likelihood = -(rows * np.log(exp / exp.sum(1, keepdims=True))).sum(1)
    penalty = sum(np.sum(np.asarray(layer["kernel"]) ** 2) for layer in variables["params"]["mlp"].values())
    loss = compiled(model, "loss", train=False)(variables, batch)
    assert loss == pytest.approx(likelihood.mean() + 0.01 * penalty, rel=1e-5)


def test_padding_changes_nothing(model: MultDAE, variables: Any, batch: Any):
    check_padding_ids(model, variables, batch)
    check_padding_rows(model, variables, batch)


def test_items_are_taken_away_at_random_in_training(model: MultDAE, variables: Any, batch: Any):
    check_random_loss(model, variables, batch)


def test_serve_returns_the_best_unseen_items_in_order(model: MultDAE, variables: Any, batch: Any):
    check_serve(model, variables, batch, top_k=3)


def test_hidden_units_name_real_parameters_of_the_stated_width(variables: Any):
    check_hidden_units(CONFIG, variables)


def test_one_program_a_shape(model: MultDAE, variables: Any, batch: Any):
    check_one_program_a_shape(model, variables, batch)


def test_it_learns(ratings_file: Path):
    check_learns(ratings_file, MultDAEConfig(hidden_dims=(16,)))


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"hidden_dims": ()}, "MultDAEConfig.hidden_dims is (); allowed: one or more widths >= 1"),
        ({"hidden_dims": (8, 0)}, "MultDAEConfig.hidden_dims is (8, 0); allowed: one or more widths >= 1"),
        ({"dropout_rate": 1.0}, "MultDAEConfig.dropout_rate is 1.0; allowed: [0, 1)"),
        ({"l2": -0.1}, "MultDAEConfig.l2 is -0.1; allowed: >= 0"),
    ],
)
def test_a_bad_config_says_what_is_allowed(values: dict[str, Any], error: str):
    with pytest.raises(UserError) as caught:
        MultDAEConfig(**values)
    assert str(caught.value) == error
