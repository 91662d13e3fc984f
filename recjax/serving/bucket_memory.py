"""Whether a model to be served fits into memory.

Its variables are counted before they are put on the device; the program of each batch size ("bucket") before it runs,
by what its compiler says.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from recjax.free_memory import FreeMemory, free_memory
from recjax.training.memory import Needs, check_fits, default_device, in_words, largest_tensors, tree_bytes
from recjax.transforms.compress_embeddings import tables_of

AFFINE_BYTES = 4  # of a row of integers: its scale and offset (recjax.nn.tables)


def serving_needs(
    variables: Any,
    columns: Mapping[str, NDArray],
    bucket: int,
    *,
    program_bytes: int = 0,
    mesh: Mesh | None = None,
) -> Needs:
    """Returns what a bucket allocates in the fullest memory.

    Args:
      variables: of the model; those that are on the device already are not counted.
      columns: requests, one row a sample.
      bucket: samples of a batch.
      program_bytes: outputs and temporaries of the bucket's program on one device; 0 where it is not compiled yet.
      mesh: of the devices that answer together; None answers on the default device.
    """
    devices = _devices(mesh)
    sharing = len(devices) if devices[0].platform == "cpu" else 1  # CPU devices of a process allocate from one memory
    missing = [leaf for leaf in jax.tree.leaves(variables) if not _is_on(leaf, devices[0])]
    row_bytes = sum(column.itemsize * int(np.prod(column.shape[1:])) for column in columns.values())
    return Needs(
        held={"variables": sharing * tree_bytes(missing)},
        passing={f"a batch of {bucket}": bucket * row_bytes + sharing * program_bytes},
        tensors=largest_tensors(variables) if isinstance(variables, Mapping) else (),
    )


def check_bucket(
    variables: Any,
    columns: Mapping[str, NDArray],
    bucket: int,
    programs: Mapping[int, int],
    *,
    mesh: Mesh | None = None,
    free: FreeMemory | None = None,
) -> None:
    """Does nothing if a bucket fits into what is free, as far as is known.

    Args:
      variables: as in `serving_needs`.
      columns: likewise.
      bucket: likewise.
      programs: by bucket, what its program allocates, as in `serving_needs`; the buckets that are compiled.
      mesh: as in `serving_needs`.
      free: where all that is allocated; None asks the first device.

    Raises:
      UserError: it does not fit; one line says what would.
    """

    def needs_of(size: int) -> Needs:
        return serving_needs(variables, columns, size, program_bytes=programs.get(size, 0), mesh=mesh)

    needs = needs_of(bucket)

    def advise(free_bytes: int) -> str:
        fitting = [size for size in programs if size < bucket and needs_of(size).n_bytes <= free_bytes]
        saved = saved_by_int8(variables)
        ways = []
        if saved and needs.n_bytes - saved <= free_bytes:
            left = in_words(needs.n_bytes - saved)
            ways.append(f'put compress_embeddings("int8") into the config\'s transforms ({left})')
        if fitting:
            size = max(fitting)
            ways.append(f"let serving.buckets end at {size} ({in_words(needs_of(size).n_bytes)})")
        if ways:
            return "to make it fit, " + ", or ".join(ways)
        missing = in_words(needs.n_bytes - saved - free_bytes)
        return f"{missing} are missing even with int8 tables; take a smaller model, or a device with more memory"

    free = free_memory(_devices(mesh)[0]) if free is None else free
    check_fits(f"serving in buckets of {bucket}", needs, free, advise)


def saved_by_int8(variables: Any) -> int:
    """Returns the bytes by which the embedding tables that are arrays of floats are smaller as rows of int8."""
    if not isinstance(variables, Mapping) or "params" not in variables:
        return 0
    tables = [table for table in tables_of(variables["params"]).values() if not isinstance(table, Mapping)]
    return sum(max(0, tree_bytes(table) - table.shape[0] * (table.shape[1] + AFFINE_BYTES)) for table in tables)


def _devices(mesh: Mesh | None) -> list[jax.Device]:
    """Returns the devices of this process."""
    if mesh is None:
        return [default_device()]
    return [device for device in mesh.devices.flat if device.process_index == jax.process_index()]


def _is_on(leaf: Any, device: jax.Device) -> bool:
    return isinstance(leaf, jax.Array) and device in leaf.sharding.device_set
