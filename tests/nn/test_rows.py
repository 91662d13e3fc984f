import jax.numpy as jnp
import numpy as np

from recjax.nn.rows import multi_hot, unit_length

IDS = jnp.array([[2, 0, -1], [-1, -1, -1], [3, -1, 1]], jnp.int32)


def test_multi_hot_by_hand():
    assert multi_hot(IDS, 4).tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 1]]
    values = jnp.array([[5.0, 2.0, 9.0], [9.0, 9.0, 9.0], [1.0, 9.0, 4.0]])
    assert multi_hot(IDS, 4, values).tolist() == [[2, 0, 5, 0], [0, 0, 0, 0], [0, 4, 0, 1]]


def test_rows_of_unit_length_and_rows_of_zeros():
    rows = jnp.array([[3.0, 4.0], [0.0, 0.0], [-2.0, 0.0]])
    np.testing.assert_allclose(unit_length(rows), [[0.6, 0.8], [0, 0], [-1, 0]], rtol=1e-6)
