from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.nn.tables import all_rows
from recjax.transforms import table_factors


def test_blocks_have_equal_shares_of_the_lookups():
    counts = np.array([0, 49, 0, 23, 23, 0, 0, 0], np.int32)  # and one more each: 50 24 24 1 1 1 1 1, 103 in all
    order, sizes = table_factors.popularity_blocks(counts, 2)
    assert order[:3].tolist() == [1, 3, 4]
    assert sizes == [2, 6]  # 50 of 103 before the second row is less than half; 74 is more
    # The popularity of the blocks is (50 + 24) / 2 = 37 and (24 + 5) / 6 = 4.83.
    assert table_factors.block_dims(counts, order, sizes, 64, 0.5) == [64, round(64 * (4.8333 / 37) ** 0.5)]


def test_blocks_of_full_width_are_exact_and_narrow_ones_are_the_best_projection():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(40, 6)).astype(np.float32)
    counts = rng.integers(0, 50, 40).astype(np.int32)
    exact = table_factors.mixed_dimension(jnp.asarray(table), counts, 3, 1e-9)
    np.testing.assert_allclose(all_rows(exact, 40, jnp.float32), table, atol=1e-5)
    form = table_factors.mixed_dimension(jnp.asarray(table), counts, 3, 0.8)
    order, sizes = table_factors.popularity_blocks(counts, 3)
    rows = np.asarray(all_rows(form, 40, jnp.float32))[order[-sizes[-1] :]]
    block, dim = table[order[-sizes[-1] :]], form["block_2"]["rows"].shape[1]
    assert dim < 6
    u, s, vt = np.linalg.svd(block, full_matrices=False)
    best = u[:, :dim] * s[:dim] @ vt[:dim]
    np.testing.assert_allclose(rows, best * np.linalg.norm(block) / np.linalg.norm(best), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "expected"), [((1_000_000, 64), ((100, 100, 100), (4, 4, 4))), ((30, 7), ((4, 3, 3), (1, 1, 7)))]
)
def test_train_shapes(shape: tuple[int, int], expected: Any):
    assert table_factors.train_shape(*shape) == expected


def test_a_tensor_train_of_full_rank_is_exact_and_keeps_the_deviation_otherwise():
    table = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    exact = table_factors.tensor_train(jnp.asarray(table), 100)
    np.testing.assert_allclose(all_rows(exact, 30, jnp.float32), table, atol=1e-5)
    form = table_factors.tensor_train(jnp.asarray(table), 2)
    assert [form[f"core_{k}"].shape for k in range(3)] == [(4, 2, 2), (3, 2, 2, 2), (3, 2, 2)]
    rows = all_rows(form, 36, jnp.float32)
    assert float(jnp.sum(rows**2)) == pytest.approx(float((table**2).sum()), rel=1e-3)
    deviations = [float(jnp.sqrt(jnp.mean(core**2))) for core in form.values()]
    assert deviations == pytest.approx([deviations[0]] * 3, rel=1e-4)


def test_a_train_of_low_rank_is_found():
    """A table made of cores of rank 2 is given back by rank 2."""
    rng = np.random.default_rng(1)
    cores = {
        "core_0": rng.normal(size=(3, 2, 2)),
        "core_1": rng.normal(size=(3, 2, 2, 2)),
        "core_2": rng.normal(size=(3, 2, 2)),
    }
    table = all_rows(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), cores), 27, jnp.float32)
    found = all_rows(table_factors.tensor_train(table, 2), 27, jnp.float32)
    np.testing.assert_allclose(found, table, atol=1e-4)
