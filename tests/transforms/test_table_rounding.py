import jax
import jax.numpy as jnp
import pytest

from recjax.nn.tables import all_rows
from recjax.transforms import table_rounding


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_the_unit_suits_the_table(size: float):
    table = size * jax.random.normal(jax.random.key(0), (50, 16))
    form = table_rounding.integers(table, 8)
    steps = (table.max(1) - table.min(1)) / 255
    assert (jnp.abs(all_rows(form, 50, jnp.float32) - table) <= 0.55 * steps[:, None]).all()
    assert not all_rows(table_rounding.integers(jnp.zeros((3, 4)), 8), 3, jnp.float32).any()
