"""How layers multiply: every product of a model with a weight matrix, or of two activations, goes through a `Dots`.

A transform changes how products are computed by giving the model another `Dots`, which sees each product's path and
falls through to the one before it. What a weight matrix is stored as, its *form*, is read from the parameters:

- an array [I, O];
- {"down", "up"}: two forms, [I, R] and [R, O], whose product it is (recjax.transforms.low_rank);
- {"values" [I, O], "scale"} or {"packed" [ceil(I / 2), O], "scale"}: quantized (recjax.transforms.quantize);
- {"data", "indices", "indptr"}: the rows of its transpose without zeros (recjax.transforms.sparse_layout).

So a form needs no word in any model's code or Config, and checkpoints hold plain arrays.

Shapes: B batch, I inputs, O outputs, R rank.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

Kernel = Array | Mapping[str, Any]
SPARSE_ROUTINE = "cpu_csr_sparse_dense_ffi"  # what compiled programs for a CPU call for a sparse kernel


@dataclasses.dataclass(frozen=True)
class Dots:
    """Float products, as they are without a transform.

    Attributes:
      needs_key: whether products want a random key.
    """

    needs_key: ClassVar[bool] = False

    def with_kernel(self, x: Array, kernel: Kernel, path: str, key: Array | None = None) -> Array:
        """Returns x [..., I] times the kernel, which is an array or a quantized form.

        Args:
          x: activations.
          kernel: in the type of `x` where it is an array.
          path: of the product, as in "top_mlp/dense_0" or "user_branch/state".
          key: for stochastic rounding; only where `needs_key`.
        """
        del path, key
        if not isinstance(kernel, jax.Array):
            raise AssertionError(f"a kernel stored as {sorted(kernel)} needs the transform that stored it so")
        return jnp.dot(x, kernel)

    def einsum(self, equation: str, lhs: Array, rhs: Array, path: str, key: Array | None = None) -> Array:
        """Returns the product of two activations, as in attention."""
        del path, key
        return jnp.einsum(equation, lhs, rhs)


FLOAT = Dots()


def multiply(dots: Dots, x: Array, kernel: Kernel, path: str, key: Array | None = None) -> Array:
    """Returns x [..., I] times a kernel of any form, [..., O]."""
    if not isinstance(kernel, Mapping):
        return dots.with_kernel(x, kernel.astype(x.dtype), path, key)
    if "down" in kernel:
        low = multiply(dots, x, kernel["down"], f"{path}/down", key)
        return multiply(dots, low, kernel["up"], f"{path}/up", None if key is None else jax.random.fold_in(key, 1))
    if "indptr" in kernel:
        return _sparse_product(x, kernel)
    return dots.with_kernel(x, kernel, path, key)


def _sparse_product(x: Array, kernel: Mapping[str, Array]) -> Array:
    """Returns x times a kernel stored as the rows of its transpose without zeros, by the CPU's own routine.

    The routine knows float32 alone, and wants the batch last: rows of the transpose are then added up in whole vectors.
    """
    from jax.experimental.sparse import BCSR  # here, because it takes 0.2 s

    shape_OI = (kernel["indptr"].shape[0] - 1, x.shape[-1])
    transposed_OI = BCSR((kernel["data"], kernel["indices"], kernel["indptr"]), shape=shape_OI)
    y_OB = transposed_OI @ x.reshape(-1, x.shape[-1]).T.astype(kernel["data"].dtype)
    return y_OB.T.reshape(*x.shape[:-1], shape_OI[0]).astype(x.dtype)
