"""Meshes of the sizes that a config names, and what cannot be one."""

import jax
import pytest
from jax.sharding import AxisType

from recjax.errors import UserError
from recjax.parallel.mesh import check_batch, make_mesh, mesh_shape


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({"data": -1, "model": 2}, {"data": 4, "model": 2}),
        ({"data": 2, "model": -1}, {"data": 2, "model": 4}),
        ({"data": -1}, {"data": 8, "model": 1}),
        ({"model": 8}, {"data": 1, "model": 8}),
        ({"model": -1}, {"data": 1, "model": 8}),
        ({"model": 2, "data": 4}, {"data": 4, "model": 2}),
    ],
)
def test_shapes_of_eight_devices(sizes: dict[str, int], shape: dict[str, int]):
    found = mesh_shape(sizes, 8)
    assert found == shape
    assert list(found) == ["data", "model"]  # "model" varies fastest, between neighbours


def test_a_mesh_takes_all_devices_in_their_order():
    mesh = make_mesh({"data": -1, "model": 2})
    assert dict(mesh.shape) == {"data": 4, "model": 2}
    assert list(mesh.devices.flat) == jax.devices()
    assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)


def test_a_mesh_of_some_devices():
    some = jax.devices()[6:2:-1]
    mesh = make_mesh({"data": 2, "model": 2}, some)
    assert mesh.devices.tolist() == [some[:2], some[2:]]


@pytest.mark.parametrize("n_devices", [1, 2, 3, 6])
def test_minus_one_takes_what_is_left(n_devices: int):
    assert mesh_shape({"data": -1, "model": 1}, n_devices) == {"data": n_devices, "model": 1}


@pytest.mark.parametrize(
    ("sizes", "n_devices", "parts"),
    [
        ({"data": -1, "model": 3}, 8, ("data=-1, model=3", "8 devices", "data=8,model=1")),
        ({"data": 2, "model": 2}, 8, ("data=2, model=2", "8 devices")),
        ({"data": 16}, 8, ("data=16", "8 devices")),
        ({"data": 2}, 1, ("data=2", "1 device;")),
        ({"data": -1, "tensor": 2}, 8, ("tensor cannot be", "data and model")),
        ({"data": 0}, 8, ("data=0 cannot be", "at least 1")),
        ({"data": -1, "model": -2}, 8, ("model=-2 cannot be",)),
        ({"data": -1, "model": -1}, 8, ("data, model cannot be", "one of them with -1")),
    ],
)
def test_a_mesh_that_cannot_be(sizes: dict[str, int], n_devices: int, parts: tuple[str, ...]):
    with pytest.raises(UserError) as raised:
        mesh_shape(sizes, n_devices)
    message = str(raised.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_batch_that_can_be_shared():
    mesh = make_mesh({"data": 4, "model": 2})
    for size in (4, 12, 64):
        check_batch("training.batch_size", size, mesh)


@pytest.mark.parametrize(("size", "allowed"), [(30, "28 or 32"), (33, "32 or 36"), (3, "to 4"), (1, "to 4")])
def test_a_batch_that_cannot(size: int, allowed: str):
    with pytest.raises(UserError, match=f"training.batch_size is {size}, which data=4 devices .* {allowed}$"):
        check_batch("training.batch_size", size, make_mesh({"data": 4, "model": 2}))
