import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import check_one_program_a_shape
from random_variables import random_variables

from recjax.config import Dataset, Experiment, Training
from recjax.data.rating import RatingSchema
from recjax.errors import UserError
from recjax.models.matrix_factorization import MatrixFactorizationConfig
from recjax.training.pipeline import load_data, train
from recjax.training.step import init_params

CONFIG = MatrixFactorizationConfig(embedding_dim=4, l2=0.3, bias_l2=0.2)
SCHEMA = RatingSchema(n_users=5, n_items=6, min_rating=1.0, max_rating=5.0, mean_rating=3.5)
USER, ITEM = np.array([0, 4, 2, 0], np.int32), np.array([5, 1, 1, 0], np.int32)
RATING = np.array([1, 5, 3, 4], np.float32)
BATCH = {"user": USER, "item": ITEM, "rating": RATING, "weight": np.ones(4, np.float32)}


@pytest.fixture(scope="module")
def model() -> Any:
    return CONFIG.build(SCHEMA)


@pytest.fixture(scope="module")
def variables(model: Any) -> Any:
    return random_variables(model, BATCH)


@pytest.fixture(scope="module")
def loss_of(model: Any) -> Any:
    return jax.jit(lambda v, b: jax.value_and_grad(lambda v: model.apply(v, b, train=True, method="loss"))(v))


def tables(variables: Any) -> tuple[np.ndarray, ...]:
    params = variables["params"]
    return tuple(np.asarray(params[name]["table"]) for name in ("users", "items", "user_biases", "item_biases"))


def test_a_rating_is_mean_plus_biases_plus_product(model: Any, variables: Any):
    users, items, user_biases, item_biases = tables(variables)
    expected = [
        3.5 + user_biases[u, 0] + item_biases[i, 0] + users[u] @ items[i] for u, i in zip(USER, ITEM, strict=True)
    ]
    np.testing.assert_allclose(jax.jit(model.apply)(variables, BATCH), expected, rtol=1e-5)


def test_loss_is_squared_error_plus_penalties(model: Any, variables: Any, loss_of: Any):
    users, items, user_biases, item_biases = tables(variables)
    errors = np.asarray(jax.jit(model.apply)(variables, BATCH)) - RATING
    vectors = (users[USER] ** 2).sum(1) + (items[ITEM] ** 2).sum(1)
    biases = user_biases[USER, 0] ** 2 + item_biases[ITEM, 0] ** 2
    assert loss_of(variables, BATCH)[0] == pytest.approx((errors**2 + 0.3 * vectors + 0.2 * biases).mean(), rel=1e-5)


def test_served_ratings_stay_on_the_scale(model: Any, variables: Any):
    far = jax.tree.map(lambda x: 20 * x, variables)
    rating = np.asarray(jax.jit(model.apply)(far, BATCH))
    assert rating.min() < 1
    assert rating.max() > 5
    served = jax.jit(lambda v, b: model.apply(v, b, top_k=3, method="serve"))(far, BATCH)
    np.testing.assert_array_equal(served["rating"], np.clip(rating, 1, 5))


def test_padding_rows_change_neither_loss_nor_gradient(variables: Any, loss_of: Any):
    padded = {name: np.pad(column, (0, 3)) for name, column in BATCH.items()}
    loss, gradient = loss_of(variables, BATCH)
    padded_loss, padded_gradient = loss_of(variables, padded)
    assert padded_loss == pytest.approx(float(loss), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), padded_gradient, gradient)


def test_an_untrained_model_predicts_about_the_mean(model: Any):
    params = init_params(dataclasses.replace(CONFIG, table_deviation=1e-4).build(SCHEMA), BATCH, 0)
    assert jnp.allclose(jax.jit(model.apply)({"params": params}, BATCH), 3.5, atol=1e-5)


def test_one_program_a_shape(model: Any, variables: Any):
    check_one_program_a_shape(model, variables, BATCH)


def test_a_training_lowers_loss_and_error(ratings_file: Path):
    training = Training(epochs=12, batch_size=64, learning_rate=0.03)
    experiment = Experiment(
        name="tiny_mf",
        dataset=Dataset(source=str(ratings_file), min_interactions=1, split="random", ratios=(0.7, 0.15, 0.15)),
        model=MatrixFactorizationConfig(embedding_dim=4, l2=0.01),
        training=training,
        finetuning=training,
    )
    data = load_data(experiment)
    result = train(experiment, data)
    assert result.history[-1].train_loss < 0.7 * result.history[0].train_loss
    assert result.best.validation["rmse"] < result.history[0].validation["rmse"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"embedding_dim": 0}, "MatrixFactorizationConfig.embedding_dim is 0; allowed: >= 1"),
        ({"l2": -0.1}, "MatrixFactorizationConfig.l2 is -0.1; allowed: >= 0"),
        ({"bias_l2": -0.1}, "MatrixFactorizationConfig.bias_l2 is -0.1; allowed: >= 0"),
        ({"table_deviation": 0.0}, "MatrixFactorizationConfig.table_deviation is 0.0; allowed: > 0"),
    ],
)
def test_bad_values_are_named(fields: dict[str, Any], message: str):
    with pytest.raises(UserError) as error:
        MatrixFactorizationConfig(**fields)
    assert str(error.value) == message
