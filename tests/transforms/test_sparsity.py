import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.transforms.quantized_dots import pack
from recjax.transforms.sparse_layout import compressed
from recjax.transforms.sparsity import sparsity_report

KERNEL = np.array([[1.0, 0, 2, 0], [0, 3, 0, 4]], np.float32)  # half of 8 values are zeros
FLOAT = {
    "a": {"kernel": jax.ShapeDtypeStruct((2, 4), jnp.float32), "bias": jax.ShapeDtypeStruct((4,), jnp.float32)},
    "b": {"kernel": jax.ShapeDtypeStruct((4, 2), jnp.float32)},
    "items": {"table": jax.ShapeDtypeStruct((9, 9), jnp.float32)},
}
FULL = {"b": {"kernel": jnp.ones((4, 2))}, "items": {"table": jnp.zeros((9, 9))}}


def report(kernel: object) -> tuple[float, float]:
    shares = sparsity_report(FLOAT, FULL | {"a": {"kernel": kernel, "bias": jnp.zeros(4)}})
    return shares["masked_share"], shares["realised_share"]


def test_zeros_of_arrays_are_masked_and_not_realised():
    assert report(jnp.asarray(KERNEL)) == (4 / 16, 0)


def test_values_that_are_gone_are_realised():
    assert report(jnp.asarray(KERNEL[:, :1])) == (1 / 16, 6 / 16)


def test_factors_stand_for_their_kernel():
    masked, realised = report({"down": jnp.array([[1.0], [0.0]]), "up": jnp.ones((1, 4))})
    assert (masked, realised) == (1 / 16, pytest.approx(2 / 16))


def test_integers_and_packed_integers_are_counted_one_by_one():
    values = jnp.asarray(KERNEL, jnp.int8)
    scale = jnp.zeros((1, 4))
    assert report({"values": values, "scale": scale, "input_scale": jnp.zeros(())}) == (4 / 16, 0)
    assert report({"packed": pack(values), "scale": scale}) == (4 / 16, 0)


def test_sparse_rows_hold_no_zeros():
    assert report(compressed(KERNEL)) == (0, 4 / 16)


def test_a_model_without_kernels_has_neither():
    table = {"items": {"table": jnp.zeros((3, 2))}}
    assert sparsity_report(table, table) == {"masked_share": 0, "realised_share": 0}
