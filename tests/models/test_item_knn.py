from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import check_padding_ids
from solved_models import assert_one_program, solve

from recjax.data.top_n import TopNSchema
from recjax.errors import UserError
from recjax.evaluation import make_evaluator, sanity_rows
from recjax.models.item_knn import ItemKNNConfig, cosine
from recjax.training.step import init_params

N_USERS, N_ITEMS, N = 12, 10, 3
SCHEMA = TopNSchema(n_users=N_USERS, n_items=N_ITEMS, max_history=6)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Returns the 0/1 matrix [U, V] of the interactions; nobody has the last item."""
    rows = np.random.default_rng(3).random((N_USERS, N_ITEMS)) < 0.5
    rows[:, -1] = False
    return rows


@pytest.fixture(scope="module")
def batch(rows: np.ndarray) -> dict[str, np.ndarray]:
    user, item = (column.astype(np.int32) for column in np.nonzero(rows))
    return {"user": user, "item": item, "weight": np.ones(len(user), np.float32)}


def similarity(rows: np.ndarray, shrink: float, n: int) -> np.ndarray:
    """Returns the dense [V, V] similarity of each item (a row) to its n nearest neighbours, in plain NumPy."""
    dense = np.zeros((N_ITEMS, N_ITEMS))
    for i in range(N_ITEMS):
        for j in range(N_ITEMS):
            both = (rows[:, i] & rows[:, j]).sum()
            if i != j and both:
                dense[i, j] = both / (np.sqrt(rows[:, i].sum() * rows[:, j].sum()) + shrink)
        dense[i, np.argsort(-dense[i], kind="stable")[n:]] = 0
    return dense


@pytest.mark.parametrize("shrink", [0.0, 2.5])
@pytest.mark.parametrize("n", [N, 100])
def test_scores_are_sums_of_similarities_to_the_users_items(
    rows: np.ndarray, batch: dict[str, np.ndarray], shrink: float, n: int
):
    model = ItemKNNConfig(neighbours=n, shrink=shrink).build(SCHEMA)
    params, loss = jax.jit(lambda p, b: model.apply({"params": p}, b, method="update"))(
        init_params(model, batch, 0), batch
    )
    assert float(loss) == 0
    assert params["neighbours"].shape == params["similarity"].shape == (N_ITEMS, min(n, N_ITEMS))
    history = np.array([[0, 3, 5, -1, -1, -1], [9, -1, -1, -1, -1, -1], [-1] * 6, [8, 1, 2, 4, 6, 7]], np.int32)
    variables = {"params": params}
    scores = jax.jit(model.apply)(variables, {"history": history})
    dense = similarity(rows, shrink, n)
    expected = [dense[:, known[known >= 0]].sum(1) for known in history]
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
    check_padding_ids(model, variables, {"history": history})
    answer = jax.jit(lambda v, b: model.apply(v, b, top_k=3, method="serve"))(variables, {"history": history})
    for row, known, items in zip(expected, history, answer["items"].tolist(), strict=True):
        assert not set(items) & set(known.tolist())
        unseen = np.setdiff1d(np.arange(N_ITEMS), known)
        np.testing.assert_allclose(np.sort(row[items]), np.sort(row[unseen])[-3:], rtol=1e-5, atol=1e-6)


def test_cosine_of_a_hand_made_case():
    counts = jnp.array([[4.0, 2.0, 0.0], [2.0, 9.0, 0.0], [0.0, 0.0, 0.0]])
    expected = np.zeros((3, 3))
    expected[0, 1] = expected[1, 0] = 2 / (2 * 3 + 4)
    np.testing.assert_allclose(cosine(counts, 4.0), expected, rtol=1e-6)
    expected[0, 1] = expected[1, 0] = 2 / (2 * 3)
    np.testing.assert_allclose(cosine(counts, 0.0), expected, rtol=1e-6)


def test_a_training_beats_popularity_for_unknown_users_in_one_program(ratings_file: Path):
    solved = solve(ratings_file, ItemKNNConfig(neighbours=5))
    quality = make_evaluator(solved.model.score, solved.data, "test")(solved.model.variables)
    assert quality.metrics["ndcg@20"] > sanity_rows(solved.data, "test")["popularity"].metrics["ndcg@20"]
    assert_one_program(solved)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"neighbours": 0}, "ItemKNNConfig.neighbours is 0; allowed: >= 1"),
        ({"shrink": -1.0}, "ItemKNNConfig.shrink is -1.0; allowed: >= 0"),
    ],
)
def test_bad_values_are_named(fields: dict[str, Any], message: str):
    with pytest.raises(UserError) as error:
        ItemKNNConfig(**fields)
    assert str(error.value) == message
