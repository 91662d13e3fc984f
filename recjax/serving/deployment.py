"""A deployment file: everything that serving one model takes, and what was measured of it. Read, never executed.

It is TOML. Paths are relative to the file's folder. Sections:

  [deployment]   version of this form, name, config (the experiment's Python file), overrides, model (folder of the
                 final model)
  [[transforms]] the chain, one table a member, as `to_json` gives it; fields at their defaults are left out
  [serving]      buckets, max_batch, max_wait_ms, devices, model_devices, top_k
  [limits]       what it was chosen under
  [measured]     what it reached, on which device; what is not known is left out, and [measured.reasons] says why;
                 budget_s and took_s: seconds that the study might take, and took
  [environment]  versions and commit
"""

import dataclasses
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from recjax.config import Experiment, check, config, from_dict
from recjax.config_files import load_config
from recjax.errors import DeviceError, UserError, unknown_name
from recjax.serving.compiled import Columns, CompiledModel
from recjax.serving.on_devices import compile_on_devices
from recjax.training.final_model import load_final_model
from recjax.training.pipeline import load_data
from recjax.transforms.protocol import Chain
from recjax.transforms.serialised import from_json

VERSION = 1
SECTIONS = {  # with the keys that each must have
    "deployment": ("version", "name", "config", "model", "platform"),
    "serving": ("buckets", "max_batch"),
    "limits": ("p99_ms", "quality_floor", "queries"),
    "measured": (),
    "environment": (),
}


@config
class DeployedServing:
    """How requests are batched, and on how many devices they are answered."""

    buckets: tuple[int, ...]  # compiled batch sizes, ascending
    max_batch: int  # samples that are answered at once, the largest bucket
    max_wait_ms: float = 0.0  # for which a batch waits to be filled; 0 takes what waits as soon as a device is free
    devices: int = 1  # that answer together
    model_devices: int = 1  # of those, that share layers
    top_k: int = 10  # items returned by a ranking model

    def __post_init__(self) -> None:
        ascending = len(self.buckets) > 0 and list(self.buckets) == sorted(set(self.buckets))
        check(ascending and self.buckets[0] >= 1, "serving.buckets", self.buckets, "ascending positive sizes")
        check(self.max_batch == self.buckets[-1], "serving.max_batch", self.max_batch, f"{self.buckets[-1]}, the last")
        check(self.max_wait_ms >= 0, "serving.max_wait_ms", self.max_wait_ms, ">= 0")
        check(self.devices >= 1, "serving.devices", self.devices, ">= 1")
        divides = self.model_devices >= 1 and self.devices % self.model_devices == 0
        check(divides, "serving.model_devices", self.model_devices, f"a divisor of devices, {self.devices}")
        check(self.top_k >= 1, "serving.top_k", self.top_k, ">= 1")


@config
class DeployedLimits:
    """What the deployment was chosen under."""

    p99_ms: float  # from the scheduled arrival
    quality_floor: float  # share of fp32's validation quality
    queries: str  # in words: sizes and rows
    memory_bytes: int | None = None  # of the largest program on one device
    usd_per_million: float | None = None  # samples


@config
class Deployment:
    """What a deployment file says."""

    name: str
    config: str  # the experiment's file, as seen from `folder`
    model: str  # folder of the final model, as seen from `folder`
    overrides: tuple[str, ...] = ()  # of the experiment, as --set takes them
    transform: Chain
    serving: DeployedServing
    limits: DeployedLimits
    platform: str  # of the device that it was measured on: "cpu", "gpu" or "tpu"
    measured: dict[str, Any]
    environment: dict[str, Any]
    folder: Path  # of the file

    def experiment(self) -> Experiment:
        """Returns the experiment with the transforms; raises UserError as `load_config` does."""
        experiment = load_config(self.folder / self.config, self.overrides)
        return dataclasses.replace(experiment, transforms=self.transform.members)


