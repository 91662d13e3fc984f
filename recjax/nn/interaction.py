"""Feature interaction: dot products of pairs, their sum, and the low-rank cross network of DCN-V2.

Shapes: B batch, V vectors, D their width (of the cross network: input width), P pairs.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from recjax.nn.dense import Dense
from recjax.nn.dots import FLOAT, Dots


def pairwise_dots(vectors_BVD: Float[Array, "B V D"]) -> Float[Array, "B P"]:
    """Returns v_i . v_j for all pairs i > j, P = V (V - 1) / 2 of them, by rows of the lower triangle.

    Source: Naumov et al., DLRM (arXiv 1906.00091), section 2.1.3.
    """
    dots_BVV = jnp.einsum("bvd,bwd->bvw", vectors_BVD, vectors_BVD)
    rows, columns = np.tril_indices(vectors_BVD.shape[1], k=-1)
    return dots_BVV[:, rows, columns]


def pairwise_sum(vectors_BVD: Float[Array, "B V D"]) -> Float[Array, "B"]:
    """Returns the sum of v_i . v_j over all pairs i > j, in time linear in V.

    Formula: (|sum_i v_i|^2 - sum_i |v_i|^2) / 2.
    Source: Rendle, Factorization Machines (ICDM 2010), lemma 3.1.
    """
    return (jnp.sum(vectors_BVD.sum(1) ** 2, 1) - jnp.sum(vectors_BVD**2, (1, 2))) / 2


class LowRankCrossNetwork(nn.Module):
    """Cross layers x_{i+1} = x_0 * (U_i (V_i x_i) + b_i) + x_i, one per rank in `ranks`.

    Source: Wang et al., DCN V2 (WWW 2021), equations 1 and 2, a single expert.
    """

    ranks: Sequence[int]
    dtype: Any = jnp.float32
    dots: Dots = FLOAT

    @nn.compact
    def __call__(self, x0_BD: Float[Array, "B D"]) -> Float[Array, "B D"]:
        """Returns the crossed features."""
        x_BD = x0_BD
        for index, rank in enumerate(self.ranks):
            dense = {"dtype": self.dtype, "dots": self.dots}
            low_BR = Dense(rank, use_bias=False, name=f"down_{index}", **dense)(x_BD)
            x_BD = x0_BD * Dense(x0_BD.shape[-1], name=f"up_{index}", **dense)(low_BR) + x_BD
        return x_BD
