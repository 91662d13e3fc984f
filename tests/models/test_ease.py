import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import check_padding_ids, check_serve, compiled, multi_hot
from solved_models import Solved, assert_one_program, solve

from recjax.data.top_n import TopNSchema
from recjax.errors import UserError
from recjax.evaluation import make_evaluator, sanity_rows
from recjax.models import ease
from recjax.models.ease import EASEConfig
from recjax.training.pipeline import finalize
from recjax.training.step import init_params
from recjax.transforms.quantize import quantize

N_USERS, N_ITEMS, L2 = 15, 8, 1.5
SCHEMA = TopNSchema(n_users=N_USERS, n_items=N_ITEMS, max_history=4)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(0).random((N_USERS, N_ITEMS)) < 0.4


@pytest.fixture(scope="module")
def solved(ratings_file: Path) -> Solved:
    return solve(ratings_file, EASEConfig(l2=2.0))


def weights(rows: np.ndarray) -> np.ndarray:
    """Returns every column by its own ridge regression on the other columns, in float64."""
    rows, weights = rows.astype(float), np.zeros((N_ITEMS, N_ITEMS))
    for item in range(N_ITEMS):
        others = np.arange(N_ITEMS) != item
        design = rows[:, others]
        normal = design.T @ design + L2 * np.eye(N_ITEMS - 1)
        weights[others, item] = np.linalg.solve(normal, design.T @ rows[:, item])
    return weights


def test_weights_are_ridge_regressions_of_each_item_on_the_others(rows: np.ndarray):
    user, item = (column.astype(np.int32) for column in np.nonzero(rows))
    batch = {"user": user, "item": item, "weight": np.ones(len(user), np.float32)}
    model = EASEConfig(l2=L2).build(SCHEMA)
    start = init_params(model, batch, 0)
    assert not np.asarray(start["weights"]["kernel"]).any()
    params, loss = jax.jit(lambda p, b: model.apply({"params": p}, b, method="update"))(start, batch)
    expected = weights(rows)
    np.testing.assert_allclose(params["weights"]["kernel"], expected, rtol=1e-4, atol=1e-5)
    assert float(loss) == pytest.approx(((rows - rows @ expected) ** 2).mean(), rel=1e-4)
    history = np.array([[1, 6, 2, -1], [7, -1, -1, -1], [-1, -1, -1, -1]], np.int32)
    scores = jax.jit(model.apply)({"params": params}, {"history": history})
    sums = np.stack([expected[[1, 6, 2]].sum(0), expected[7], np.zeros(N_ITEMS)])
    np.testing.assert_allclose(scores, sums, rtol=1e-4, atol=1e-5)
    answer = jax.jit(lambda p, b: model.apply({"params": p}, b, top_k=2, method="serve"))(params, {"history": history})
    unseen = sums[0].copy()
    unseen[[1, 6, 2]] = -np.inf
    assert answer["items"][0].tolist() == np.argsort(-unseen)[:2].tolist()


def test_scores_of_any_weights_agree_with_numpy_and_padding_changes_nothing():
    model, rng = EASEConfig(l2=L2).build(SCHEMA), np.random.default_rng(1)
    variables = {"params": {"weights": {"kernel": rng.standard_normal((N_ITEMS, N_ITEMS)).astype(np.float32)}}}
    batch = {"history": np.array([[1, 6, 2, -1], [7, -1, -1, -1], [0, 3, 5, 4], [-1, -1, -1, -1]], np.int32)}
    expected = multi_hot(batch["history"], N_ITEMS) @ variables["params"]["weights"]["kernel"]
    np.testing.assert_allclose(compiled(model)(variables, batch), expected, rtol=1e-5, atol=1e-6)
    check_padding_ids(model, variables, batch)
    check_serve(model, variables, batch, top_k=3)


def test_two_items_by_hand():
    # G + l2 I = [[4, 2], [2, 5]], P = [[5, -2], [-2, 4]] / 16, so B_01 = 2 / 4 and B_10 = 2 / 5.
    gram = jnp.array([[3.0, 2.0], [2.0, 4.0]])
    np.testing.assert_allclose(ease.solve(gram, 1.0), [[0, 2 / 4], [2 / 5, 0]], rtol=1e-6)


def test_a_training_beats_popularity_for_unknown_users_in_one_program(solved: Solved):
    quality = make_evaluator(solved.model.score, solved.data, "test")(solved.model.variables)
    assert quality.metrics["ndcg@20"] > sanity_rows(solved.data, "test")["popularity"].metrics["ndcg@20"]
    assert_one_program(solved)


def test_int8_weights_take_a_quarter_and_score_alike(solved: Solved):
    experiment = dataclasses.replace(solved.experiment, transforms=(quantize(),))
    int8 = finalize(experiment, solved.data, solved.fit.params)
    n_items = solved.data.schema.n_items
    assert int8.parameter_bytes() == n_items * n_items + 4 * n_items  # values, and a scale an item
    request = next(solved.data.eval_batches("test", 4))
    scores = jax.jit(solved.model.score)(solved.model.variables, request)
    largest = float(jnp.abs(solved.fit.params["weights"]["kernel"]).max())
    rounding = largest / 127 * (request["history"] >= 0).sum(1).max()  # half a step of weights and row values each
    np.testing.assert_allclose(jax.jit(int8.score)(int8.variables, request), scores, atol=rounding)


def test_bad_values_are_named():
    with pytest.raises(UserError) as error:
        EASEConfig(l2=0.0)
    assert str(error.value) == "EASEConfig.l2 is 0.0; allowed: > 0"


def test_a_catalogue_whose_pairs_exceed_int32_can_be_described():
    model = EASEConfig().build(TopNSchema(n_users=138_000, n_items=27_000, max_history=4))
    pairs = jax.ShapeDtypeStruct((20,), jnp.int32)
    batch = {"user": pairs, "item": pairs, "weight": jax.ShapeDtypeStruct((20,), jnp.float32)}
    shapes = jax.eval_shape(lambda key, batch: model.init(key, batch, method="update"), jax.random.key(0), batch)
    assert shapes["params"]["weights"]["kernel"].shape == (27_000, 27_000)
