import jax.numpy as jnp

from recjax.nn.penalty import squared_kernels


def test_kernels_count_and_nothing_else_does():
    params = {
        "encoder": {"dense_0": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([7.0])}},
        "decoder": {"kernel": jnp.array([[3.0]]), "bias": jnp.array([7.0])},
        "users": {"table": jnp.array([[7.0]])},
    }
    assert squared_kernels(params) == 1 + 4 + 9
