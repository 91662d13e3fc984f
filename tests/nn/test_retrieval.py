from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.errors import UserError
from recjax.nn import retrieval
from recjax.nn.retrieval import METHODS, top_inner_products, top_k, top_unseen, two_stage_top_k


def by_sorting(scores: np.ndarray, k: int) -> np.ndarray:
    """Returns the items of the k greatest scores, the lower id first among equals, in plain NumPy."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("method", METHODS)
def test_by_hand(method: Any):
    scores = jnp.array([[0.5, 2.0, -1.0, 2.0], [-jnp.inf, -3.0, -2.0, -jnp.inf]])
    values, items = top_k(scores, 3, method=method)
    assert items.tolist() == [[1, 3, 0], [2, 1, 0]]
    assert values.tolist() == [[2.0, 2.0, 0.5], [-2.0, -3.0, -np.inf]]
    assert items.dtype == jnp.int32


@pytest.mark.parametrize(
    ("shape", "k", "block_size"),
    [((3, 257), 1, 4), ((3, 257), 7, 16), ((2, 640), 7, 64), ((2, 640), 11, 64), ((1, 64), 3, 1), ((2, 90), 10, 8)],
)
def test_two_stages_are_one_sort_ties_included(shape: tuple[int, int], k: int, block_size: int):
    find = jax.jit(lambda scores: two_stage_top_k(scores, k, block_size))
    rng = np.random.default_rng(0)
    for n_values in (1, 2, 3, 10, 100, 10**6) * 5:
        scores = rng.integers(n_values, size=shape).astype(np.float32)
        values, items = find(scores)
        np.testing.assert_array_equal(items, by_sorting(scores, k))
        np.testing.assert_array_equal(values, np.take_along_axis(scores, by_sorting(scores, k), 1))


def test_two_stages_find_masked_and_signed_zero_scores_as_one_sort_does():
    scores = np.random.default_rng(0).choice([-np.inf, -0.0, 0.0], (4, 640)).astype(np.float32)
    scores[0] = -np.inf
    scores[1, 3:] = -np.inf
    expected = jax.lax.top_k(scores, 8)
    for ours, theirs in zip(jax.jit(lambda x: two_stage_top_k(x, 8, 16))(scores), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("n_items", [retrieval._LEAST_CATALOGUE - 1, retrieval._LEAST_CATALOGUE + 5])
def test_auto_gives_the_same_on_both_sides_of_its_threshold(n_items: int):
    scores = np.random.default_rng(1).integers(500, size=(2, n_items)).astype(np.float32)
    _, items = jax.jit(lambda x: top_k(x, 10))(scores)
    np.testing.assert_array_equal(items, by_sorting(scores, 10))


def test_auto_cuts_large_catalogues_in_blocks_and_sorts_small_ones():
    def program(n_items: int, k: int) -> str:
        return jax.jit(lambda x: top_k(x, k)).lower(jax.ShapeDtypeStruct((2, n_items), jnp.float32)).as_text()

    assert "reduce_window" in program(2**17, 10)
    assert "reduce_window" not in program(2**13, 10)
    assert "reduce_window" not in program(2**15, 100)


@pytest.mark.parametrize("recall_target", [0.8, 0.95])
def test_the_approximate_one_reaches_its_target(recall_target: float):
    scores = np.random.default_rng(2).standard_normal((32, 20_000)).astype(np.float32)
    _, items = top_k(jnp.asarray(scores), 20, method="approximate", recall_target=recall_target)
    expected = by_sorting(scores, 20)
    found = [len(set(a) & set(b)) / 20 for a, b in zip(items.tolist(), expected.tolist(), strict=True)]
    assert np.mean(found) >= recall_target


@pytest.mark.parametrize("method", ["auto", "exact", "two_stage"])
@pytest.mark.parametrize("most_scores", [1, 3 * 700, 2**24])
def test_inner_products_are_the_same_in_chunks(method: Any, most_scores: int):
    rng = np.random.default_rng(3)
    # Small whole numbers: their products are exact, so that ties are ties however the sum is ordered.
    query, items = (rng.integers(-3, 4, size=(n, 8)).astype(np.float32) for n in (7, 700))
    find = jax.jit(lambda query, items: top_inner_products(query, items, 5, method=method, most_scores=most_scores))
    values, found = find(query, items)
    np.testing.assert_array_equal(found, by_sorting(query @ items.T, 5))
    np.testing.assert_array_equal(values, np.take_along_axis(query @ items.T, by_sorting(query @ items.T, 5), 1))


def test_seen_items_and_padding_are_left_out():
    scores = jnp.array([[5.0, 4.0, 3.0, 2.0, 1.0]] * 2)
    answer = top_unseen(scores, jnp.array([[0, 2, -1], [-1, -1, -1]]), 2)
    assert answer["items"].tolist() == [[1, 3], [0, 1]]
    assert answer["scores"].tolist() == [[4.0, 2.0], [5.0, 4.0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "top_k k is 0; allowed: 1 to 4, the items that there are"),
        ({"k": 5}, "top_k k is 5; allowed: 1 to 4, the items that there are"),
        (
            {"k": 1, "method": "approximate", "recall_target": 0.0},
            "top_k recall_target is 0.0; allowed: (0, 1]",
        ),
        (
            {"k": 1, "method": "approximate", "recall_target": 1.5},
            "top_k recall_target is 1.5; allowed: (0, 1]",
        ),
    ],
)
def test_unusable_arguments(arguments: dict[str, Any], message: str):
    with pytest.raises(UserError) as raised:
        top_k(jnp.zeros((1, 4)), **arguments)
    assert str(raised.value) == message
