from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import check_one_program_a_shape, check_padding_rows, compiled
from random_variables import random_variables

from recjax.config import Dataset, Experiment, Training
from recjax.data.batches import PADDING_ID
from recjax.data.top_n import TopNSchema
from recjax.errors import UserError
from recjax.models.neumf import NeuMF, NeuMFConfig
from recjax.training.pipeline import load_data, train

CONFIG = NeuMFConfig(factors=3, embedding_dim=4, mlp=(6, 5), negatives=2, dropout_rate=0.2, embedding_dropout_rate=0.1)
N_USERS, N_ITEMS = 4, 7


@pytest.fixture(scope="module")
def model() -> NeuMF:
    return CONFIG.build(TopNSchema(n_users=N_USERS, n_items=N_ITEMS, max_history=3))


@pytest.fixture(scope="module")
def batch() -> dict[str, jax.Array]:
    columns = {
        "user": np.array([2, 0, 3], np.int32),
        "item": np.array([6, 1, 0], np.int32),
        "negatives": np.array([[0, 5], [2, 3], [4, 4]], np.int32),
        "history": np.array([[6, 2, 1], [1, PADDING_ID, PADDING_ID], [0, 3, PADDING_ID]], np.int32),
        "weight": np.ones(3, np.float32),
    }
    return {name: jnp.asarray(column) for name, column in columns.items()}


@pytest.fixture(scope="module")
def variables(model: NeuMF, batch: dict[str, jax.Array]) -> Any:
    return random_variables(model, batch)


def logit(variables: Any, user: int, item: int) -> float:
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    x = np.concatenate([p["mlp_users"]["table"][user], p["mlp_items"]["table"][item]])
    for layer in (p["mlp"]["dense_0"], p["mlp"]["dense_1"]):
        x = np.maximum(x @ layer["kernel"] + layer["bias"], 0)
    product = p["mf_users"]["table"][user] * p["mf_items"]["table"][item]
    return (product @ p["mf_logit"]["kernel"] + x @ p["mlp_logit"]["kernel"] + p["mlp_logit"]["bias"])[0]


def test_scores_of_the_catalogue_agree_with_numpy(model: NeuMF, variables: Any, batch: dict[str, jax.Array]):
    expected = [[logit(variables, user, item) for item in range(N_ITEMS)] for user in batch["user"].tolist()]
    np.testing.assert_allclose(compiled(model)(variables, batch), expected, rtol=1e-5, atol=1e-5)


def test_padding_rows_change_neither_loss_nor_gradient(model: NeuMF, variables: Any, batch: dict[str, jax.Array]):
    check_padding_rows(model, variables, batch)


def test_one_program_a_shape(model: NeuMF, variables: Any, batch: dict[str, jax.Array]):
    check_one_program_a_shape(model, variables, batch)


def test_loss_is_the_mean_logloss_of_items_and_negatives_of_rows_that_count(
    model: NeuMF, variables: Any, batch: dict[str, jax.Array]
):
    losses = []
    for row in (0, 2):
        for item, label in ((int(batch["item"][row]), 1), *((item, 0) for item in batch["negatives"][row].tolist())):
            p = 1 / (1 + np.exp(-logit(variables, int(batch["user"][row]), item)))
            losses.append(-np.log(p if label else 1 - p))
    padded = batch | {"weight": jnp.array([1.0, 0.0, 1.0])}
    loss = model.apply(variables, padded, train=False, method="loss")
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_serve_leaves_out_the_users_own_items(model: NeuMF, variables: Any, batch: dict[str, jax.Array]):
    answer = model.apply(variables, batch, top_k=3, method="serve")
    for row, user in enumerate(batch["user"].tolist()):
        unseen = [item for item in range(N_ITEMS) if item not in batch["history"][row].tolist()]
        best = sorted(unseen, key=lambda item: -logit(variables, user, item))[:3]
        assert answer["items"][row].tolist() == best


def test_training_lowers_the_loss(ratings_file: Any):
    training = Training(epochs=8, batch_size=64, learning_rate=3e-2)
    experiment = Experiment(
        name="tiny_neumf",
        dataset=Dataset(source=str(ratings_file), min_interactions=1, split="random_by_user"),
        model=CONFIG,
        training=training,
        finetuning=training,
    )
    result = train(experiment, load_data(experiment))
    assert result.history[-1].train_loss < 0.9 * result.history[0].train_loss


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("factors", 0, ">= 1"),
        ("embedding_dim", 0, ">= 1"),
        ("negatives", 0, ">= 1"),
        ("mlp", (), "one or more widths >= 1"),
        ("dropout_rate", 1.0, "[0, 1)"),
        ("embedding_dropout_rate", -1.0, "[0, 1)"),
    ],
)
def test_config_rejects(field: str, value: Any, allowed: str):
    with pytest.raises(UserError) as error:
        NeuMFConfig(**{field: value})
    assert str(error.value) == f"NeuMFConfig.{field} is {value!r}; allowed: {allowed}"
