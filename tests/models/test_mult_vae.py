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

from recjax.config import Dataset
from recjax.data.sources import load_interactions
from recjax.data.top_n import TopNSchema, top_n_data
from recjax.errors import UserError
from recjax.models.mult_vae import MultVAE, MultVAEConfig

V = 7
CONFIG = MultVAEConfig(encoder_dims=(5,), latent_dim=3, decoder_dims=(6, 4), kl_cap=0.3, annealing_steps=10)
HISTORY = np.array([[0, 3, -1, -1], [6, 1, 2, 5], [-1, -1, -1, -1]], np.int32)
SCHEMA = TopNSchema(n_users=3, n_items=V, max_history=4)


@pytest.fixture(scope="module")
def model() -> MultVAE:
    return CONFIG.build(SCHEMA)


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    return {"user": np.arange(3, dtype=np.int32), "history": HISTORY, "weight": np.ones(3, np.float32)}


@pytest.fixture(scope="module")
def variables(model: MultVAE, batch: Any) -> Any:
    return random_variables(model, batch)


def dense(layer: Any, x: np.ndarray) -> np.ndarray:
    return x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])


def encode(params: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and log variance of the codes of dense rows, in plain NumPy."""
    x = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    code = dense(params["encoder"]["dense_1"], np.tanh(dense(params["encoder"]["dense_0"], x)))
    return code[:, :3], code[:, 3:]


def decode(params: Any, code: np.ndarray) -> np.ndarray:
    layers = params["decoder"]
    return dense(layers["dense_2"], np.tanh(dense(layers["dense_1"], np.tanh(dense(layers["dense_0"], code)))))


def test_scores_are_of_the_mean_code_and_agree_with_numpy(model: MultVAE, variables: Any, batch: Any):
    expected = decode(variables["params"], encode(variables["params"], multi_hot(HISTORY, V))[0])
    np.testing.assert_allclose(compiled(model)(variables, batch), expected, rtol=1e-5, atol=1e-5)


def test_loss_agrees_with_numpy(model: MultVAE, variables: Any, batch: Any):
    rows = multi_hot(HISTORY, V)
    mean, log_variance = encode(variables["params"], rows)
    exp = np.exp(decode(variables["params"], mean))
    likelihood = -(rows * np.log(exp / exp.sum(1, keepdims=True))).sum(1)
    kl = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(1)
    loss = compiled(model, "loss", train=False)(variables, batch)
    assert loss == pytest.approx((likelihood + 0.3 * kl).mean(), rel=1e-5)


def test_codes_are_drawn_with_the_encoders_mean_and_deviation(batch: Any):
    # Without hidden layers the decoder is affine, so that the codes can be read off the logits.
    model = MultVAEConfig(encoder_dims=(), latent_dim=3, decoder_dims=(), dropout_rate=0.0).build(SCHEMA)
    variables, n = random_variables(model, batch), 20_000
    many = {"history": np.repeat(HISTORY[1:2], n, axis=0), "weight": np.ones(n, np.float32), "step": jnp.asarray(0)}
    fixed = {"train": True, "method": "loss", "rngs": {"dropout": jax.random.key(0)}}
    kept = {"capture_intermediates": lambda module, _: module.name == "decoder"}
    _, state = jax.jit(lambda variables, batch: model.apply(variables, batch, **fixed, **kept))(variables, many)
    logits = np.asarray(state["intermediates"]["decoder"]["__call__"][0])
    layer = jax.tree.map(np.asarray, variables["params"]["decoder"]["dense_0"])
    codes = (logits - layer["bias"]) @ np.linalg.pinv(layer["kernel"])
    row = multi_hot(HISTORY[1:2], V) / 2  # four items: of length 1
    mean, log_variance = np.split(dense(variables["params"]["encoder"]["dense_0"], row)[0], 2)
    deviation = np.exp(log_variance / 2)
    np.testing.assert_allclose((codes.mean(0) - mean) / deviation, 0, atol=5 / np.sqrt(n))
    np.testing.assert_allclose(codes.std(0) / deviation, 1, atol=5 / np.sqrt(2 * n))
    np.testing.assert_allclose(np.corrcoef(codes.T), np.eye(3), atol=5 / np.sqrt(n))


def test_the_kl_weight_rises_in_a_line_to_its_cap(model: MultVAE):
    weights = [float(model.kl_weight(jnp.asarray(step))) for step in (0, 4, 9, 10, 1000)]
    np.testing.assert_allclose(weights, [0.03, 0.15, 0.3, 0.3, 0.3], rtol=1e-6)
    at_once = dataclasses.replace(CONFIG, annealing_steps=0).build(SCHEMA)
    assert float(at_once.kl_weight(jnp.asarray(0))) == pytest.approx(0.3)


def test_the_training_loss_grows_by_the_kl_as_annealing_goes_on(model: MultVAE, variables: Any, batch: Any):
    loss = jax.jit(lambda v, b: model.apply(v, b, train=True, method="loss", rngs={"dropout": jax.random.key(0)}))
    first, fifth, last = (float(loss(variables, batch | {"step": jnp.asarray(step)})) for step in (0, 4, 9))
    assert (last - first) / (fifth - first) == pytest.approx(9 / 4, rel=1e-3)
    assert last > first


def test_padding_changes_nothing(model: MultVAE, variables: Any, batch: Any):
    check_padding_ids(model, variables, batch)
    check_padding_rows(model, variables, batch)


def test_items_and_codes_are_random_in_training(model: MultVAE, variables: Any, batch: Any):
    check_random_loss(model, variables, batch)
    check_random_loss(dataclasses.replace(CONFIG, dropout_rate=0.0).build(SCHEMA), variables, batch)


def test_serve_returns_the_best_unseen_items_in_order(model: MultVAE, variables: Any, batch: Any):
    check_serve(model, variables, batch, top_k=3)


def test_hidden_units_name_real_parameters_of_the_stated_width(variables: Any):
    check_hidden_units(CONFIG, variables)


def test_without_hidden_layers_two_matrices_are_left(batch: Any):
    config = MultVAEConfig(encoder_dims=(), latent_dim=3, decoder_dims=())
    model = config.build(SCHEMA)
    variables = random_variables(model, batch)
    params, rows = variables["params"], multi_hot(HISTORY, V)
    x = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    expected = dense(params["decoder"]["dense_0"], dense(params["encoder"]["dense_0"], x)[:, :3])
    np.testing.assert_allclose(compiled(model)(variables, batch), expected, rtol=1e-5, atol=1e-5)
    assert config.hidden_units() == ()


def test_one_program_a_shape(model: MultVAE, variables: Any, batch: Any):
    check_one_program_a_shape(model, variables, batch)


def test_it_learns(ratings_file: Path):
    check_learns(ratings_file, MultVAEConfig(encoder_dims=(16,), latent_dim=8, decoder_dims=(16,)))


def test_it_ranks_for_users_it_has_never_seen(ratings_file: Path):
    dataset = Dataset(source=str(ratings_file), min_interactions=1, split="strong_generalisation")
    data = top_n_data(load_interactions(dataset), dataset, CONFIG.samples())
    batch = next(data.eval_batches("test", 4))
    model = CONFIG.build(data.schema)
    variables = random_variables(model, batch)
    scores = compiled(model)(variables, batch)
    assert not np.isin(batch["user"][batch["weight"] > 0], data.split.train.user).any()
    assert scores.shape == (4, data.schema.n_items)
    np.testing.assert_array_equal(compiled(model)(variables, batch | {"user": 0 * batch["user"]}), scores)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"encoder_dims": (8, -1)}, "MultVAEConfig.encoder_dims is (8, -1); allowed: widths >= 1, or none"),
        ({"decoder_dims": (0,)}, "MultVAEConfig.decoder_dims is (0,); allowed: widths >= 1, or none"),
        ({"latent_dim": 0}, "MultVAEConfig.latent_dim is 0; allowed: >= 1"),
        ({"dropout_rate": 1.0}, "MultVAEConfig.dropout_rate is 1.0; allowed: [0, 1)"),
        ({"kl_cap": -0.1}, "MultVAEConfig.kl_cap is -0.1; allowed: >= 0"),
        ({"annealing_steps": -1}, "MultVAEConfig.annealing_steps is -1; allowed: >= 0"),
    ],
)
def test_a_bad_config_says_what_is_allowed(values: dict[str, Any], error: str):
    with pytest.raises(UserError) as caught:
        MultVAEConfig(**values)
    assert str(caught.value) == error


def test_the_exposure_weight_adds_the_squared_gap_of_unseen_items(model: MultVAE, variables: Any, batch: Any):
    counts = jnp.array([9.0, 1.0, 1.0, 2.0, 1.0, 2.0, 1.0])  # item 0 has more than half: the head
    with_counts = batch | {"context": {"item_counts": counts}}
    fair = dataclasses.replace(CONFIG, exposure_weight=10.0, exposure_temperature=0.5).build(SCHEMA)
    mean, _ = encode(variables["params"], multi_hot(HISTORY, V))
    odds = np.exp(decode(variables["params"], mean) / 0.5) * (multi_hot(HISTORY, V) == 0)
    gap = (odds[:, 0] / odds.sum(1)).mean() - 9 / 17
    plain = compiled(model, "loss", train=False)(variables, with_counts)
    assert compiled(fair, "loss", train=False)(variables, with_counts) == pytest.approx(
        float(plain) + 10 * gap**2, rel=1e-5
    )
