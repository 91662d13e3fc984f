"""From scores of the catalogue to the items that are returned: maximum-inner-product top-k.

On equal scores the item of the lower id comes first, whichever exact method finds it.

Shapes: B batch, V catalogue, D embedding dim, L history length, K items returned, N blocks.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from recjax.config import check
from recjax.errors import unknown_name

Method = Literal["auto", "exact", "two_stage", "approximate"]
METHODS: tuple[Method, ...] = ("auto", "exact", "two_stage", "approximate")

BLOCK_SIZE = 64  # items whose maximum is taken first; best of 16 to 128 on a CPU
MOST_SCORES = 2**24  # float32 scores held at once by `top_inner_products`: 64 MiB

# On a CPU two stages win from here on, a single query by little (benchmarks/results/top-k): below, either is done in
# microseconds a row, or most blocks are chosen and their maxima were in vain.
_LEAST_CATALOGUE, _LEAST_BLOCKS_AN_ITEM = 10_000, 10


def top_k(
    scores_BV: Float[Array, "B V"], k: int, *, method: Method = "auto", recall_target: float = 0.95
) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
    """Returns the k greatest scores of each row, best first, and their items (int32).

    Args:
      scores_BV: without NaN.
      k: 1 to V.
      method: "exact" sorts by `jax.lax.top_k`. "two_stage" gives the very same by `two_stage_top_k`. "auto" is
        the faster of the two as measured on a CPU, "exact" elsewhere. "approximate" is
        `jax.lax.approx_max_k`, which is exact, and no faster, on a CPU.
      recall_target: expected share of the true items that "approximate" finds, (0, 1].

    Raises:
      UserError: no such method, or k or the target out of range.
    """
    n_items = scores_BV.shape[1]
    check(1 <= k <= n_items, "top_k k", k, f"1 to {n_items}, the items that there are")
    if method == "approximate":
        check(0 < recall_target <= 1, "top_k recall_target", recall_target, "(0, 1]")
        scores_BK, items_BK = jax.lax.approx_max_k(scores_BV, k, recall_target=recall_target)
        return scores_BK, items_BK
    if method == "exact":
        return _exact(scores_BV, k)
    if method == "two_stage":
        return two_stage_top_k(scores_BV, k)
    if method == "auto":
        if n_items < max(_LEAST_CATALOGUE, _LEAST_BLOCKS_AN_ITEM * BLOCK_SIZE * k):
            return _exact(scores_BV, k)
        # Elsewhere than on CPUs it was not measured.
        return jax.lax.platform_dependent(
            scores_BV, cpu=lambda scores: two_stage_top_k(scores, k), default=lambda scores: _exact(scores, k)
        )
    raise unknown_name("top_k method", method, METHODS)


def _exact(scores_BV: Array, k: int) -> tuple[Array, Array]:
    scores_BK, items_BK = jax.lax.top_k(scores_BV, k)
    return scores_BK, items_BK


def two_stage_top_k(
    scores_BV: Float[Array, "B V"], k: int, block_size: int = BLOCK_SIZE
) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
    """Returns what `jax.lax.top_k` does, ties included, by sorting block maxima first.

    The catalogue is cut into N blocks of consecutive items. The k blocks with the greatest maxima are chosen, and
    the top k are taken among their items (and the few items after the last whole block). One pass at the speed of
    memory and two sorts of N and k block_size scores replace one sort of V.

    Why it is exact: let a stand before b if its score is greater, or equal with the lower id. This orders the items
    of a row without ties. Call the first item of a block its head. Blocks hold consecutive items, so ordering blocks
    by (maximum, then block number) is ordering them by their heads. Suppose that x is among the first k items and
    its block is not chosen. Then k other blocks have heads that stand before the head of x's block, and so before x
    (or x is that head): k items stand before x, and x is not among the first k. The candidates are listed by
    ascending id, and `lax.top_k` keeps the order of equals, so that ties fall as they would in one sort.

    Args:
      scores_BV: without NaN.
      k: 1 to V; with no more than k blocks there is nothing to choose, and it is one sort.
      block_size: items of a block.
    """
    n_blocks = scores_BV.shape[1] // block_size
    if n_blocks <= k:
        return _exact(scores_BV, k)
    # A reduce_window leaves out the tail without a copy; slicing it off and reshaping copies all scores on a CPU.
    maxima_BN = jax.lax.reduce_window(
        scores_BV, -jnp.inf, jax.lax.max, (1, block_size), (1, block_size), padding="VALID"
    )
    blocks_BK = jnp.sort(jax.lax.top_k(maxima_BN, k)[1], axis=1)
    rows_BK = jnp.broadcast_to(jnp.arange(scores_BV.shape[0])[:, None], blocks_BK.shape)
    chosen_BKS = jax.lax.gather(
        scores_BV,
        jnp.stack([rows_BK, blocks_BK * block_size], axis=-1),
        jax.lax.GatherDimensionNumbers(offset_dims=(2,), collapsed_slice_dims=(0,), start_index_map=(0, 1)),
        slice_sizes=(1, block_size),
        mode="promise_in_bounds",
    )
    n_chosen = k * block_size
    tail_BT = scores_BV[:, n_blocks * block_size :]
    scores_BK, places_BK = jax.lax.top_k(jnp.concatenate([chosen_BKS.reshape(-1, n_chosen), tail_BT], axis=1), k)
    block_of_BK = jnp.take_along_axis(blocks_BK, jnp.minimum(places_BK // block_size, k - 1), axis=1)
    in_block_BK = block_of_BK * block_size + places_BK % block_size
    in_tail_BK = n_blocks * block_size + places_BK - n_chosen
    return scores_BK, jnp.where(places_BK < n_chosen, in_block_BK, in_tail_BK)


def top_inner_products(
    query_BD: Float[Array, "B D"],
    item_VD: Float[Array, "V D"],
    k: int,
    *,
    method: Method = "auto",
    recall_target: float = 0.95,
    most_scores: int = MOST_SCORES,
) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
    """Returns each query's k greatest inner products with the items, best first, and the items.

    Queries are taken so many at a time that at most `most_scores` scores are held, or those of one query.

    Args:
      query_BD: vectors of users.
      item_VD: vectors of items.
      k: 1 to V.
      method: of `top_k`.
      recall_target: of `top_k`.
      most_scores: bound of the temporary memory, in float32 values.
    """

    def of_chunk(query_CD: Array) -> tuple[Array, Array]:
        scores_CV = jnp.dot(query_CD, item_VD.T, preferred_element_type=jnp.float32)
        return top_k(scores_CV, k, method=method, recall_target=recall_target)

    n, size = query_BD.shape[0], max(1, most_scores // item_VD.shape[0])
    if n <= size:
        return of_chunk(query_BD)
    padded = jnp.pad(query_BD, ((0, -n % size), (0, 0))).reshape(-1, size, query_BD.shape[1])
    scores_BK, items_BK = (x.reshape(-1, k)[:n] for x in jax.lax.map(of_chunk, padded))
    return scores_BK, items_BK


def top_unseen(scores_BV: Float[Array, "B V"], seen_BL: Int[Array, "B L"], k: int) -> dict[str, Array]:
    """Returns `items` [B, K] int32 and `scores` [B, K] float32, best first, without the items in `seen_BL`.

    Ids outside [0, V), such as padding, name no item.
    """
    n_items = scores_BV.shape[1]
    dropped_BL = jnp.where(seen_BL < 0, n_items, seen_BL)  # a negative index would count from the end
    rows_B1 = jnp.arange(scores_BV.shape[0])[:, None]
    scores_BK, items_BK = top_k(scores_BV.at[rows_B1, dropped_BL].set(-jnp.inf, mode="drop"), k)
    return {"items": items_BK, "scores": scores_BK}


def top_next(
    scores_BV: Float[Array, "B V"], history_BL: Int[Array, "B L"], lengths_B: Int[Array, "B"], k: int
) -> dict[str, Array]:
    """Returns what `top_unseen` does without the first `lengths_B` items of each history; the rest of it is padding."""
    used_BL = jnp.arange(history_BL.shape[1])[None] < lengths_B[:, None]
    return top_unseen(scores_BV, jnp.where(used_BL, history_BL, -1), k)
