"""The software that a figure depends on: versions, flags, precision, processor, system and git state."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

from recjax.processor import cpu_model

PACKAGES = ("jax", "jaxlib", "flax", "optax", "aqtp", "qwix", "numpy", "recjax")
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
    """Returns the commit, and whether files differ from it; None outside a repository."""
    status = _git("status", "--porcelain")
    return {"commit": _git("rev-parse", "HEAD"), "modified": None if status is None else bool(status)}


def _git(*arguments: str) -> str | None:
    """Returns what git prints, None outside a repository or without git."""
    try:
        done = subprocess.run(("git", *arguments), cwd=REPOSITORY, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
