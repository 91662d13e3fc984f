import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import check_one_program_a_shape, compiled
from random_variables import random_variables

from recjax.config import Dataset, Experiment, Training
from recjax.data.rating import RatingSchema
from recjax.errors import UserError
from recjax.models.autorec import AutoRec, AutoRecConfig
from recjax.training.optimizer import make_optimizer
from recjax.training.pipeline import load_data, train
from recjax.training.step import init_params, init_state, make_train_step
from recjax.transforms.protocol import chain

N_USERS, N_ITEMS, MEAN = 5, 4, 3.25
SCHEMA = RatingSchema(n_users=N_USERS, n_items=N_ITEMS, min_rating=1.0, max_rating=5.0, mean_rating=MEAN, max_row=3)
CONFIG = AutoRecConfig(hidden_dims=(6, 3), l2=0.01)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def reconstruction(params: Any, ratings: np.ndarray) -> np.ndarray:
    """Returns the reconstructed rows of dense rows of ratings, 0 where there is none, in plain NumPy."""
    params = jax.tree.map(np.asarray, params)
    code = ratings
    for index in range(2):
        layer = params["encoder"][f"dense_{index}"]
        code = sigmoid(code @ layer["kernel"] + layer["bias"])
    return MEAN + code @ params["decoder"]["kernel"] + params["decoder"]["bias"]


@pytest.fixture(scope="module")
def model() -> AutoRec:
    return CONFIG.build(SCHEMA)


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    return {
        "row_ids": np.array([[0, 3, -1], [4, 1, 2], [-1, -1, -1]], np.int32),
        "row_ratings": np.array([[5, 2, 0], [1, 4, 3], [0, 0, 0]], np.float32),
        "column": np.array([2, 1, 0], np.int32),
        "weight": np.ones(3, np.float32),
    }


@pytest.fixture(scope="module")
def dense_ratings() -> np.ndarray:
    return np.array([[5, 0, 0, 2, 0], [0, 4, 3, 0, 1], [0, 0, 0, 0, 0]], np.float32)


@pytest.fixture(scope="module")
def variables(model: AutoRec, batch: dict[str, np.ndarray]) -> Any:
    return random_variables(model, batch)


@pytest.fixture(scope="module")
def score(model: AutoRec) -> Any:
    return jax.jit(lambda variables, batch: model.apply(variables, batch))


@pytest.fixture(scope="module")
def loss_of(model: AutoRec) -> Any:
    return jax.jit(lambda variables, batch: model.apply(variables, batch, train=False, method="loss"))


def test_ratings_agree_with_numpy(score: Any, variables: Any, batch: Any, dense_ratings: np.ndarray):
    rows = reconstruction(variables["params"], dense_ratings)
    # The third row has no rating at all: the mean.
    np.testing.assert_allclose(score(variables, batch), [rows[0, 2], rows[1, 1], MEAN], rtol=1e-5)


def test_loss_agrees_with_numpy_over_known_ratings_only(
    loss_of: Any, variables: Any, batch: Any, dense_ratings: np.ndarray
):
    known = dense_ratings > 0
    error = (reconstruction(variables["params"], dense_ratings) - dense_ratings)[known]
    params = variables["params"]
    kernels = [params["encoder"]["dense_0"], params["encoder"]["dense_1"], params["decoder"]]
    penalty = sum(float(jnp.sum(layer["kernel"] ** 2)) for layer in kernels)
    assert loss_of(variables, batch) == pytest.approx(np.mean(error**2) + 0.01 * penalty, rel=1e-5)


def test_padding_changes_nothing(score: Any, loss_of: Any, variables: Any, batch: Any):
    wider = batch | {
        "row_ids": np.pad(batch["row_ids"], ((0, 0), (0, 2)), constant_values=-1),
        "row_ratings": np.pad(batch["row_ratings"], ((0, 0), (0, 2))),
    }
    np.testing.assert_array_equal(score(variables, wider), score(variables, batch))
    longer = {name: np.pad(column, [(0, 2)] + [(0, 0)] * (column.ndim - 1)) for name, column in batch.items()}
    assert loss_of(variables, longer) == pytest.approx(float(loss_of(variables, batch)), rel=1e-6)


