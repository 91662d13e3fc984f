"""Tables whose rows are computed from smaller arrays: blocks of narrow rows, and tensor trains.

Shapes: V vocabulary, D embedding dim, B batch, R rank.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from recjax.nn.integer_rows import take


def read_blocks(form: Mapping[str, Any], ids: Int[Array, "*n"]) -> Float[Array, "*n D"]:
    """Returns the row of each id from whichever block holds it, widened by the block's projection.

    All blocks are read for all ids, because an array's shape cannot depend on which are wanted.

    Source: Ginart et al., Mixed Dimension Embeddings (arXiv 1909.11810), algorithm 2.
    """
    place, first, total = take(form["place"], ids), 0, None
    for block in _blocks(form):
        n_rows = len(block["rows"])
        within = place - first
        rows = _widened(block, take(block["rows"], jnp.clip(within, 0, n_rows - 1)))
        wide = jnp.where(((within >= 0) & (within < n_rows))[..., None], rows, 0)
        total, first = wide if total is None else total + wide, first + n_rows
    assert total is not None, "a table has a block"
    return total


def read_all_blocks(form: Mapping[str, Any]) -> Float[Array, "V D"]:
    """Returns the whole table."""
    by_place = jnp.concatenate([_widened(block, block["rows"]) for block in _blocks(form)])
    return take(by_place, form["place"])


def read_train(form: Mapping[str, Any], ids: Int[Array, "*n"]) -> Float[Array, "*n D"]:
    """Returns the row of each id: its digit's slice of each of the three cores, multiplied.

    The digits of an id are those of the bases V1, V2, V3; the cores are [V1, D1, R], [V2, R, D2, R] and [V3, R, D3].

    Source: Yin et al., TT-Rec (arXiv 2101.11714), equation 3.
    """
    first, second, third = (form[name] for name in ("core_0", "core_1", "core_2"))
    n_second, n_third = len(second), len(third)
    a = take(first, ids // (n_second * n_third))
    b = take(second, ids // n_third % n_second)
    c = take(third, ids % n_third)
    ab = jnp.einsum("...pr,...rqs->...pqs", a, b)
    abc = jnp.einsum("...pqs,...st->...pqt", ab, c)
    return abc.reshape(*ids.shape, -1)


def read_whole_train(form: Mapping[str, Any], vocab_size: int) -> Float[Array, "V D"]:
    """Returns the whole table; what the padded digits add behind it is cut off."""
    cores = (form["core_0"], form["core_1"], form["core_2"])
    dim = cores[0].shape[1] * cores[1].shape[2] * cores[2].shape[2]
    return jnp.einsum("ipr,jrqs,kst->ijkpqt", *cores).reshape(-1, dim)[:vocab_size]


def _widened(block: Mapping[str, Array], rows: Array) -> Array:
    return rows @ block["projection"] if "projection" in block else rows


def _blocks(form: Mapping[str, Any]) -> list[Mapping[str, Array]]:
    return [form[f"block_{number}"] for number in range(len(form) - 1)]
