from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from model_checks import check_one_program_a_shape
from random_variables import random_variables

from recjax.config import Dataset, Experiment, Training
from recjax.data.top_n import TopNSchema
from recjax.errors import UserError
from recjax.evaluation import sanity_rows
from recjax.models.bpr import BPRConfig
from recjax.training.optimizer import make_optimizer
from recjax.training.pipeline import load_data, train
from recjax.training.step import init_state, make_train_step
from recjax.transforms.protocol import chain

CONFIG = BPRConfig(embedding_dim=3, negatives=2, l2=0.1, dropout_rate=0.5)
SCHEMA = TopNSchema(n_users=4, n_items=6, max_history=3)
USER, ITEM = np.array([0, 3, 3], np.int32), np.array([5, 0, 1], np.int32)
NEGATIVES = np.array([[1, 2], [4, 4], [3, 0]], np.int32)
BATCH = {"user": USER, "item": ITEM, "negatives": NEGATIVES, "weight": np.ones(3, np.float32)}


@pytest.fixture(scope="module")
def model() -> Any:
    return CONFIG.build(SCHEMA)


@pytest.fixture(scope="module")
def variables(model: Any) -> Any:
    return random_variables(model, BATCH)


@pytest.fixture(scope="module")
def loss_of(model: Any) -> Any:
    return jax.jit(lambda v, b: jax.value_and_grad(lambda v: model.apply(v, b, train=False, method="loss"))(v))


def scores_in_numpy(variables: Any) -> np.ndarray:
    """Returns every user's score of every item [U, V]."""
    users, items, biases = (np.asarray(variables["params"][n]["table"]) for n in ("users", "items", "item_biases"))
    return users @ items.T + biases[:, 0]


def test_scores_are_products_plus_item_bias(model: Any, variables: Any):
    request = {"user": np.array([3, 1], np.int32), "history": np.array([[2, 0, -1], [-1, -1, -1]], np.int32)}
    expected = scores_in_numpy(variables)[[3, 1]]
    np.testing.assert_allclose(jax.jit(model.apply)(variables, request), expected, rtol=1e-5, atol=1e-6)
    answer = jax.jit(lambda v, b: model.apply(v, b, top_k=4, method="serve"))(variables, request)
    expected[0, [2, 0]] = -np.inf
    assert answer["items"].tolist() == np.argsort(-expected, 1)[:, :4].tolist()


def test_loss_is_by_hand(variables: Any, loss_of: Any):
    scores, losses = scores_in_numpy(variables), []
    users, items = (np.asarray(variables["params"][name]["table"]) for name in ("users", "items"))
    for user, item, negatives in zip(USER, ITEM, NEGATIVES, strict=True):
        margins = scores[user, item] - scores[user, negatives]
        squares = (users[user] ** 2).sum() + (items[[item, *negatives]] ** 2).sum()
        losses.append(np.log1p(np.exp(-margins)).mean() + 0.1 * squares)
    assert loss_of(variables, BATCH)[0] == pytest.approx(np.mean(losses), rel=1e-5)


def test_padding_rows_change_neither_loss_nor_gradient(variables: Any, loss_of: Any):
    padded = {name: np.pad(column, [(0, 2)] + [(0, 0)] * (column.ndim - 1)) for name, column in BATCH.items()}
    loss, gradient = loss_of(variables, BATCH)
    padded_loss, padded_gradient = loss_of(variables, padded)
    assert padded_loss == pytest.approx(float(loss), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), padded_gradient, gradient)


def test_dropout_changes_the_training_loss_by_its_key(model: Any, variables: Any):
    loss = jax.jit(lambda v, b, key: model.apply(v, b, train=True, method="loss", rngs={"dropout": key}))
    keys = [jax.random.key(seed, impl="unsafe_rbg") for seed in (0, 0, 1)]
    first, again, other = (float(loss(variables, BATCH, key)) for key in keys)
    assert first == again
    assert first != other


def test_one_program_a_shape(model: Any, variables: Any):
    history = np.array([[2, 0, -1], [-1, -1, -1], [5, -1, -1]], np.int32)
    check_one_program_a_shape(model, variables, BATCH | {"history": history})


def test_a_training_lowers_the_loss_and_beats_popularity_in_one_program(ratings_file: Path):
    training = Training(epochs=20, batch_size=64, learning_rate=0.03, validation_every=5)
    experiment = Experiment(
        name="tiny_bpr",
        dataset=Dataset(source=str(ratings_file), min_interactions=1, split="random_by_user"),
        model=BPRConfig(embedding_dim=8, negatives=2, l2=1e-3),
        training=training,
        finetuning=training,
    )
    data = load_data(experiment)
    result = train(experiment, data)
    assert result.history[-1].train_loss < 0.7 * result.history[0].train_loss
    assert result.best.validation["ndcg@10"] > sanity_rows(data, "valid")["popularity"].metrics["ndcg@10"]
    module, optimizer = experiment.model.build(data.schema), make_optimizer(training, chain(), experiment.model, 1)
    step, score = make_train_step(module, optimizer, 0), jax.jit(module.apply)
    state = init_state(result.params, optimizer)
    for batch in data.train_batches(64, 0, 1):
        state, _ = step(state, batch)
    for part in ("valid", "test"):
        for batch in data.eval_batches(part, 8):
            score({"params": state.params}, batch)
    assert step._cache_size() == score._cache_size() == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"embedding_dim": 0}, "BPRConfig.embedding_dim is 0; allowed: >= 1"),
        ({"negatives": 0}, "BPRConfig.negatives is 0; allowed: >= 1"),
        ({"l2": -0.1}, "BPRConfig.l2 is -0.1; allowed: >= 0"),
        ({"dropout_rate": 1.0}, "BPRConfig.dropout_rate is 1.0; allowed: [0, 1)"),
        ({"table_deviation": 0.0}, "BPRConfig.table_deviation is 0.0; allowed: > 0"),
    ],
)
def test_bad_values_are_named(fields: dict[str, Any], message: str):
    with pytest.raises(UserError) as error:
        BPRConfig(**fields)
    assert str(error.value) == message
