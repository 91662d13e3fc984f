import itertools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from model_checks import check_padding_ids
from solved_models import Solved, assert_one_program, solve

from recjax.data.top_n import TopNSchema
from recjax.errors import UserError
from recjax.evaluation import make_evaluator, sanity_rows
from recjax.models.ials import IALSConfig
from recjax.training.step import init_params

N_USERS, N_ITEMS, D = 9, 11, 3
CONFIG = IALSConfig(embedding_dim=D, unobserved=0.2, l2=0.05, l2_scaling=0.7, table_deviation=1.0)
SCHEMA = TopNSchema(n_users=N_USERS, n_items=N_ITEMS, max_history=6)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Returns the 0/1 matrix [U, V] of the interactions; user 4 has none, nor has item 2."""
    rows = np.random.default_rng(0).random((N_USERS, N_ITEMS)) < 0.4
    rows[4], rows[:, 2] = False, False
    return rows


@pytest.fixture(scope="module")
def batch(rows: np.ndarray) -> dict[str, np.ndarray]:
    user, item = (column.astype(np.int32) for column in np.nonzero(rows))
    order = np.random.default_rng(1).permutation(len(user))
    return {"user": user[order], "item": item[order], "weight": np.ones(len(user), np.float32)}


@pytest.fixture(scope="module")
def update() -> Any:
    model = CONFIG.build(SCHEMA)
    return jax.jit(lambda params, batch: model.apply({"params": params}, batch, method="update"))


@pytest.fixture(scope="module")
def solved(ratings_file: Path) -> Solved:
    return solve(ratings_file, IALSConfig(embedding_dim=8, unobserved=0.1, l2=0.02), epochs=6)


def half_step(rows: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns the minimiser of each row's weighted squares, in float64."""
    solved = np.zeros((len(rows), D))
    for index, row in enumerate(rows):
        weight = row + CONFIG.unobserved
        l2 = CONFIG.l2 * (row.sum() + CONFIG.unobserved * len(other)) ** CONFIG.l2_scaling
        normal = (other * weight[:, None]).T @ other + l2 * np.eye(D)
        solved[index] = np.linalg.solve(normal, other.T @ row.astype(float))
    return solved


def objective(rows: np.ndarray, users: np.ndarray, items: np.ndarray) -> float:
    """Returns the whole objective, term by term."""
    score = users @ items.T
    value = (rows * (score - 1) ** 2).sum() + CONFIG.unobserved * (score**2).sum()
    for counts, n_others, table in ((rows.sum(1), N_ITEMS, users), (rows.sum(0), N_USERS, items)):
        l2 = CONFIG.l2 * (counts + CONFIG.unobserved * n_others) ** CONFIG.l2_scaling
        value += (l2[:, None] * table**2).sum()
    return float(value)


def test_an_update_is_a_half_step_of_users_and_one_of_items(
    update: Any, rows: np.ndarray, batch: dict[str, np.ndarray]
):
    start = init_params(CONFIG.build(SCHEMA), batch, 0)
    params, loss = update(start, batch)
    users = half_step(rows, np.asarray(start["items"]["table"], np.float64))
    items = half_step(rows.T, users)
    np.testing.assert_allclose(params["items"]["table"], items, rtol=1e-4, atol=1e-5)
    assert float(loss) == pytest.approx(objective(rows, users, items) / rows.sum(), rel=1e-5)


def test_the_objective_never_rises(update: Any, batch: dict[str, np.ndarray]):
    params, losses = init_params(CONFIG.build(SCHEMA), batch, 0), []
    for _ in range(12):
        params, loss = update(params, batch)
        losses.append(float(loss))
    assert losses[-1] < 0.99 * losses[0]
    assert all(after <= before * (1 + 1e-5) for before, after in itertools.pairwise(losses))


def test_a_user_is_folded_in_from_the_history_alone(rows: np.ndarray, batch: dict[str, np.ndarray]):
    model = CONFIG.build(SCHEMA)
    variables = {"params": init_params(model, batch, 0)}
    table = np.asarray(variables["params"]["items"]["table"], np.float64)
    shared = {"precomputed": jax.jit(lambda v: model.apply(v, {}, method="precompute"))(variables)}
    np.testing.assert_allclose(shared["precomputed"]["gram"], table.T @ table, rtol=1e-5, atol=1e-5)
    history = np.full((3, 7), -1, np.int32)
    history[0, :4], history[1, :1] = [10, 0, 3, 7], 5
    request = {"user": np.array([0, 8, 3], np.int32), "history": history} | shared
    known = np.zeros((3, N_ITEMS))
    known[0, [10, 0, 3, 7]], known[1, 5] = 1, 1
    expected = half_step(known, table) @ table.T
    scores = jax.jit(model.apply)(variables, request)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
    assert not np.asarray(scores[2]).any()  # nothing is known of this user
    check_padding_ids(model, variables, request)
    answer = jax.jit(lambda v, b: model.apply(v, b, top_k=3, method="serve"))(variables, request)
    expected[known > 0] = -np.inf
    assert answer["items"][:2].tolist() == np.argsort(-expected[:2], 1)[:, :3].tolist()


def test_a_training_lowers_the_loss_and_beats_popularity_for_unknown_users_in_one_program(solved: Solved):
    losses = [record.train_loss for record in solved.fit.history]
    assert losses[-1] < 0.9 * losses[0]
    quality = make_evaluator(solved.model.score, solved.data, "test")(solved.model.variables)
    assert quality.metrics["ndcg@20"] > sanity_rows(solved.data, "test")["popularity"].metrics["ndcg@20"]
    assert_one_program(solved)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"embedding_dim": 0}, "IALSConfig.embedding_dim is 0; allowed: >= 1"),
        ({"unobserved": 0.0}, "IALSConfig.unobserved is 0.0; allowed: > 0"),
        ({"l2": 0.0}, "IALSConfig.l2 is 0.0; allowed: > 0"),
        ({"l2_scaling": 1.5}, "IALSConfig.l2_scaling is 1.5; allowed: [0, 1]"),
        ({"table_deviation": 0.0}, "IALSConfig.table_deviation is 0.0; allowed: > 0"),
    ],
)
def test_bad_values_are_named(fields: dict[str, Any], message: str):
    with pytest.raises(UserError) as error:
        IALSConfig(**fields)
    assert str(error.value) == message
