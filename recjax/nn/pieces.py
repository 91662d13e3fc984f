"""Interactions grouped by their owner on the device, in padded pieces of one width, for models that are solved.

An owner is a user with items, or an item with users. Owners' lists differ in length by a factor of a thousand;
cut into pieces of L ids they become rows of one matrix, at most L - 1 ids of padding an owner, whatever the data.

Shapes: E interactions, O owners, P pieces, L ids of a piece, K pieces of a block, C owners of a chunk, V catalogue.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from recjax.data.batches import PADDING_ID

LENGTH = 32  # L: pieces of 16 halve the speed of their products on a CPU, longer ones are mostly padding
BLOCK = 512  # K
_CHUNK_BYTES = 64 * 2**20  # of the rows of a catalogue that are held at once

T = TypeVar("T")


class Pieces(NamedTuple):
    """Every owner's ids, in consecutive pieces; pieces that no owner needs are padding.

    Attributes:
      ids: of what the owner has, padded with PADDING_ID.
      owner: whose piece it is; O for pieces of padding, of which there are BLOCK or more.
      starts: [O + 1] an owner's pieces are [starts[o], starts[o + 1]).
      counts: how many ids an owner has.
    """

    ids: Int[Array, "P L"]
    owner: Int[Array, "P"]
    starts: Int[Array, "O_and_1"]
    counts: Int[Array, "O"]


def make_pieces(owner_E: Int[Array, "E"], ids_E: Int[Array, "E"], n_owners: int, length: int = LENGTH) -> Pieces:
    """Returns the pieces of interactions in any order; their number depends on E and `n_owners` alone."""
    order_E = jnp.argsort(owner_E)
    owner_E, ids_E = owner_E[order_E], ids_E[order_E]
    counts_O = jnp.bincount(owner_E, length=n_owners)
    zero = jnp.zeros(1, counts_O.dtype)
    starts = jnp.concatenate([zero, jnp.cumsum(-(-counts_O // length))])
    place_E = jnp.arange(len(owner_E)) - (jnp.cumsum(counts_O) - counts_O)[owner_E]
    piece_E = starts[owner_E] + place_E // length
    n_pieces = len(owner_E) // length + n_owners + BLOCK
    return Pieces(
        ids=jnp.full((n_pieces, length), PADDING_ID, ids_E.dtype).at[piece_E, place_E % length].set(ids_E),
        owner=jnp.full(n_pieces, n_owners, owner_E.dtype).at[piece_E].set(owner_E),
        starts=starts,
        counts=counts_O,
    )


def fold_pieces(pieces: Pieces, first: Int[Array, ""], n: int, add: Callable[[T, Array, Array], T], total: T) -> T:
    """Returns `total` after `add(total, ids_KL, row_K)` over all pieces of the owners [first, first + n).

    `row_K` is the piece's owner as a row of the chunk, in [0, n]; pieces of later owners have n or more, which
    scatters with mode="drop" leave out. Only the blocks that the chunk needs are visited.
    """
    n_owners = len(pieces.counts)
    begin, end = pieces.starts[first], pieces.starts[jnp.minimum(first + n, n_owners)]

    def add_block(index: Array, total: T) -> T:
        at = begin + index * BLOCK
        ids_KL = jax.lax.dynamic_slice_in_dim(pieces.ids, at, BLOCK)
        return add(total, ids_KL, jax.lax.dynamic_slice_in_dim(pieces.owner, at, BLOCK) - first)

    return jax.lax.fori_loop(0, (end - begin + BLOCK - 1) // BLOCK, add_block, total)


def co_occurrence(user_E: Int[Array, "E"], item_E: Int[Array, "E"], n_users: int, n_items: int) -> Float[Array, "V V"]:
    """Returns in how many users' lists each pair of items stands, and on the diagonal in how many an item does.

    The dense product X^T X of 0/1 rows, 2 U V^2 operations, exact below 2^24 users. It holds the result, 4 V^2
    bytes (2.9 GB for 27,000 items), and at most 64 MB of rows.
    """
    pieces = make_pieces(user_E, item_E, n_users)
    chunk = min(n_users, max(1, _CHUNK_BYTES // (4 * n_items)))

    def mark(rows_CV: Array, ids_KL: Array, row_K: Array) -> Array:
        return rows_CV.at[row_K[:, None], jnp.where(ids_KL < 0, n_items, ids_KL)].set(1.0, mode="drop")

    def add_chunk(index: Array, total_VV: Array) -> Array:
        rows_CV = fold_pieces(pieces, index * chunk, chunk, mark, jnp.zeros((chunk, n_items)))
        return total_VV + rows_CV.T @ rows_CV

    return jax.lax.fori_loop(0, -(-n_users // chunk), add_chunk, jnp.zeros((n_items, n_items)))