def test_a_column_without_training_ratings_is_predicted_the_mean(model: AutoRec, batch: Any):
    optimizer = make_optimizer(Training(learning_rate=1e-2), chain(), CONFIG, 20)
    step = make_train_step(model, optimizer, 0)
    seen = batch | {"row_ids": np.where(batch["row_ids"] == 4, -1, batch["row_ids"])}
    state = init_state(init_params(model, seen, 0), optimizer)
    for _ in range(20):
        state, _ = step(state, seen)
    ratings = jax.jit(lambda v, b: model.apply(v, b, method="reconstruct"))({"params": state.params}, seen)
    assert (ratings[:2, 4] == MEAN).all()
    assert (ratings[:2, :4] != MEAN).all()


def test_serve_clips_to_the_scale(model: AutoRec, score: Any, variables: Any, batch: Any):
    large = jax.tree.map(lambda x: 30 * x, variables)
    assert not ((score(large, batch) >= 1) & (score(large, batch) <= 5)).all()
    answer = jax.jit(lambda v, b: model.apply(v, b, top_k=10, method="serve"))(large, batch)["rating"]
    np.testing.assert_array_equal(answer, np.clip(score(large, batch), 1, 5))


def test_rows_of_users_have_a_column_an_item_and_agree_with_numpy(batch: Any):
    by_users = dataclasses.replace(CONFIG, by="users").build(SCHEMA)
    other = batch | {"row_ids": np.minimum(batch["row_ids"], N_ITEMS - 1)}
    variables = random_variables(by_users, other)
    assert variables["params"]["decoder"]["kernel"].shape == (3, N_ITEMS)
    dense_ratings = np.array([[5, 0, 0, 2], [0, 4, 3, 1]], np.float32)
    rows = reconstruction(variables["params"], dense_ratings)
    ratings = compiled(by_users)(variables, other)
    np.testing.assert_allclose(ratings, [rows[0, 2], rows[1, 1], MEAN], rtol=1e-5)
    assert dataclasses.replace(CONFIG, by="users").samples().unit == "users"
    assert CONFIG.samples().unit == "items"


def test_hidden_units_name_real_parameters_of_the_stated_width(variables: Any):
    for layer in CONFIG.hidden_units():
        for path, axis in layer.slices:
            leaf = variables["params"]
            for key in path.split("/"):
                leaf = leaf[key]
            assert leaf.shape[axis] == CONFIG.hidden_dims[layer.index]


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"by": "rows"}, "unknown AutoRecConfig.by 'rows'; valid: items, users"),
        ({"hidden_dims": ()}, "AutoRecConfig.hidden_dims is (); allowed: one or more widths >= 1"),
        ({"hidden_dims": (8, 0)}, "AutoRecConfig.hidden_dims is (8, 0); allowed: one or more widths >= 1"),
        ({"l2": -1.0}, "AutoRecConfig.l2 is -1.0; allowed: >= 0"),
        ({"dropout_rate": 1.0}, "AutoRecConfig.dropout_rate is 1.0; allowed: [0, 1)"),
    ],
)
def test_a_bad_config_says_what_is_allowed(values: dict[str, Any], error: str):
    with pytest.raises(UserError) as caught:
        AutoRecConfig(**values)
    assert str(caught.value) == error


@pytest.mark.parametrize("by", ["items", "users"])
def test_training_lowers_loss_and_error(ratings_file: Path, by: Any):
    training = Training(epochs=15, batch_size=8, learning_rate=1e-2)
    experiment = Experiment(
        name="tiny",
        dataset=Dataset(source=str(ratings_file), min_interactions=1, split="random"),
        model=AutoRecConfig(by=by, hidden_dims=(16,)),
        training=training,
        finetuning=training,
    )
    history = train(experiment, load_data(experiment)).history
    assert history[-1].train_loss < history[0].train_loss / 2
    assert min(record.validation["rmse"] for record in history) < history[0].validation["rmse"]


def test_one_program_a_shape(model: AutoRec, variables: Any, batch: Any):
    check_one_program_a_shape(model, variables, batch)
