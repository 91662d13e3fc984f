"""Tables with fewer rows than ids: ids share rows by a hash, by quotient and remainder, or where they are rare.

Shapes: V vocabulary, D embedding dim, M rows, K rows kept.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from recjax.nn.integer_rows import take

MULTIPLIER = 2_654_435_769  # 2^32 over the golden ratio, odd


def row_of(form: Mapping[str, Any], ids: Int[Array, "*n"]) -> Int[Array, "*n"]:
    """Returns the row that each id reads: of "hashed", or of "kept"."""
    if "row_of" in form:
        return take(form["row_of"], ids)
    return hashed_row(ids, len(form["hashed"]))


def hashed_row(ids: Int[Array, "*n"], n_rows: int) -> Int[Array, "*n"]:
    """Returns each id's row by multiplicative hashing modulo 2^32, the upper half folded into the lower one.

    Source: Knuth, The Art of Computer Programming, volume 3, section 6.4.
    """
    product = ids.astype(jnp.uint32) * jnp.uint32(MULTIPLIER)
    return ((product ^ (product >> 16)) % jnp.uint32(n_rows)).astype(jnp.int32)


def read_composed(form: Mapping[str, Any], ids: Int[Array, "*n"]) -> Float[Array, "*n D"]:
    """Returns quotient[id // M] x remainder[id % M], value by value.

    Source: Shi et al., Compositional Embeddings Using Complementary Partitions (arXiv 1909.02107), section 3, with the
    element-wise product, which did best there.
    """
    n_rows = len(form["remainder"])
    return take(form["quotient"], ids // n_rows) * take(form["remainder"], ids % n_rows)
