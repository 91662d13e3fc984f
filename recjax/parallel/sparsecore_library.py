"""What recjax uses of jax-tpu-embedding, and which of its optimizers are recjax's.

Shapes: D embedding dim.
"""

import contextlib
import logging
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from recjax.data.features import Field
from recjax.errors import DeviceError, UserError, unknown_name

ALIGNMENT = 8  # the library pads each partition of a buffer, each table's rows a SparseCore and its width to this
SLOTS = {"sgd": 0, "adagrad": 1, "lazy_adam": 2}  # arrays of the table's size that each optimizer keeps


def import_library() -> types.SimpleNamespace:
    """Returns the modules of jax-tpu-embedding that are used here, which only those who ask for SparseCores need."""
    try:
        from jax_tpu_embedding.sparsecore.lib.nn import embedding, embedding_spec, table_stacking
        from jax_tpu_embedding.sparsecore.utils import utils
    except ImportError as error:
        raise UserError(
            f"SparseCore tables need jax-tpu-embedding, which cannot be imported ({error}); pip install -e '.[tpu]' "
            "with Python 3.12 or newer on Linux brings it"
        ) from error
    return types.SimpleNamespace(
        embedding=embedding, embedding_spec=embedding_spec, table_stacking=table_stacking, utils=utils
    )


def sparsecores_of(mesh: Mesh) -> int:
    """Returns how many SparseCores each of the mesh's devices has; raises DeviceError if it has none."""
    device, known = mesh.devices.flat[0], import_library().utils.NUM_SC_PER_DEVICE_MAP
    if device.device_kind not in known:
        raise DeviceError(
            f"{device.device_kind} has no SparseCore that jax-tpu-embedding knows; it knows those of "
            f"{', '.join(known)}; use the sharded tables of recjax.parallel there"
        )
    return known[device.device_kind]


def adagrad_update(
    gradient: Float[Array, "1 D"], row: Float[Array, "1 D"], sum_of_squares: Float[Array, "1 D"], rate: Array
) -> tuple[Float[Array, "1 D"], Float[Array, "1 D"]]:
    """Returns a row and its accumulator after one step of Adagrad, as the SparseCore's program computes it.

    sum += gradient^2; row -= rate x gradient / (sqrt(sum) + 1e-8). This is `rowwise_adagrad` of
    recjax.training.row_updates without the mean over D, which a SparseCore's program cannot compute.
    """
    sum_of_squares = sum_of_squares + gradient * gradient
    return row - rate * gradient / (jnp.sqrt(sum_of_squares) + 1e-8), sum_of_squares


def check_optimizer(optimizer: str) -> None:
    """Raises UserError unless SparseCores have that optimizer."""
    if optimizer == "rowwise_adagrad":
        raise UserError(
            "optimizer is 'rowwise_adagrad', whose mean over a row a SparseCore's program cannot compute; use "
            "'adagrad', with D accumulators a row instead of one, or tables that are not on SparseCores"
        )
    if optimizer not in SLOTS:
        raise unknown_name("SparseCore optimizer", optimizer, SLOTS)


def optimizer_spec(library: types.SimpleNamespace, optimizer: str, learning_rate: Any) -> Any:
    """Returns the library's own optimizer where it is recjax's to the letter, else `adagrad_update` in its form."""
    # The library counts a callable's arguments by its signature, which a functools.partial or a class may hide.
    rate = (lambda step: learning_rate(step)) if callable(learning_rate) else learning_rate
    specs = library.embedding_spec
    if optimizer == "sgd":
        return specs.SGDOptimizerSpec(rate)
    if optimizer == "lazy_adam":
        return specs.AdamOptimizerSpec(rate, 0.9, 0.999, 1e-8)
    # The library's Adagrad has no epsilon, so that it cannot start from an accumulator of 0.
    return specs.CustomOptimizerSpec(
        rate,
        adagrad_update,
        slot_variable_initializers_tuple=(jax.nn.initializers.zeros,),
        short_name_str="adagrad",
    )


def feature_spec(
    library: types.SimpleNamespace, field: Field, embedding_dim: int, batch_size: int, optimizer: Any
) -> Any:
    """Returns the library's description of a field and of its table."""
    table = library.embedding_spec.TableSpec(
        name=field.name,
        vocabulary_size=field.vocab_size,
        embedding_dim=embedding_dim,
        initializer=jax.nn.initializers.zeros,  # never called: values come from `stack_tables`
        optimizer=optimizer,
        combiner=field.combiner,
    )
    return library.embedding_spec.FeatureSpec(
        name=field.name,
        table_spec=table,
        input_shape=(batch_size, field.length),
        output_shape=(batch_size, embedding_dim),
    )


def as_statistics(library: types.SimpleNamespace, limits: Mapping[str, Any], sparsecores: int) -> Any:
    """Returns the limits of stacks in the form in which the library takes them.

    Args:
      library: from `import_library`.
      limits: a recjax.parallel.sparsecore.StackLimits for each stack.
      sparsecores: of one device.
    """
    return library.embedding.SparseDenseMatmulInputStats(
        max_ids_per_partition={name: np.array([limit.ids]) for name, limit in limits.items()},
        max_unique_ids_per_partition={name: np.array([limit.unique_ids]) for name, limit in limits.items()},
        required_buffer_size_per_sc={name: np.array([limit.buffer // sparsecores]) for name, limit in limits.items()},
    )


@contextlib.contextmanager
def without_advice() -> Iterator[None]:
    """Within the block the library does not warn that limits are its defaults: they are set right after."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
