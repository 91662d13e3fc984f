"""The dense layer, whose kernel may be stored in any form (recjax.nn.dots).

Shapes: I inputs, O outputs.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recjax.nn.dots import FLOAT, Dots, multiply


def stored_weight(module: nn.Module, name: str, init: Callable, shape: tuple[int, ...]) -> Any:
    """Returns the module's parameter as it is stored: an array of that shape, drawn if there is none, or a form."""
    stored = module.get_variable("params", name) if module.has_variable("params", name) else None
    if not isinstance(stored, Mapping):
        stored = module.param(name, init, shape)
    return jax.tree.map(jnp.asarray, stored)


def key_for(module: nn.Module, dots: Dots) -> jax.Array | None:
    """Returns a random key if the products want one; within a module's call."""
    return module.make_rng("dropout") if dots.needs_key else None


class Dense(nn.Module):
    """x times a kernel [I, O] plus a bias."""

    features: int
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Callable = nn.initializers.lecun_normal()
    dots: Dots = FLOAT

    @nn.compact
    def __call__(self, x: Float[Array, "*batch I"]) -> Float[Array, "*batch O"]:
        """Returns the layer's output in its type."""
        kernel = stored_weight(self, "kernel", self.kernel_init, (x.shape[-1], self.features))
        y = multiply(self.dots, x.astype(self.dtype), kernel, "/".join(self.path), key_for(self, self.dots))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
            y += bias.reshape((1,) * (y.ndim - 1) + (-1,))
        return y
