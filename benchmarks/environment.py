"""Everything about the machine and the software that a row's figures depend on."""

import dataclasses
from typing import Any

import jax

from recjax.hardware.ceilings import Ceilings
from recjax.hardware.software import describe_software, nvidia_driver
from recjax.measurement.container import container_limits


def describe_environment(device: jax.Device, ceilings: Ceilings) -> dict[str, Any]:
    """Returns `describe_software` with the driver, the container's limits and the measured ceilings.

    `driver` is what PJRT says; of a GPU that is CUDA's version, so `nvidia_driver` stands beside it.
    """
    limits = container_limits()
    return describe_software() | {
        "driver": device.client.platform_version,
        **({"nvidia_driver": nvidia_driver()} if device.platform == "gpu" else {}),
        "container": {"cpus": limits.cpus, "memory_bytes": limits.memory_bytes, "reasons": limits.reasons},
        "ceilings": dataclasses.asdict(ceilings),
    }
