"""The device that was asked for, or an error: never another one."""

import os
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from recjax.config import Parallel
from recjax.errors import DeviceError, unknown_name
from recjax.parallel.mesh import mesh_shape
from recjax.processor import cpu_model

PLATFORMS = ("cpu", "gpu", "tpu")
SYNONYMS = {"cuda": "gpu", "rocm": "gpu", "nvidia": "gpu"}
TPU_GENERATIONS = {  # by the kind that JAX gives
    "TPU v2": "v2",
    "TPU v3": "v3",
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
    "TPU7x": "v7x",
}
REMEDIES = {
    "gpu": "pip install -e '.[bench,gpu]' in the repository, and see that nvidia-smi lists a GPU",
    "tpu": "run on a TPU VM, after pip install -e '.[bench,tpu]' in the repository",
}
EXAMPLES = {"gpu": "h200:1", "tpu": "v6e:1x1"}  # what an absent device might be, for an estimate


def select_device(platform_name: str) -> Sequence[jax.Device]:
    """Returns this process's devices of that platform and makes the first one JAX's default.

    Call it before anything else touches JAX: on a CPU run it keeps other backends from starting at all.

    Args:
      platform_name: "cpu", "gpu" or "tpu".

    Raises:
      UserError: another name.
      DeviceError: JAX has no such device here; the message says what it has.
    """
    check_platform(platform_name)
    if platform_name == "cpu":
        jax.config.update("jax_platforms", "cpu")
    try:
        devices = jax.local_devices(backend=platform_name)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(
            f"no {platform_name} device: JAX {jax.__version__} found {_found_devices()}; {REMEDIES[platform_name]}; "
            f"for an estimate without one: recjax plan CONFIG --devices {EXAMPLES[platform_name]}, or python -m "
            f"benchmarks.run --device={platform_name} --estimate"
        ) from error
    jax.config.update("jax_default_device", devices[0])
    return devices


def check_platform(platform_name: str) -> None:
    """Does nothing for "cpu", "gpu" and "tpu"; raises UserError for another name."""
    if platform_name not in PLATFORMS:
        raise unknown_name("device", platform_name, PLATFORMS, SYNONYMS)


def _found_devices() -> str:
    """Returns what JAX has, as a list in words; JAX_PLATFORMS can leave it with nothing, which it asserts against."""
    try:
        return ", ".join(f"{device.platform}:{device.id} ({device.device_kind})" for device in jax.devices())
    except (RuntimeError, AssertionError):
        return f"nothing (JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')!r})"


def describe_device(devices: Sequence[jax.Device], mesh: Mesh | None = None) -> dict[str, Any]:
    """Returns platform and kind as they stand in a result row, and the number of devices that answer together."""
    kind = cpu_model() if devices[0].platform == "cpu" else devices[0].device_kind
    of_mesh = {"count": mesh.size, "mesh": dict(mesh.shape)} if mesh else {"count": 1, "mesh": None}
    return {"platform": devices[0].platform, "kind": kind, **of_mesh}


def describe_training(parallel: Parallel) -> dict[str, Any]:
    """Returns over which devices a training was spread, as it stands in a result row's environment."""
    if parallel.strategy == "single":
        return {"strategy": "single", "devices": 1, "processes": 1}
    spread = {"strategy": parallel.strategy, "devices": jax.device_count(), "processes": jax.process_count()}
    shape = mesh_shape({"data": parallel.data, "model": parallel.model}, jax.device_count())
    return spread | {"mesh": shape, "fully_sharded": parallel.fully_sharded, "tables": parallel.tables}


def support_platform(device: jax.Device) -> str:
    """Returns the device as transforms name it: "cpu", "cuda:9.0" or "tpu:v6e"; an unknown version is left out."""
    if device.platform == "gpu":
        capability = getattr(device, "compute_capability", None)
        return f"cuda:{capability}" if capability else "cuda"
    if device.platform == "tpu":
        generation = TPU_GENERATIONS.get(device.device_kind)
        return f"tpu:{generation}" if generation else "tpu"
    return device.platform


def peak_memory_bytes(device: jax.Device) -> int | None:
    """Returns the most device memory ever held by this process, None where the device keeps no count (CPU)."""
    statistics = device.memory_stats()
    return None if statistics is None else statistics.get("peak_bytes_in_use")
