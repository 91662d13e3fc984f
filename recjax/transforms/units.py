"""What hidden units, attention heads and whole layers own of the parameters, whatever form the kernels have.

Shapes: U units of a layer, H heads.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from recjax.errors import UserError
from recjax.models.contract import AttentionHeads, HeadSlice, HiddenUnits, RemovableLayers
from recjax.transforms.paths import FlatParams


def owned_slices(layer: HiddenUnits, flat: Mapping[str, Array]) -> tuple[tuple[str, int], ...]:
    """Returns (path, axis) of each parameter with one index per unit; a factored kernel's is the factor that has it."""
    return tuple((_stored(path, axis, flat), axis) for path, axis in layer.slices)


def unit_norms(layer: HiddenUnits, flat: Mapping[str, Array]) -> Float[Array, "U"]:
    """Returns the L2 norm of everything that each unit of the layer owns."""
    total = jnp.zeros([])
    for path, axis in owned_slices(layer, flat):
        others = tuple(i for i in range(flat[path].ndim) if i != axis)
        total += jnp.sum(jnp.square(flat[path].astype(jnp.float32)), axis=others)
    return jnp.sqrt(total)


def unit_means(layer: HiddenUnits, flat: Mapping[str, Array]) -> Float[Array, "U"]:
    """Returns the mean of everything that each unit of the layer owns."""
    total, size = jnp.zeros([]), 0
    for path, axis in owned_slices(layer, flat):
        others = tuple(i for i in range(flat[path].ndim) if i != axis)
        total += jnp.sum(flat[path].astype(jnp.float32), axis=others)
        size += flat[path].size // flat[path].shape[axis]
    return total / size


def spread_over_slices(
    layers: Sequence[HiddenUnits], keep: Mapping[str, Array], flat: Mapping[str, Array]
) -> dict[str, Array]:
    """Returns masks of parameters by path from masks of units by layer; a parameter of two layers obeys both."""
    masks: dict[str, Array] = {}
    for layer in layers:
        for path, axis in owned_slices(layer, flat):
            mask = jnp.expand_dims(keep[layer.name], [i for i in range(flat[path].ndim) if i != axis])
            masks[path] = masks.get(path, jnp.ones(flat[path].shape, bool)) & mask
    return masks


def head_importances(layer: AttentionHeads, flat: Mapping[str, Array]) -> Float[Array, "H"]:
    """Returns the product of the norms of what makes a head's output; 0 where one of them is, as the head adds nothing.

    Michel et al., Are Sixteen Heads Really Better than One? (arXiv 1905.10650), whose idea it is to remove whole heads,
    take the loss's sensitivity to a head; norms need no data.
    """

    def squares(owned: HeadSlice) -> Array:
        leaf = jnp.moveaxis(flat[_stored(owned.path, owned.axis, flat)], owned.axis, 0)
        of_heads = leaf[owned.start : owned.start + layer.count * owned.width].reshape(layer.count, -1)
        return jnp.sum(jnp.square(of_heads.astype(jnp.float32)), axis=1)

    norms = [jnp.sqrt(jnp.sum(jnp.stack([squares(owned) for owned in group]), axis=0)) for group in layer.factors]
    return jnp.prod(jnp.stack(norms), axis=0)


def without_heads(layer: AttentionHeads, flat: FlatParams, removed: Sequence[int]) -> FlatParams:
    """Returns the parameters without everything that the removed heads of the layer own."""
    kept: dict[tuple[str, int], np.ndarray] = {}
    for owned in layer.slices:
        path = _stored(owned.path, owned.axis, flat)
        mask = kept.setdefault((path, owned.axis), np.ones(flat[path].shape[owned.axis], bool))
        for head in removed:
            mask[owned.start + head * owned.width :][: owned.width] = False
    return flat | {path: jnp.take(flat[path], np.flatnonzero(mask), axis) for (path, axis), mask in kept.items()}


def without_layer(layers: RemovableLayers, flat: FlatParams, index: int) -> FlatParams:
    """Returns the parameters without those of the layer of that number; later layers are numbered anew."""
    gone = tuple(pattern.format(index) + "/" for pattern in layers.paths)
    renamed = {
        pattern.format(number) + "/": pattern.format(number - 1) + "/"
        for pattern in layers.paths
        for number in range(index + 1, layers.count)
    }
    result = {}
    for path, leaf in flat.items():
        if not path.startswith(gone):
            prefix = next((before for before in renamed if path.startswith(before)), "")
            result[renamed.get(prefix, "") + path.removeprefix(prefix)] = leaf
    return result


def _stored(path: str, axis: int, flat: Mapping[str, Array]) -> str:
    """Returns where the values along the axis are stored.

    A kernel [I, O] stored as "down" [I, R] and "up" [R, O] has its inputs in the first and its outputs in the second.

    Raises:
      UserError: it is stored in another form.
    """
    factor = f"{path}/{'down' if axis == 0 else 'up'}"
    if path not in flat and factor not in flat:
        raise UserError(
            f"units own a part of {path}, which another transform stores, or a table optimizer updates, in a form that "
            "cannot lose it; limit that transform to other layers or tables, or leave it out; set "
            "training.table_optimizer='dense'"
        )
    return path if path in flat else factor
