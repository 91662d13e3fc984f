import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.nn.tables import all_rows
from recjax.transforms import table_sharing


def test_hashed_rows_are_drawn_rows():
    table = jnp.asarray(np.random.default_rng(0).normal(size=(50, 4)), jnp.float32)
    form = table_sharing.hashed(table, 0.1)
    np.testing.assert_array_equal(form["hashed"], table[:5])
    assert len(table_sharing.hashed(table, 0.001)["hashed"]) == 1


@pytest.mark.parametrize(
    ("vocab_size", "ratio", "sizes"),
    [(10_000, 0.1, (12, 887)), (100, 0.2, (10, 10)), (100, 0.19, None), (4, 0.99, None)],
)
def test_quotients_and_remainders_are_as_few_as_asked(vocab_size: int, ratio: float, sizes: tuple[int, int] | None):
    # (1000 + sqrt(1000^2 - 4 x 10^4)) / 2 = 989.9 remainders would be the root of M + V / M = 1000.
    found = table_sharing.composed_rows(vocab_size, ratio)
    assert (found is None) == (sizes is None)
    if found is not None:
        n_quotients, n_remainders = found
        assert n_quotients * n_remainders >= vocab_size
        assert n_quotients + n_remainders <= ratio * vocab_size + 1


def test_composed_rows_have_the_deviation_of_the_drawn_table():
    table = 0.05 * jax.random.normal(jax.random.key(0), (2500, 16))
    sizes = table_sharing.composed_rows(2500, 0.1)
    assert sizes is not None
    rows = all_rows(table_sharing.composed(table, sizes, seed=1), 2500, jnp.float32)
    assert float(rows.std()) == pytest.approx(0.05, rel=0.1)
    zeros = table_sharing.composed(jnp.zeros((2500, 16)), sizes, seed=1)
    assert not all_rows(zeros, 2500, jnp.float32).any()
    assert (zeros["quotient"] == 1).all()


@pytest.mark.parametrize(
    ("min_count", "share", "kept"),
    [(2, 0.0, [0, 2, 4]), (1, 0.0, [0, 1, 2, 4]), (0, 0.2, [0, 1, 2, 4]), (0, 0.5, [0, 2, 4]), (0, 0.8, [2])],
)
def test_rare_rows_are_chosen_by_count_or_share(min_count: int, share: float, kept: list[int]):
    counts = np.array([3, 1, 9, 0, 3], np.int32)
    assert np.flatnonzero(table_sharing.rows_kept(counts, min_count, share)).tolist() == kept


def test_pruned_rows_share_the_mean_of_what_was_looked_up():
    table = jnp.array([[1.0, 2.0], [8.0, 0.0], [3.0, 4.0], [2.0, 6.0]])
    counts = np.array([9, 3, 8, 1], np.int32)
    form = table_sharing.pruned(table, counts, counts >= 5)
    np.testing.assert_allclose(form["kept"], [[1, 2], [3, 4], [(3 * 8 + 2) / 4, 6 / 4]], rtol=1e-5)
    np.testing.assert_array_equal(form["row_of"], [0, 2, 1, 2])
