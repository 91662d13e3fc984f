from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import check_one_program_a_shape, short_training
from random_variables import random_variables

from recjax.config import Dataset, Experiment, Training
from recjax.data.top_n import TopNSchema
from recjax.errors import UserError
from recjax.evaluation import make_evaluator
from recjax.models.contract import precomputed
from recjax.models.lightgcn import LightGCN, LightGCNConfig
from recjax.training.pipeline import finalize, load_data

U, V, D, L2 = 4, 6, 5, 0.03
CONFIG = LightGCNConfig(embedding_dim=D, layers=2, negatives=2, l2=L2)
USER = np.array([0, 0, 1, 2, 2, 2], np.int32)  # user 3 and item 5 have no edge
ITEM = np.array([0, 1, 1, 2, 3, 4], np.int32)


@pytest.fixture(scope="module")
def model() -> LightGCN:
    return CONFIG.build(TopNSchema(n_users=U, n_items=V, max_history=3))


@pytest.fixture(scope="module")
def batch() -> dict[str, Any]:
    return {
        "user": np.array([2, 0, 1], np.int32),
        "item": np.array([3, 0, 1], np.int32),
        "negatives": np.array([[0, 5], [2, 4], [3, 3]], np.int32),
        "history": np.array([[2, 3, 4], [0, 1, -1], [1, -1, -1]], np.int32),
        "weight": np.ones(3, np.float32),
        "context": {
            "train_user": jnp.asarray(USER),
            "train_item": jnp.asarray(ITEM),
            "item_counts": jnp.ones(V),
        },
    }


@pytest.fixture(scope="module")
def variables(model: LightGCN, batch: dict[str, Any]) -> Any:
    return random_variables(model, batch)


@pytest.fixture(scope="module")
def loss_of(model: LightGCN) -> Any:
    return jax.jit(lambda variables, batch: model.apply(variables, batch, train=False, method="loss"))


def reference(params: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns the users' and items' vectors by powers of the whole adjacency matrix, as in the paper's equation 8."""
    matrix = np.zeros((U + V, U + V))
    matrix[USER, U + ITEM] = matrix[U + ITEM, USER] = 1
    root = np.sqrt(np.maximum(matrix.sum(1), 1))
    normalised = matrix / root[:, None] / root[None]
    ego = np.concatenate([params["users"]["table"], params["items"]["table"]]).astype(np.float64)
    final = sum(np.linalg.matrix_power(normalised, power) @ ego for power in range(3)) / 3
    return final[:U], final[U:]


def test_propagated_vectors_and_scores_agree_with_numpy(model: LightGCN, variables: Any, batch: dict[str, Any]):
    users, items = reference(variables["params"])
    shared = precomputed(model, variables, batch["context"])
    np.testing.assert_allclose(shared["precomputed"]["users"], users, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(shared["precomputed"]["items"], items, rtol=1e-5, atol=1e-6)
    scores = model.apply(variables, {name: batch[name] for name in ("user", "history")} | shared)
    np.testing.assert_allclose(scores, users[batch["user"]] @ items.T, rtol=1e-5, atol=1e-6)


def test_loss_agrees_with_numpy(loss_of: Any, variables: Any, batch: dict[str, Any]):
    users, items = reference(variables["params"])
    user_table, item_table = (np.asarray(variables["params"][name]["table"]) for name in ("users", "items"))
    losses = []
    for user, item, negatives in zip(batch["user"], batch["item"], batch["negatives"], strict=True):
        gaps = users[user] @ items[item] - items[negatives] @ users[user]
        squares = (user_table[user] ** 2).sum() + (item_table[[item, *negatives]] ** 2).sum()
        losses.append(np.log1p(np.exp(-gaps)).mean() + L2 * squares)
    assert float(loss_of(variables, batch)) == pytest.approx(np.mean(losses), rel=1e-5)


def test_no_layers_are_plain_matrix_factorisation(variables: Any, batch: dict[str, Any]):
    model = LightGCNConfig(embedding_dim=D, layers=0).build(TopNSchema(n_users=U, n_items=V, max_history=3))
    tables = variables["params"]
    expected = np.asarray(tables["users"]["table"])[batch["user"]] @ np.asarray(tables["items"]["table"]).T
    np.testing.assert_allclose(model.apply(variables, batch), expected, rtol=1e-5, atol=1e-6)


def test_padding_rows_add_nothing(loss_of: Any, variables: Any, batch: dict[str, Any]):
    padded = {
        name: np.pad(column, [(0, 2)] + [(0, 0)] * (column.ndim - 1)) if name != "context" else column
        for name, column in batch.items()
    }
    assert float(loss_of(variables, padded)) == pytest.approx(float(loss_of(variables, batch)), rel=1e-6)


def test_one_program_a_shape(model: LightGCN, variables: Any, batch: dict[str, Any]):
    check_one_program_a_shape(model, variables, batch)


def test_serve_leaves_out_the_history(model: LightGCN, variables: Any, batch: dict[str, Any]):
    request = {name: batch[name] for name in ("user", "history")} | precomputed(model, variables, batch["context"])
    answer = jax.jit(lambda v, b: model.apply(v, b, top_k=3, method="serve"))(variables, request)
    scores = np.array(model.apply(variables, request))
    for row, history in enumerate(batch["history"]):
        scores[row, history[history >= 0]] = -np.inf
        assert answer["items"][row].tolist() == np.argsort(-scores[row], kind="stable")[:3].tolist()


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("embedding_dim", 0, ">= 1"),
        ("layers", -1, ">= 0"),
        ("negatives", 0, ">= 1"),
        ("l2", -0.1, ">= 0"),
        ("table_deviation", 0.0, "> 0"),
    ],
)
def test_bad_values_are_refused(field: str, value: float, allowed: str):
    with pytest.raises(UserError) as raised:
        LightGCNConfig(**{field: value})
    assert str(raised.value) == f"LightGCNConfig.{field} is {value!r}; allowed: {allowed}"


def test_training_lowers_the_loss_and_everything_compiles_once_a_shape(ratings_file: Path):
    training = Training(epochs=6, batch_size=64, learning_rate=1e-1)
    experiment = Experiment(
        name="tiny",
        dataset=Dataset(source=str(ratings_file), min_interactions=1, split="random_by_user"),
        model=LightGCNConfig(embedding_dim=8, layers=2),
        training=training,
        finetuning=training,
    )
    data = load_data(experiment)
    trained = short_training(experiment, data)
    assert trained.losses[-1] < 0.75 * trained.losses[0]
    assert trained.step._cache_size() == 1

    final, traces = finalize(experiment, data, trained.params), []
    assert set(final.variables["precomputed"]) == {"users", "items"}

    def score(variables: Any, batch: Any) -> jax.Array:
        traces.append(batch)
        return final.score(variables, batch)

    evaluate = make_evaluator(score, data, "test")
    assert evaluate(final.variables).metrics == evaluate(final.variables).metrics
    assert len(traces) == 1
