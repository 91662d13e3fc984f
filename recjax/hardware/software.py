"""The software that a figure depends on: versions, flags, precision, processor, system and git state."""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

from recjax.processor import cpu_model

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "aqtp",
    "qwix",
    "numpy",
    "scipy",
    "orbax-checkpoint",
    "pyarrow",
    "recjax",
)
EXTRAS = ("hdrhistogram", "optuna", "mlcommons-loadgen")  # named where they are installed
FLAG_PREFIXES = ("JAX_", "XLA_", "LIBTPU_", "OMP_", "CUDA_", "NVIDIA_TF32")
REPOSITORY = Path(__file__).parents[2]


def describe_software() -> dict[str, Any]:
    """Returns versions, flags, precision, processor, system and git state, as plain JSON values.

    Rows are published: the home folder in a flag's value is written as `~`.
    """
    jax_settings: Any = jax.config  # its attributes are made at run time; not every version declares them
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        versions[package] = importlib.metadata.version(package)
    for package in EXTRAS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    home = str(Path.home())
    flags = {
        name: value.replace(home, "~") for name, value in sorted(os.environ.items()) if name.startswith(FLAG_PREFIXES)
    }
    return {
        "versions": versions,
        "flags": flags,
        "matmul_precision": jax_settings.jax_default_matmul_precision or "default of the platform",
        "cpu": cpu_model(),
        "os": platform.platform(),
        "git": describe_git(),
    }


def describe_git() -> dict[str, Any]:
    """Returns the commit, and whether files differ from it; None outside a repository.

    Where tracked files differ, `diff` are 16 hex digits of how: two modified trees of a commit can be told apart.
    """
    status, diff = _git("status", "--porcelain"), _git("diff", "HEAD", "--no-ext-diff", "--no-color", "--full-index")
    state = {"commit": _git("rev-parse", "HEAD"), "modified": None if status is None else bool(status)}
    return state | ({"diff": hashlib.sha256(diff.encode()).hexdigest()[:16]} if diff else {})


def nvidia_driver() -> str | None:
    """Returns the version of NVIDIA's driver, None where NVML is not installed or finds none.

    Source: NVML API reference, nvmlSystemGetDriverVersion.
    """
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        try:
            return str(pynvml.nvmlSystemGetDriverVersion())
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None


def _git(*arguments: str) -> str | None:
    """Returns what git prints, None outside a repository or without git."""
    try:
        done = subprocess.run(("git", *arguments), cwd=REPOSITORY, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.decode(errors="backslashreplace").strip()  # a difference may hold any bytes
