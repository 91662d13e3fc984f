"""A mesh of devices from the sizes that a config names."""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from recjax.errors import UserError

AXES = ("data", "model")


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh with one axis for each name, as in {"data": -1, "model": 2}.

    Axes are of the Auto kind: gradients of quantized products fail on Explicit ones.

    Args:
      sizes: devices along each axis of AXES, a missing one being 1; one of them may be -1 and takes all that are left.
      devices: to use; None takes all that JAX has, of all processes.

    Raises:
      UserError: another axis, or sizes that do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(sizes, len(devices))
    return Mesh(
        np.array(devices).reshape(tuple(shape.values())), tuple(shape), axis_types=(AxisType.Auto,) * len(shape)
    )


def mesh_shape(sizes: Mapping[str, int], n_devices: int) -> dict[str, int]:
    """Returns the size of every axis of AXES for that many devices.

    Raises:
      UserError: as `make_mesh`.
    """
    described = ", ".join(f"{name}={size}" for name, size in sizes.items())
    unknown = sorted(sizes.keys() - set(AXES))
    open_axes = [name for name, size in sizes.items() if size == -1]
    wrong = [f"{name}={size}" for name, size in sizes.items() if size < 1 and size != -1]
    if unknown or wrong or len(open_axes) > 1:
        both = "" if unknown or wrong else " both -1"
        raise UserError(
            f"mesh {described}: {', '.join(unknown or wrong or open_axes)} cannot be{both}; allowed: the axes "
            f"{' and '.join(AXES)}, with a size of at least 1, or one of them with -1 for all devices that are left"
        )
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if n_devices % fixed or (not open_axes and fixed != n_devices):
        named = described or "of no axes"
        raise UserError(
            f"mesh {named} does not make {n_devices} device{'s' * (n_devices > 1)}; allowed: sizes that multiply to "
            f"{n_devices}, as data={n_devices},model=1, or data=-1 with a model that divides {n_devices}"
        )
    return {name: n_devices // fixed if sizes.get(name, 1) == -1 else sizes.get(name, 1) for name in AXES}


def check_batch(name: str, size: int, mesh: Mesh) -> None:
    """Raises UserError unless a batch of that size can be split evenly along the mesh's data axis."""
    n = mesh.shape["data"]
    if size % n:
        lower, upper = size - size % n, size + -size % n
        allowed = f"{lower} or {upper}" if lower else str(upper)
        raise UserError(f"{name} is {size}, which data={n} devices cannot share evenly; set it to {allowed}")
