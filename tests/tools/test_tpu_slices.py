import math

import pytest

from recjax.errors import UserError
from recjax.hardware.device import TPU_GENERATIONS
from tools.tpu_slices import GENERATIONS, find_slice


@pytest.mark.parametrize(
    ("name", "rented_as", "topology", "chips", "hosts"),
    [
        ("v5e-1", "v5litepod-1", "1x1", 1, 1),
        ("v5e-8", "v5litepod-8", "2x4", 8, 1),
        ("v5e-16", "v5litepod-16", "4x4", 16, 4),
        ("v5litepod-256", "v5litepod-256", "16x16", 256, 64),
        ("v6e-4", "v6e-4", "2x2", 4, 1),
        ("v6e-32", "v6e-32", "4x8", 32, 8),
        ("v4-8", "v4-8", "2x2x1", 4, 1),  # the number counts TensorCores, two a chip
        ("v5p-32", "v5p-32", "2x2x4", 16, 4),
        ("tpu7x-128", "tpu7x-128", "4x4x4", 64, 16),
    ],
)
def test_slices(name: str, rented_as: str, topology: str, chips: int, hosts: int) -> None:
    found = find_slice(name)
    assert (found.rented_as, found.topology, found.chips, found.hosts) == (rented_as, topology, chips, hosts)
    assert math.prod(map(int, topology.split("x"))) == chips == found.hosts * found.chips_per_host


def test_a_node_pool_may_split_eight_chips() -> None:
    assert find_slice("v6e-8", 4).hosts == 2
    assert find_slice("v5e-8", 1).hosts == 8


@pytest.mark.parametrize(
    ("name", "chips_per_host", "message"),
    [
        (
            "v5e-17",
            None,
            r"^unknown TPU slice 'v5e-17'; valid: v5e-1 \(1x1\), v5e-4 \(2x2\), v5e-8 \(2x4\), v5e-16 \(4x4\)",
        ),
        ("v5e", None, r"^unknown TPU slice 'v5e'; valid"),
        ("v5p-4", None, r"^unknown TPU slice 'v5p-4'; valid: v5p-8 \(2x2x1\)"),
        ("v6-16", None, r"^unknown TPU generation 'v6'; valid: v4, v5e, v5p, v6e, v7x; did you mean 'v6e'\?$"),
        ("v5e-16", 5, r"^--chips-per-host=5 cannot be for v5e-16 of 16 chips; hosts have 4 chips, or 1 or 8"),
        ("v5p-16", 8, r"^--chips-per-host=8 cannot be for v5p-16 of 8 chips"),
        ("v5e-4", 8, r"^--chips-per-host=8 cannot be for v5e-4 of 4 chips"),
    ],
)
def test_slices_that_are_not_rented(name: str, chips_per_host: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_slice(name, chips_per_host)


def test_generations_have_the_names_that_recjax_uses() -> None:
    assert set(GENERATIONS) <= set(TPU_GENERATIONS.values())
