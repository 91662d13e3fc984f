"""Which weights or units pruning keeps, from what they score: True keeps.

Sources: one ranking over all layers or one in each: Blalock et al., What is the State of Neural Network Pruning?
(arXiv 2003.03033); N of every M weights: Mishra et al., Accelerating Sparse Deep Neural Networks (arXiv 2104.08378).

Shapes: I inputs, O outputs, G groups, M weights of a group.
"""

from collections.abc import Mapping
from zlib import crc32

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def n_removed(share: Float[Array, ""], size: int) -> Int[Array, ""]:
    """Returns floor(share x size), whatever the rounding of the share."""
    return jnp.floor(share * size + 1e-4).astype(int)


def keep_highest(scores: Mapping[str, Array], share_removed: Float[Array, ""]) -> dict[str, Array]:
    """Returns masks of arrays that are ranked together: all but the floor(share x size) lowest scores are kept.

    Ties keep the earlier one, and every array keeps its highest score, even where all of it ranks low.
    """
    arrays = [values.astype(jnp.float32).ravel() for values in scores.values()]
    ranked = jnp.concatenate([values.at[jnp.argmax(values)].set(jnp.inf) for values in arrays])
    n_kept = jnp.maximum(ranked.size - n_removed(share_removed, ranked.size), len(arrays))
    order = jnp.argsort(ranked, descending=True, stable=True)
    keep = jnp.zeros(ranked.size, bool).at[order].set(jnp.arange(ranked.size) < n_kept)
    masks, start = {}, 0
    for name, values in scores.items():
        masks[name] = keep[start : start + values.size].reshape(values.shape)
        start += values.size
    return masks


def keep_n_of_m(scores_IO: Float[Array, "I O"], n: Int[Array, ""], m: int) -> Bool[Array, "I O"]:
    """Returns True for the `n` highest scores of every `m` consecutive inputs of an output; ties keep the earlier one.

    Inputs that are left over form a short group, of which the same share is kept, rounded up.
    """
    n_inputs, n_outputs = scores_IO.shape
    n_groups = -(-n_inputs // m)
    n_last = n_inputs - (n_groups - 1) * m
    padding = ((0, m - n_last), (0, 0))
    scores_GMO = jnp.pad(scores_IO, padding, constant_values=-jnp.inf).reshape(n_groups, m, n_outputs)
    rank_GMO = jnp.argsort(jnp.argsort(scores_GMO, axis=1, descending=True, stable=True), axis=1)
    kept_G = jnp.full(n_groups, n).at[-1].set((n * n_last + m - 1) // m)
    return (rank_GMO < kept_G[:, None, None]).reshape(n_groups * m, n_outputs)[:n_inputs]


def random_scores(seed: int, name: str, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Returns uniform numbers that the seed and the layer's name decide."""
    key = jax.random.key(seed, impl="threefry2x32")  # the same order on every device, whatever JAX's default
    return jax.random.uniform(jax.random.fold_in(key, crc32(name.encode())), shape)
