from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from model_checks import check_padding_ids
from solved_models import assert_one_program, solve

from recjax.data.top_n import TopNSchema
from recjax.evaluation import make_evaluator, sanity_rows
from recjax.models.popularity import PopularityConfig

SCHEMA = TopNSchema(n_users=3, n_items=5, max_history=3)
BATCH = {
    "user": np.array([0, 1, 1, 2, 2], np.int32),
    "item": np.array([4, 4, 2, 4, 2], np.int32),
    "weight": np.ones(5, np.float32),
}
REQUESTS = {"user": np.array([0, 1], np.int32), "history": np.array([[4, -1, -1], [4, 2, -1]], np.int32)}
COUNTS = [0, 0, 2, 0, 3]


@pytest.fixture(scope="module")
def model() -> Any:
    return PopularityConfig().build(SCHEMA)


@pytest.fixture(scope="module")
def variables() -> Any:
    return {"params": {"counts": np.array(COUNTS, np.float32)}}


def test_update_counts_interactions_whatever_was_counted_before(model: Any, variables: Any):
    params, loss = jax.jit(lambda v, b: model.apply(v, b, method="update"))(variables, BATCH)
    assert params["counts"].tolist() == COUNTS
    assert float(loss) == 0


def test_all_users_have_the_same_scores_and_are_served_what_they_have_not(model: Any, variables: Any):
    np.testing.assert_array_equal(jax.jit(model.apply)(variables, REQUESTS), [COUNTS, COUNTS])
    answer = jax.jit(lambda v, b: model.apply(v, b, top_k=2, method="serve"))(variables, REQUESTS)
    assert answer["items"].tolist() == [[2, 0], [0, 1]]
    assert answer["scores"].tolist() == [[2, 0], [0, 0]]
    check_padding_ids(model, variables, REQUESTS)


def test_a_training_gives_the_sanity_row_of_its_name_in_one_program(ratings_file: Path):
    solved = solve(ratings_file, PopularityConfig(), split="random_by_user")
    quality = make_evaluator(solved.model.score, solved.data, "test")(solved.model.variables)
    assert quality.metrics == sanity_rows(solved.data, "test")["popularity"].metrics
    assert_one_program(solved)
