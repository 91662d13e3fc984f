"""Feature interaction: the low-rank cross network of DCN-V2.

Shapes: B batch, D input width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


class LowRankCrossNetwork(nn.Module):
    """Cross layers x_{i+1} = x_0 * (U_i (V_i x_i) + b_i) + x_i, one per rank in `ranks`.

    Source: Wang et al., DCN V2 (WWW 2021), equations 1 and 2, a single expert.
    """

    ranks: Sequence[int]
    dtype: Any = jnp.float32
    dot_general_cls: Callable | None = None

    @nn.compact
    def __call__(self, x0_BD: Float[Array, "B D"]) -> Float[Array, "B D"]:
        """Returns the crossed features."""
        x_BD = x0_BD
        for index, rank in enumerate(self.ranks):
            dense = {"dtype": self.dtype, "dot_general_cls": self.dot_general_cls}
            low_BR = nn.Dense(rank, use_bias=False, name=f"down_{index}", **dense)(x_BD)
            x_BD = x0_BD * nn.Dense(x0_BD.shape[-1], name=f"up_{index}", **dense)(low_BR) + x_BD
        return x_BD
