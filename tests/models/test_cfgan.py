import dataclasses
from pathlib import Path
from typing import Any

import jax
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
)
from random_variables import random_variables

from recjax.data.top_n import TopNSchema
from recjax.errors import UserError
from recjax.models.cfgan import CFGAN, CFGANConfig

V = 7
CONFIG = CFGANConfig(
    generator_dims=(5, 4), discriminator_dims=(3,), zero_reconstruction=0.2, partial_masking=0.5, dropout_rate=0.0
)
HISTORY = np.array([[0, 3, -1, -1], [6, 1, 2, 5]], np.int32)
SCHEMA = TopNSchema(n_users=2, n_items=V, max_history=4)


@pytest.fixture(scope="module")
def model() -> CFGAN:
    return CONFIG.build(SCHEMA)


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    return {"user": np.arange(2, dtype=np.int32), "history": HISTORY, "weight": np.ones(2, np.float32)}


@pytest.fixture(scope="module")
def variables(model: CFGAN, batch: Any) -> Any:
    return random_variables(model, batch)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def mlp(layers: Any, x: np.ndarray) -> np.ndarray:
    """Returns what sigmoid layers with a linear end make of x, in plain NumPy."""
    layers = jax.tree.map(np.asarray, layers)
    for index in range(len(layers) - 1):
        x = sigmoid(x @ layers[f"dense_{index}"]["kernel"] + layers[f"dense_{index}"]["bias"])
    end = layers[f"dense_{len(layers) - 1}"]
    return x @ end["kernel"] + end["bias"]


def losses(params: Any) -> tuple[float, float, float]:
    """Returns the discriminator's loss, the generator's and zero reconstruction, without unmasked items."""
    rows = multi_hot(HISTORY, V)
    written = sigmoid(mlp(params["generator"], rows))
    real = sigmoid(mlp(params["discriminator"], np.concatenate([rows, rows], 1))[:, 0])
    fake = sigmoid(mlp(params["discriminator"], np.concatenate([written * rows, rows], 1))[:, 0])
    zeros = (written**2 * (1 - rows)).sum(1).mean()
    return float((-np.log(real) - np.log(1 - fake)).mean()), float(-np.log(fake).mean()), float(zeros)


def test_scores_agree_with_numpy(model: CFGAN, variables: Any, batch: Any):
    expected = mlp(variables["params"]["generator"], multi_hot(HISTORY, V))
    np.testing.assert_allclose(compiled(model)(variables, batch), expected, rtol=1e-5, atol=1e-5)


def test_loss_agrees_with_numpy(variables: Any, batch: Any):
    params = variables["params"]
    discriminator, generator, zeros = losses(params)
    kernels = [layer["kernel"] for player in params.values() for layer in player.values()]
    penalty = sum(np.sum(np.asarray(kernel) ** 2) for kernel in kernels)
    model = dataclasses.replace(CONFIG, l2=0.01).build(SCHEMA)
    loss = compiled(model, "loss", train=False)(variables, batch)
    assert loss == pytest.approx(discriminator + generator + 0.2 * zeros + 0.01 * penalty, rel=1e-5)


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_each_player_follows_its_own_loss_alone(model: CFGAN, variables: Any, batch: Any, player: str):
    gradients = jax.grad(lambda v: compiled(model, "loss", train=False)(v, batch))(variables)["params"]

    def own_loss(layer: str, name: str, change: float) -> float:
        params = jax.tree.map(np.array, variables["params"])
        params[player][layer][name].flat[0] += change
        discriminator, generator, zeros = losses(params)
        return discriminator if player == "discriminator" else generator + 0.2 * zeros

    for layer, leaves in gradients[player].items():
        for name, gradient in leaves.items():
            slope = (own_loss(layer, name, 1e-2) - own_loss(layer, name, -1e-2)) / 2e-2
            assert gradient.ravel()[0] == pytest.approx(slope, rel=1e-2, abs=1e-4), (layer, name)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_partial_masking_unmasks_that_share_of_unpurchased_items(variables: Any, batch: Any, share: float):
    model = dataclasses.replace(CONFIG, partial_masking=share, zero_reconstruction=0.0).build(SCHEMA)
    apply = jax.jit(lambda v, b: model.apply(v, b, train=True, method="loss", rngs={"dropout": jax.random.key(0)}))
    rows, params = multi_hot(HISTORY, V), variables["params"]
    fakes = sigmoid(mlp(params["generator"], rows)) * np.where(rows > 0, 1, share)
    real, fake = (mlp(params["discriminator"], np.concatenate([x, rows], 1))[:, 0] for x in (rows, fakes))
    expected = -np.log(sigmoid(real)) - np.log(1 - sigmoid(fake)) - np.log(sigmoid(fake))
    assert apply(variables, batch | {"step": jnp.asarray(0)}) == pytest.approx(expected.mean(), rel=1e-5)


def test_padding_changes_nothing(model: CFGAN, variables: Any, batch: Any):
    check_padding_ids(model, variables, batch)
    check_padding_rows(model, variables, batch)


def test_items_are_unmasked_at_random_in_training(model: CFGAN, variables: Any, batch: Any):
    check_random_loss(model, variables, batch)


def test_serve_returns_the_best_unseen_items_in_order(model: CFGAN, variables: Any, batch: Any):
    check_serve(model, variables, batch, top_k=3)


def test_hidden_units_name_real_parameters_of_the_stated_width(variables: Any):
    check_hidden_units(CONFIG, variables)


def test_one_program_a_shape(model: CFGAN, variables: Any, batch: Any):
    check_one_program_a_shape(model, variables, batch)


def test_it_learns(ratings_file: Path):
    check_learns(ratings_file, CFGANConfig(generator_dims=(16,), discriminator_dims=(8,)), epochs=40)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"generator_dims": ()}, "CFGANConfig.generator_dims is (); allowed: one or more widths >= 1"),
        ({"discriminator_dims": (0,)}, "CFGANConfig.discriminator_dims is (0,); allowed: one or more widths >= 1"),
        (
            {"activation": "gelu"},
            "unknown CFGANConfig.activation 'gelu'; valid: relu, sigmoid, tanh; did you mean 'relu'?",
        ),
        ({"zero_reconstruction": -1.0}, "CFGANConfig.zero_reconstruction is -1.0; allowed: >= 0"),
        ({"partial_masking": 1.1}, "CFGANConfig.partial_masking is 1.1; allowed: [0, 1]"),
        ({"dropout_rate": 1.0}, "CFGANConfig.dropout_rate is 1.0; allowed: [0, 1)"),
        ({"l2": -0.1}, "CFGANConfig.l2 is -0.1; allowed: >= 0"),
    ],
)
def test_a_bad_config_says_what_is_allowed(values: dict[str, Any], error: str):
    with pytest.raises(UserError) as caught:
        CFGANConfig(**values)
    assert str(caught.value) == error
