"""Parameters and batches as shapes on a mesh, so that a program of any size can be compiled with nothing allocated.

Shapes: B batch.
"""

from collections.abc import Mapping
from typing import Any

import jax
from jax.dtypes import canonicalize_dtype
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recjax.data.batches import NumpyBatch
from recjax.evaluation import Data
from recjax.training.pipeline import one_batch
from recjax.training.step import init_params


def drawn_shapes(module: Any, data: Data) -> Any:
    """Returns the module's parameters before any training, as shapes."""
    batch = one_batch(data, 1)
    return jax.eval_shape(lambda: init_params(module, batch, seed=0))


def two_batches(data: Data) -> tuple[NumpyBatch, NumpyBatch]:
    """Returns training batches of two and of three samples."""
    return tuple(next(iter(data.train_batches(size, 0, 1))) for size in (2, 3))  # type: ignore[return-value]


def batch_shapes(
    two_and_three: tuple[Mapping[str, Any], Mapping[str, Any]], batch_size: int, mesh: Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the columns of a batch of B samples as shapes, split along "data" on the axis that counts samples.

    Args:
      two_and_three: batches of two and of three samples, which differ in that axis.
      batch_size: B.
      mesh: that the batch is split over.
    """
    shapes = {}
    for name, two in two_and_three[0].items():
        three = two_and_three[1][name]
        axes = [axis for axis, size in enumerate(two.shape) if (size, three.shape[axis]) == (2, 3)]
        shape = tuple(batch_size if axis in axes[:1] else size for axis, size in enumerate(two.shape))
        spec = PartitionSpec(*("data" if axis in axes[:1] else None for axis in range(len(shape))))
        shapes[name] = jax.ShapeDtypeStruct(shape, canonicalize_dtype(two.dtype), sharding=NamedSharding(mesh, spec))
    return shapes


def shapes_on(sharding: NamedSharding, tree: Any) -> Any:
    """Returns a tree of arrays or shapes as shapes with that sharding."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, canonicalize_dtype(leaf.dtype), sharding=sharding), tree
    )
