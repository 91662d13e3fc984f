"""From scores of the catalogue to the items that are returned.

Shapes: B batch, V catalogue, L history length, K items returned.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def top_unseen(scores_BV: Float[Array, "B V"], seen_BL: Int[Array, "B L"], top_k: int) -> dict[str, Array]:
    """Returns `items` [B, K] int32 and `scores` [B, K] float32, best first, without the items in `seen_BL`.

    Ids outside [0, V), such as padding, name no item.
    """
    n_items = scores_BV.shape[1]
    dropped_BL = jnp.where(seen_BL < 0, n_items, seen_BL)  # a negative index would count from the end
    rows_B1 = jnp.arange(scores_BV.shape[0])[:, None]
    scores_BK, items_BK = jax.lax.top_k(scores_BV.at[rows_B1, dropped_BL].set(-jnp.inf, mode="drop"), top_k)
    return {"items": items_BK, "scores": scores_BK}
