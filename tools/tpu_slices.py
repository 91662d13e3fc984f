"""Slices of Cloud TPUs by the name under which they are rented: chips, topology, hosts."""

import dataclasses
import math
from collections.abc import Mapping

from recjax.errors import UserError, unknown_name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """A generation of TPUs.

    Attributes:
      gke_label: value of the node label cloud.google.com/gke-tpu-accelerator.
      rented_as: the first part of a slice's name at Google Cloud and in xpk.
      cores_per_chip: what the number in a slice's name counts for each chip.
      topologies: of its slices, as chips along each axis.
    """

    gke_label: str
    rented_as: str
    cores_per_chip: int
    topologies: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slice:
    """A slice of TPU chips with fast links among them.

    Attributes:
      generation: of its chips.
      rented_as: its name at Google Cloud and in xpk.
      topology: chips along each axis.
      chips: in all.
      chips_per_host: of each virtual machine.
    """

    generation: Generation
    rented_as: str
    topology: str
    chips: int
    chips_per_host: int

    @property
    def hosts(self) -> int:
        """Returns the number of virtual machines, each of which runs one process."""
        return self.chips // self.chips_per_host


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")

# Source: AI-Hypercomputer/xpk src/xpk/core/system_characteristics.py; Google Cloud "Plan TPUs in GKE".
GENERATIONS: Mapping[str, Generation] = {
    "v4": Generation(gke_label="tpu-v4-podslice", rented_as="v4", cores_per_chip=2, topologies=_CUBES),
    "v5e": Generation(gke_label="tpu-v5-lite-podslice", rented_as="v5litepod", cores_per_chip=1, topologies=_FLAT),
    "v5p": Generation(gke_label="tpu-v5p-slice", rented_as="v5p", cores_per_chip=2, topologies=_CUBES),
    "v6e": Generation(gke_label="tpu-v6e-slice", rented_as="v6e", cores_per_chip=1, topologies=_FLAT),
    "v7x": Generation(gke_label="tpu7x", rented_as="tpu7x", cores_per_chip=2, topologies=("1x1x1", *_CUBES)),
}
ALIASES = {"v5litepod": "v5e", "tpu7x": "v7x"}


def find_slice(name: str, chips_per_host: int | None = None) -> Slice:
    """Returns the slice of that name, as v5e-16 or v5litepod-16.

    Args:
      name: generation and a number, which counts chips for v5e and v6e and TensorCores for the others.
      chips_per_host: None takes 8 where the slice has 8 chips in a plane, else 4 or all that there are.

    Raises:
      UserError: no such generation or size; the message lists them.
    """
    family, _, number = name.partition("-")
    family = ALIASES.get(family, family)
    if family not in GENERATIONS:
        raise unknown_name("TPU generation", family, GENERATIONS)
    generation = GENERATIONS[family]
    by_number = {
        str(generation.cores_per_chip * math.prod(map(int, topology.split("x")))): topology
        for topology in generation.topologies
    }
    if number not in by_number:
        sizes = ", ".join(f"{family}-{size} ({topology})" for size, topology in by_number.items())
        raise UserError(f"unknown TPU slice {name!r}; valid: {sizes}")
    topology = by_number[number]
    chips = int(number) // generation.cores_per_chip
    usual = 8 if topology == "2x4" else min(chips, 4)
    per_host = usual if chips_per_host is None else chips_per_host
    if per_host not in (1, 4, 8) or chips % per_host or (per_host == 8 and generation.topologies is not _FLAT):
        raise UserError(
            f"--chips-per-host={per_host} cannot be for {name} of {chips} chips; hosts have 4 chips, or 1 or 8 in "
            "small slices of v5e and v6e"
        )
    return Slice(
        generation=generation,
        rented_as=f"{generation.rented_as}-{number}",
        topology=topology,
        chips=chips,
        chips_per_host=per_host,
    )
