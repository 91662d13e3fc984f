import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import (
    ShortTraining,
    check_hidden_units,
    check_int8,
    check_one_program_a_shape,
    short_training,
)
from random_variables import random_variables

from recjax.config import Experiment, Training
from recjax.data.rating import RatingSchema
from recjax.errors import UserError
from recjax.models.lstm_two_branch import LSTMTwoBranch, LSTMTwoBranchConfig
from recjax.training.pipeline import load_data

B, L, D, H, U, V = 4, 5, 4, 3, 7, 9
CONFIG = LSTMTwoBranchConfig(embedding_dim=D, units=H, mlp_dims=(6,), dropout_rate=0.3, l2=0.01)
SCHEMA = RatingSchema(n_users=U, n_items=V, min_rating=1.0, max_rating=5.0, mean_rating=3.5, max_history=L)
USER_LENGTHS, ITEM_LENGTHS = np.array([5, 2, 0, 3]), np.array([1, 0, 5, 2])


@pytest.fixture(scope="module")
def model() -> LSTMTwoBranch:
    return CONFIG.build(SCHEMA)


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)

    def sequences(lengths: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        used = np.arange(L) < lengths[:, None]
        ids = np.where(used, rng.integers(n, size=(B, L)), -1).astype(np.int32)
        return ids, np.where(used, rng.integers(1, 6, (B, L)), 0).astype(np.float32)

    user_items, user_ratings = sequences(USER_LENGTHS, V)
    item_users, item_ratings = sequences(ITEM_LENGTHS, U)
    return {
        "user": rng.integers(U, size=B).astype(np.int32),
        "item": rng.integers(V, size=B).astype(np.int32),
        "rating": np.array([1, 5, 3, 4], np.float32),
        "weight": np.ones(B, np.float32),
        "user_items": user_items,
        "user_ratings": user_ratings,
        "item_users": item_users,
        "item_ratings": item_ratings,
    }


@pytest.fixture(scope="module")
def variables(model: LSTMTwoBranch, batch: dict[str, np.ndarray]) -> Any:
    return random_variables(model, batch)


@pytest.fixture(scope="module")
def score(model: LSTMTwoBranch) -> Any:
    return jax.jit(model.apply)


@pytest.fixture(scope="module")
def loss_of(model: LSTMTwoBranch) -> Any:
    return jax.jit(lambda variables, batch: model.apply(variables, batch, train=False, method="loss"))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def expected_ratings(variables: Any, batch: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the [B] ratings, one sample and one step at a time."""
    params = jax.tree.map(np.asarray, variables["params"])
    table = {name: params[name]["table"] for name in ("users", "items", "user_biases", "item_biases")}

    def state(branch: str, others: str, ids: np.ndarray, ratings: np.ndarray) -> np.ndarray:
        layer, h, c = params[branch], np.zeros(H), np.zeros(H)
        for id_, rating in zip(ids, ratings, strict=True):
            step = np.concatenate([table[f"{others}s"][id_], table[f"{others}_biases"][id_], [(rating - 3.5) / 2]])
            gates = step @ layer["input"]["kernel"] + layer["input"]["bias"] + h @ layer["state_kernel"]
            i, f, g, o = np.split(gates, 4)
            c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        return h

    ratings = []
    for row in range(B):
        user, item, n, m = batch["user"][row], batch["item"][row], USER_LENGTHS[row], ITEM_LENGTHS[row]
        x = np.concatenate(
            [
                table["users"][user],
                table["items"][item],
                state("user_branch", "item", batch["user_items"][row, :n], batch["user_ratings"][row, :n]),
                state("item_branch", "user", batch["item_users"][row, :m], batch["item_ratings"][row, :m]),
            ]
        )
        mlp = params["mlp"]
        x = np.maximum(x @ mlp["dense_0"]["kernel"] + mlp["dense_0"]["bias"], 0)
        x = x @ mlp["dense_1"]["kernel"] + mlp["dense_1"]["bias"]
        logit = x[0] + table["user_biases"][user, 0] + table["item_biases"][item, 0]
        ratings.append(1 + 4 * sigmoid(logit + np.log(2.5 / 1.5)))  # the mean stands 2.5 above 1 and 1.5 below 5
    return np.array(ratings)


def test_ratings_agree_with_numpy(score: Any, variables: Any, batch: dict[str, np.ndarray]):
    ratings = score(variables, batch)
    assert ratings.dtype == jnp.float32
    np.testing.assert_allclose(ratings, expected_ratings(variables, batch), rtol=1e-5)


def test_loss_is_the_squared_error_and_the_penalty(loss_of: Any, variables: Any, batch: dict[str, np.ndarray]):
    tables = {name: np.asarray(variables["params"][name]["table"]) for name in ("users", "items")}
    biases = {name: np.asarray(variables["params"][name]["table"]) for name in ("user_biases", "item_biases")}
    penalty = (tables["users"][batch["user"]] ** 2).sum(1) + (tables["items"][batch["item"]] ** 2).sum(1)
    penalty += biases["user_biases"][batch["user"], 0] ** 2 + biases["item_biases"][batch["item"], 0] ** 2
    error = expected_ratings(variables, batch) - batch["rating"]
    assert loss_of(variables, batch) == pytest.approx(np.mean(error**2 + 0.01 * penalty), rel=1e-5)


def test_a_model_without_weights_gives_the_mean(score: Any, variables: Any, batch: dict[str, np.ndarray]):
    np.testing.assert_allclose(score(jax.tree.map(jnp.zeros_like, variables), batch), np.full(B, 3.5), rtol=1e-6)


def test_ratings_keep_to_the_scale(score: Any, variables: Any, batch: dict[str, np.ndarray]):
    for factor in (-100, 100):
        ratings = score(jax.tree.map(lambda leaf, factor=factor: factor * leaf, variables), batch)
        assert ((ratings >= 1) & (ratings <= 5)).all()


def test_padding_means_nothing(loss_of: Any, score: Any, variables: Any, batch: dict[str, np.ndarray]):
    other = batch | {
        name: np.where(batch[ids] == -1, 4, batch[name]).astype(np.float32)
        for name, ids in (("user_ratings", "user_items"), ("item_ratings", "item_users"))
    }
    np.testing.assert_array_equal(score(variables, other), score(variables, batch))
    wider = batch | {
        name: np.pad(batch[name], ((0, 0), (0, 2)), constant_values=-1)
        for name in ("user_items", "user_ratings", "item_users", "item_ratings")
    }
    np.testing.assert_allclose(score(variables, wider), score(variables, batch), rtol=1e-6)
    padded = {name: np.pad(column, [(0, 2)] + [(0, 0)] * (column.ndim - 1)) for name, column in batch.items()}
    assert loss_of(variables, padded) == pytest.approx(float(loss_of(variables, batch)), rel=1e-6)


def test_the_order_of_each_sequence_is_read(score: Any, variables: Any, batch: dict[str, np.ndarray]):
    for side, row in (("user", 0), ("item", 2)):
        names = [f"{side}_ratings", "user_items" if side == "user" else "item_users"]
        other = batch | {
            name: np.where(np.arange(B)[:, None] == row, batch[name][:, ::-1], batch[name]) for name in names
        }
        changed = score(variables, other) != score(variables, batch)
        assert changed.tolist() == [index == row for index in range(B)]


def test_one_program_a_shape(model: LSTMTwoBranch, variables: Any, batch: dict[str, np.ndarray]):
    check_one_program_a_shape(model, variables, batch)


def test_serve_returns_the_ratings(model: LSTMTwoBranch, score: Any, variables: Any, batch: dict[str, np.ndarray]):
    requests = {name: column for name, column in batch.items() if name not in ("rating", "weight")}
    answer = jax.jit(lambda v, b: model.apply(v, b, top_k=3, method="serve"))(variables, requests)
    np.testing.assert_allclose(answer["rating"], score(variables, batch), rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"embedding_dim": 0}, "LSTMTwoBranchConfig.embedding_dim is 0; allowed: >= 1"),
        ({"units": 0}, "LSTMTwoBranchConfig.units is 0; allowed: >= 1"),
        ({"mlp_dims": ()}, "LSTMTwoBranchConfig.mlp_dims is (); allowed: widths >= 1"),
        ({"dropout_rate": 1.0}, "LSTMTwoBranchConfig.dropout_rate is 1.0; allowed: [0, 1)"),
        ({"l2": -1.0}, "LSTMTwoBranchConfig.l2 is -1.0; allowed: >= 0"),
    ],
)
def test_config_rejects(values: dict[str, Any], message: str):
    with pytest.raises(UserError) as error:
        LSTMTwoBranchConfig(**values)
    assert str(error.value) == message


def test_hidden_units_name_real_parameters_of_the_stated_width(variables: Any):
    check_hidden_units(CONFIG, variables)


@pytest.fixture(scope="module")
def experiment(dlrm_experiment: Experiment) -> Experiment:
    return dataclasses.replace(
        dlrm_experiment,
        name="tiny_lstm_two_branch",
        dataset=dataclasses.replace(dlrm_experiment.dataset, max_history=4),
        model=LSTMTwoBranchConfig(embedding_dim=4, units=6, mlp_dims=(8,), dropout_rate=0.1),
        training=Training(epochs=6, batch_size=32, learning_rate=2e-2),
    )


@pytest.fixture(scope="module")
def trained(experiment: Experiment) -> ShortTraining:
    return short_training(experiment, load_data(experiment))


def test_a_short_training_learns_with_one_program(trained: ShortTraining):
    assert trained.losses[-1] < 0.9 * trained.losses[0]
    assert trained.step._cache_size() == 1


def test_int8_answers_nearly_the_same(experiment: Experiment, trained: ShortTraining):
    kernels = ["item_branch/input/kernel", "mlp/dense_0/kernel", "user_branch/input/kernel"]
    check_int8(experiment, trained, kernels, tolerance=0.02)  # of ratings up to 5: 0.1


@pytest.mark.parametrize("mean", [1.0, 5.0])
def test_a_training_part_at_one_end_of_the_scale_starts_near_it(mean: float, batch: Any, variables: Any):
    model = CONFIG.build(dataclasses.replace(SCHEMA, mean_rating=mean))
    at_zero = jax.tree.map(np.zeros_like, variables)
    np.testing.assert_allclose(jax.jit(model.apply)(at_zero, batch), mean, atol=0.01)
