"""Devices that are not here, for a compiler that is: TPU slices through libtpu, GPU servers through JAX's CUDA plugin.

A target is a chip and how many of it: "v5e:4x4" is a slice of 16 chips, "h200:8" a server of 8.
"""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recjax.errors import DeviceError, UserError
from recjax.hardware.facts import Chip, find_chip

if TYPE_CHECKING:
    import jax

PLUGINS = {"tpu": "libtpu", "cuda": "jax_cuda13_plugin"}
EXTRAS = {"tpu": "tpu", "cuda": "gpu"}
# What CUDA allows a kernel on compute capabilities 8.0, 9.0 and 10.0; 8.6, 8.9 and 12.x hold fewer threads in a core.
# Source: NVIDIA, CUDA Programming Guide, Compute Capabilities, tables 30 and 31:
# https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/compute-capabilities.html
# Shared memory of a block that asks for no more: openxla/xla, xla/backends/gpu/target_config/specs/*.txtpb.
CUDA_LIMITS = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "shared_memory_per_block": 49_152,
    "threads_per_core_limit": 2048,
    "block_dim_limit_x": 2_147_483_647,
    "block_dim_limit_y": 65_535,
    "block_dim_limit_z": 65_535,
    "registers_per_core_limit": 65_536,
    "registers_per_block_limit": 65_536,
}


@dataclasses.dataclass(frozen=True)
class Target:
    """Hardware that a plan is made for.

    Attributes:
      name: as it was given, "v5e:4x4".
      chip: which.
      shape: chips along each axis of a slice; (8,) of a server of 8 GPUs.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def n_chips(self) -> int:
        """Returns how many chips there are."""
        return math.prod(self.shape)

    @property
    def n_devices(self) -> int:
        """Returns how many devices JAX shows of them."""
        return self.n_chips * self.chip.devices_per_chip


def parse_target(text: str) -> Target:
    """Returns the hardware that a text names.

    Raises:
      UserError: an unknown chip, or a number or shape of chips that there is not.
    """
    name, _, size = text.strip().partition(":")
    name = "v7x" if name == "tpu7x" else name
    chip = find_chip(name)
    shape = tuple(int(part) for part in size.split("x")) if re.fullmatch(r"\d{1,4}(x\d{1,4})*", size) else ()
    axes = len(shape)
    if chip.platform == "cuda":
        right, example = axes == 1 and 1 <= shape[0] <= chip.max_chips, f"{name}:{chip.max_chips}"
        allowed = f"1 to {chip.max_chips} GPUs of one server, as {example}"
    else:
        wanted = 2 if chip.links == 4 else 3
        example = f"{name}:" + ("4x4" if wanted == 2 else "2x2x1")
        right = axes == wanted and min(shape) >= 1 and math.prod(shape) <= chip.max_chips
        allowed = f"chips along {wanted} axes, at most {chip.max_chips} in all, as {example}"
    if not right:
        wrong = f"{size} is no size of a {name}" if size else "its size is missing"
        raise UserError(f"device {text!r}: {wrong}; allowed: {allowed}")
    return Target(text.strip(), chip, shape)


def environment(target: Target) -> dict[str, str]:
    """Returns what the compilers want in the environment before JAX is imported.

    libtpu would ask Google's metadata server where it is, and hold a lock that keeps a second process from compiling;
    JAX would start a backend for every device that it might find, and look for a GPU's driver.
    """
    common = {"JAX_PLATFORMS": "cpu"}
    if target.chip.platform == "tpu":
        return common | {
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": f"{(target.chip.topology or target.chip.name).rstrip(':')}-{target.n_chips}",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "TPU_MIN_LOG_LEVEL": "3",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        }
    return common | {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "CUDA_VISIBLE_DEVICES": ""}


def missing_compiler(platform: str) -> str | None:
    """Returns how to install the compiler of a platform, None if it is here."""
    if importlib.util.find_spec(PLUGINS[platform]) is not None:
        return None
    return (
        f"{PLUGINS[platform]}, which has its compiler, is not installed: pip install -e '.[{EXTRAS[platform]}]' in the "
        "repository"
    )


def absent_devices(target: Target) -> "Sequence[jax.Device]":
    """Returns the target's devices, which programs can be compiled for and not run on.

    The process must have started with `environment(target)`.

    Raises:
      DeviceError: the compiler is not installed or does not know the target; the message says which.
    """
    import jax
    from jax.experimental import topologies

    chip = target.chip
    if missing := missing_compiler(chip.platform):
        raise DeviceError(missing)
    wrong = {key: value for key, value in environment(target).items() if os.environ.get(key) != value}
    if wrong:
        settings = " ".join(f"{key}={value!r}" for key, value in wrong.items())
        raise DeviceError(f"compiling for {target.name} needs a process that was started with {settings}")
    shape = "x".join(str(size) for size in target.shape)
    try:
        if chip.platform == "tpu":
            # libtpu shows the two cores of a v4 chip as two devices unless it is told otherwise; JAX on a TPU does not.
            # It also takes a host to have four chips, of which a slice of one is no whole number.
            options: dict[str, Any] = {"chip_config_name": "megacore"} if chip.name == "v4" else {}
            options |= {"chips_per_host_bounds": (1, 1, 1)} if target.n_chips == 1 else {}
            topology = topologies.get_topology_desc(platform="tpu", topology_name=f"{chip.topology}{shape}", **options)
        else:
            topology = topologies.get_topology_desc(
                chip.name, platform="cuda", target_config=gpu_target_config(chip), topology=f"1x1x{shape}"
            )
    except jax.errors.JaxRuntimeError as error:
        raise DeviceError(f"the compiler does not know {target.name}: {' '.join(str(error).split())}") from error
    devices = topology.devices
    if len(devices) != target.n_devices:
        raise DeviceError(f"{target.name} has {len(devices)} devices here, and facts.toml says {target.n_devices}")
    return devices


def gpu_target_config(chip: Chip) -> str:
    """Returns the chip as the text form of XLA's GpuTargetConfigProto."""
    assert chip.xla is not None
    assert chip.compute_capability is not None
    major, minor = chip.compute_capability.split(".")
    fields: Mapping[str, float | int] = {**CUDA_LIMITS, **chip.xla, "device_memory_size": chip.hbm_bytes}
    lines = [f"  {name}: {value}" for name, value in fields.items()]
    lines.append(f"  cuda_compute_capability {{ major: {major} minor: {minor} }}")
    return "\n".join(
        [
            "gpu_device_info {",
            *lines,
            "}",
            'platform_name: "CUDA"',
            "dnn_version_info { major: 9 minor: 10 patch: 0 }",
            f'device_description_str: "{chip.device_kinds[0]}"',
        ]
    )
