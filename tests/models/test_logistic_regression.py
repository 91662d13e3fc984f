import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import check_one_program_a_shape, check_padding_rows

from recjax.data.batches import PADDING_ID
from recjax.data.features import Field, LabelledSchema
from recjax.models.logistic_regression import LogisticRegression, LogisticRegressionConfig

BATCH = {
    "dense": np.array([[1, 2], [0, -1]], np.float32),
    "sparse_ids": np.array([[2, 0, 1], [0, 1, PADDING_ID]], np.int32),
    "labels": np.array([1, 0], np.float32),
    "weight": np.array([1, 1], np.float32),
}


@pytest.fixture(scope="module")
def model() -> LogisticRegression:
    return LogisticRegressionConfig().build(LabelledSchema(2, (Field("item", 3), Field("tags", 2, length=2))))


@pytest.fixture(scope="module")
def variables() -> dict:
    return {
        "params": {
            "dense": {"kernel": jnp.array([[0.5], [0.25]]), "bias": jnp.array([0.125])},
            "weight_item": {"table": jnp.array([[1.0], [2.0], [3.0]])},
            "weight_tags": {"table": jnp.array([[4.0], [8.0]])},
        }
    }


LOGITS = np.array([1 * 0.5 + 2 * 0.25 + 0.125 + 3 + (4 + 8) / 2, -1 * 0.25 + 0.125 + 1 + 8])


def test_logits_by_hand(model: LogisticRegression, variables: dict):
    np.testing.assert_allclose(jax.jit(model.apply)(variables, BATCH), LOGITS, rtol=1e-6)


def test_loss_and_probability_by_hand(model: LogisticRegression, variables: dict):
    p = 1 / (1 + np.exp(-LOGITS))
    answer = jax.jit(lambda v, b: model.apply(v, b, top_k=1, method="serve"))(variables, BATCH)
    np.testing.assert_allclose(answer["probability"], p, rtol=1e-6)
    loss = jax.jit(lambda v, b: model.apply(v, b, train=True, method="loss"))(variables, BATCH)
    assert loss == pytest.approx(-(np.log(p[0]) + np.log(1 - p[1])) / 2, rel=1e-4)  # 1 - p has 4 digits in float32


def test_categorical_weights_start_at_zero_and_there_is_nothing_to_prune(model: LogisticRegression):
    params = jax.jit(model.init)(jax.random.key(0), BATCH)["params"]
    assert not params["weight_item"]["table"].any()
    assert not params["weight_tags"]["table"].any()
    assert LogisticRegressionConfig().hidden_units() == ()


def test_padding_rows_change_neither_loss_nor_gradient(model: LogisticRegression, variables: dict):
    check_padding_rows(model, variables, BATCH)


def test_one_program_a_shape(model: LogisticRegression, variables: dict):
    check_one_program_a_shape(model, variables, BATCH)
