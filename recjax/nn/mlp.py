"""Dense layers in a row.

Source of the PReLU: He et al., Delving Deep into Rectifiers (ICCV 2015), equation 1, "channel-shared", from a slope of
0.25 on.

Shapes: B batch, D width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recjax.nn.dense import Dense
from recjax.nn.dots import FLOAT, Dots


class MLP(nn.Module):
    """Dense layers of the given widths, each followed by `activation` and dropout, the last too unless `linear_end`."""

    widths: Sequence[int]
    dropout_rate: float = 0.0
    linear_end: bool = False
    activation: Callable[[Array], Array] | None = jax.nn.relu  # None is a PReLU, which learns one slope a layer
    dtype: Any = jnp.float32
    dots: Dots = FLOAT

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"], *, train: bool = False) -> Float[Array, "*batch W"]:
        """Returns the last layer's activations."""
        for index, width in enumerate(self.widths):
            x = Dense(width, dtype=self.dtype, dots=self.dots, name=f"dense_{index}")(x)
            if self.linear_end and index == len(self.widths) - 1:
                return x
            x = self.activation(x) if self.activation else nn.PReLU(negative_slope_init=0.25, name=f"prelu_{index}")(x)
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return x
