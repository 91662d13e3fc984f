import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import (
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
from recjax.models.irgan import IRGAN, IRGANConfig, draw_items

V = 7
CONFIG = IRGANConfig(embedding_dim=3, draws=4, pretraining_steps=2)
HISTORY = np.array([[0, 3, -1, -1], [6, 1, 2, 5]], np.int32)
SCHEMA = TopNSchema(n_users=3, n_items=V, max_history=4)


@pytest.fixture(scope="module")
def model() -> IRGAN:
    return CONFIG.build(SCHEMA)


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    return {"user": np.array([2, 0], np.int32), "history": HISTORY, "weight": np.ones(2, np.float32)}


@pytest.fixture(scope="module")
def variables(model: IRGAN, batch: Any) -> Any:
    return random_variables(model, batch)


def scores_of(player: Any, users: np.ndarray) -> np.ndarray:
    player = jax.tree.map(np.asarray, player)
    items = player["items"]["table"]
    return player["users"]["table"][users] @ items.T + player["item_biases"]["table"][None, :, 0]


def softmax(x: np.ndarray) -> np.ndarray:
    exp = np.exp(x)
    return exp / exp.sum(1, keepdims=True)


def own_share(rows: np.ndarray) -> np.ndarray:
    return rows / rows.sum(1, keepdims=True)


def test_scores_are_the_generators_and_agree_with_numpy(model: IRGAN, variables: Any, batch: Any):
    expected = scores_of(variables["params"]["generator"], batch["user"])
    np.testing.assert_allclose(compiled(model)(variables, batch), expected, rtol=1e-5, atol=1e-5)


def test_loss_without_draws_agrees_with_numpy(variables: Any, batch: Any):
    params, rows = variables["params"], multi_hot(HISTORY, V)
    likelihood = -(own_share(rows) * np.log(softmax(scores_of(params["generator"], batch["user"])))).sum(1)
    discriminator = 1 / (1 + np.exp(-scores_of(params["discriminator"], batch["user"])))
    own = -(own_share(rows) * np.log(discriminator)).sum(1)
    penalty = 0.0
    for player in params.values():
        users, items = np.asarray(player["users"]["table"])[batch["user"]], np.asarray(player["items"]["table"])
        penalty += (users**2).sum(1).mean() + (items**2).sum(1).mean()
    model = dataclasses.replace(CONFIG, l2=0.01).build(SCHEMA)
    loss = compiled(model, "loss", train=False)(variables, batch)
    assert loss == pytest.approx((likelihood + own).mean() + 0.01 * penalty, rel=1e-5)


def test_items_are_drawn_as_often_as_their_probability_says():
    probability = jnp.array([[0.0, 0.5, 0.0, 0.3, 0.2, 0.0], [1.0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 2.0]])
    drawn = np.asarray(draw_items(jax.random.key(0), probability, 20_000))
    assert drawn.dtype == np.int32
    shares = np.stack([np.bincount(row, minlength=6) for row in drawn]) / 20_000
    np.testing.assert_allclose(shares, probability / probability.sum(1, keepdims=True), atol=0.015)
    assert (shares[np.asarray(probability) == 0] == 0).all()


def test_the_policy_gradient_is_the_gradient_of_the_expected_reward(variables: Any, batch: Any):
    model = dataclasses.replace(CONFIG, draws=20_000, own_items_share=0.5).build(SCHEMA)
    own = jnp.asarray(multi_hot(HISTORY, V))
    generator, discriminator = (
        jnp.asarray(scores_of(variables["params"][name], batch["user"])) for name in ("generator", "discriminator")
    )

    def policy(generator: jax.Array, discriminator: jax.Array) -> jax.Array:
        rngs = {"dropout": jax.random.key(0)}
        return model.apply(variables, generator, discriminator, own, method="policy_loss", rngs=rngs).sum()

    of_generator, of_discriminator = jax.jit(jax.grad(policy, argnums=(0, 1)))(generator, discriminator)
    p, reward = softmax(np.asarray(generator)), 2 / (1 + np.exp(-np.asarray(discriminator))) - 1
    # d(-sum_v p_v r_v) / d logit_i = -p_i (r_i - sum_v p_v r_v)
    expected = -p * (reward - (p * reward).sum(1, keepdims=True))
    np.testing.assert_allclose(of_generator, expected, atol=5e-3)
    assert np.abs(expected).max() > 0.02
    assert (of_discriminator == 0).all()


def test_the_discriminator_learns_from_drawn_items_and_the_generator_does_not(variables: Any, batch: Any):
    model = dataclasses.replace(CONFIG, draws=20_000, temperature=0.5).build(SCHEMA)
    generator, discriminator = (
        jnp.asarray(scores_of(variables["params"][name], batch["user"])) for name in ("generator", "discriminator")
    )

    def drawn(generator: jax.Array, discriminator: jax.Array) -> jax.Array:
        rngs = {"dropout": jax.random.key(0)}
        return model.apply(variables, generator, discriminator, method="drawn_loss", rngs=rngs).sum()

    of_generator, of_discriminator = jax.jit(jax.grad(drawn, argnums=(0, 1)))(generator, discriminator)
    expected = softmax(np.asarray(generator) / 0.5) / (1 + np.exp(-np.asarray(discriminator)))
    np.testing.assert_allclose(of_discriminator, expected, atol=1e-2)
    assert (of_generator == 0).all()


def test_rewards_count_once_pretraining_is_over(model: IRGAN, variables: Any, batch: Any):
    def loss_of(model: IRGAN) -> Any:
        return jax.jit(lambda v, b: model.apply(v, b, train=True, method="loss", rngs={"dropout": jax.random.key(0)}))

    with_policy, without = (loss_of(m) for m in (model, dataclasses.replace(CONFIG, policy_weight=0.0).build(SCHEMA)))
    for step, pretrains in ((0, True), (1, True), (2, False), (9, False)):
        at_step = batch | {"step": jnp.asarray(step)}
        assert bool(with_policy(variables, at_step) == without(variables, at_step)) is pretrains


def test_padding_changes_nothing(model: IRGAN, variables: Any, batch: Any):
    check_padding_ids(model, variables, batch)
    check_padding_rows(model, variables, batch)


def test_items_are_drawn_at_random_in_training(model: IRGAN, variables: Any, batch: Any):
    check_random_loss(model, variables, batch)


def test_serve_returns_the_best_unseen_items_in_order(model: IRGAN, variables: Any, batch: Any):
    check_serve(model, variables, batch, top_k=3)


def test_one_program_a_shape(model: IRGAN, variables: Any, batch: Any):
    check_one_program_a_shape(model, variables, batch)


def test_unknown_users_are_refused(ratings_file: Path):
    dataset = Dataset(source=str(ratings_file), min_interactions=1, split="strong_generalisation")
    with pytest.raises(UserError) as caught:
        top_n_data(load_interactions(dataset), dataset, CONFIG.samples())
    assert str(caught.value) == (
        "a model of user embeddings knows no user outside its training part, which Dataset.split="
        "'strong_generalisation' asks for; use a model that reads histories, or split='random_by_user'"
    )


def test_it_learns(ratings_file: Path):
    check_learns(ratings_file, IRGANConfig(embedding_dim=8, draws=8, pretraining_steps=40))


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"embedding_dim": 0}, "IRGANConfig.embedding_dim is 0; allowed: >= 1"),
        ({"draws": 0}, "IRGANConfig.draws is 0; allowed: >= 1"),
        ({"pretraining_steps": -1}, "IRGANConfig.pretraining_steps is -1; allowed: >= 0"),
        ({"policy_weight": -1.0}, "IRGANConfig.policy_weight is -1.0; allowed: >= 0"),
        ({"own_items_share": 1.0}, "IRGANConfig.own_items_share is 1.0; allowed: [0, 1)"),
        ({"temperature": 0.0}, "IRGANConfig.temperature is 0.0; allowed: > 0"),
        ({"l2": -0.1}, "IRGANConfig.l2 is -0.1; allowed: >= 0"),
        ({"table_deviation": 0.0}, "IRGANConfig.table_deviation is 0.0; allowed: > 0"),
    ],
)
def test_a_bad_config_says_what_is_allowed(values: dict[str, Any], error: str):
    with pytest.raises(UserError) as caught:
        IRGANConfig(**values)
    assert str(caught.value) == error