def write_deployment(deployment: Deployment, file: Path) -> None:
    """Writes the file, whole or not at all."""
    measured = dict(deployment.measured)
    reasons = measured.pop("reasons", {})
    head = {
        "version": VERSION,
        "name": deployment.name,
        "config": deployment.config,
        "overrides": list(deployment.overrides),
        "model": deployment.model,
        "platform": deployment.platform,
    }
    lines = [
        "# Written by `recjax tune`; the form is that of recjax.serving.deployment.",
        *_section("deployment", head),
    ]
    for member in deployment.transform.members:
        lines += _section("transforms", _not_default(member), array=True)
    lines += _section("serving", dataclasses.asdict(deployment.serving))
    lines += _section("limits", dataclasses.asdict(deployment.limits))
    lines += _section("measured", measured)
    lines += _section("measured.reasons", reasons) if reasons else []
    lines += _section("environment", deployment.environment)
    fresh = file.with_name(file.name + ".new")
    fresh.write_text("\n".join(lines) + "\n", encoding="utf-8")
    fresh.rename(file)


def read_deployment(file: Path) -> Deployment:
    """Returns what the file says.

    Raises:
      UserError: no such file, no TOML, a section or a key that is missing or unknown, or a value that cannot be.
    """
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the deployment {file}: {error.strerror}; `recjax tune` writes one") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no TOML: {error}; `recjax tune` writes one") from error
    try:
        return _deployment(tables, file.parent)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def _deployment(tables: Mapping[str, Any], folder: Path) -> Deployment:
    if unknown := sorted(set(tables) - {*SECTIONS, "transforms"}):
        raise unknown_name("section", unknown[0], [*SECTIONS, "transforms"])
    for name, keys in SECTIONS.items():
        section = tables.get(name)
        check(isinstance(section, dict), f"section [{name}]", section, "a table")
        missing = [key for key in keys if key not in tables[name]]
        check(not missing, f"[{name}]", f"without {', '.join(missing)}", f"a table with {', '.join(keys)}")
    head = dict(tables["deployment"])
    check(head.pop("version") == VERSION, "deployment.version", tables["deployment"]["version"], str(VERSION))
    for key, value in head.items():
        head[key] = tuple(value) if isinstance(value, list) else value
        if key not in (*SECTIONS["deployment"], "overrides"):
            raise unknown_name("key of [deployment]", key, (*SECTIONS["deployment"], "overrides"))
    return Deployment(
        **head,
        transform=from_json(tables.get("transforms", [])),
        serving=from_dict(DeployedServing, tables["serving"]),
        limits=from_dict(DeployedLimits, tables["limits"]),
        measured=tables["measured"],
        environment=tables["environment"],
        folder=folder,
    )


def load_deployed(deployment: Deployment) -> tuple[CompiledModel, Columns]:
    """Returns the compiled model, and the columns of its data's requests, one row a sample.

    Raises:
      UserError: the config or its data cannot be used, or the model does not fit into memory.
      CheckpointError: the model is missing, corrupt, or of another experiment.
      DeviceError: another platform than the deployment was measured on, or too few devices.
    """
    found, serving = jax.local_devices(), deployment.serving
    (default,) = jax.numpy.zeros(()).devices()
    if default.platform != deployment.platform:
        raise DeviceError(
            f"the deployment {deployment.name} was tuned on a {deployment.platform}, and this is a {default.platform}; "
            "run it there, or tune here"
        )
    if serving.devices > len(found):
        raise DeviceError(f"the deployment {deployment.name} needs {serving.devices} devices; here are {len(found)}")
    experiment = deployment.experiment()
    data = load_data(experiment)
    model = load_final_model(deployment.folder / deployment.model, experiment, data)
    columns, on_devices = data.serving_samples(), (serving.devices, serving.model_devices)
    return compile_on_devices(model, columns, serving.buckets, serving.top_k, *on_devices), columns


def path_from(folder: Path, path: Path) -> str:
    """Returns the path as it is seen from the folder, with slashes."""
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _section(name: str, values: Mapping[str, Any], *, array: bool = False) -> list[str]:
    """Returns the lines of a table; None is left out, as TOML has none."""
    header = f"[[{name}]]" if array else f"[{name}]"
    return ["", header, *(f"{key} = {_toml(value)}" for key, value in values.items() if value is not None)]


def _toml(value: Any) -> str:
    """Returns a value as TOML; JSON's strings, numbers and switches are TOML's too."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Mapping):
        inner = (f"{json.dumps(key)} = {_toml(one)}" for key, one in value.items() if one is not None)
        return f"{{ {', '.join(inner)} }}"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _not_default(member: Any) -> dict[str, Any]:
    """Returns a transform's name and the fields that differ from their defaults."""
    at_default = {field.name for field in dataclasses.fields(member) if getattr(member, field.name) == field.default}
    return {key: value for key, value in member.to_json().items() if key not in at_default}
