"""The two ways into an experiment: a config file, and overrides of its values as text.

A config file is Python and defines `get_config() -> Experiment`. It is executed: run only your own.
"""

import dataclasses
import re
import runpy
import sys
import traceback
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_origin

import pydantic

from recjax.config import Experiment, type_adapter, type_name
from recjax.errors import UserError, unknown_name

T = TypeVar("T")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Returns the experiment that the file's `get_config()` makes, with `a.b=value` overrides applied.

    Raises:
      UserError: no such file, no `get_config`, another return type, or an error inside the file.
    """
    experiment = run_config_file(path, "get_config")
    if not isinstance(experiment, Experiment):
        raise UserError(
            f"{path}: get_config() returned {type(experiment).__name__}; it must return recjax.config.Experiment"
        )
    return override(experiment, overrides)


def run_config_file(path: str | Path, name: str) -> Any:
    """Returns what the Python file at `path` defines as `name`, called if it is a function.

    It may import modules of the working folder, as other configs, whatever program reads it.

    Raises:
      UserError: no such file, no such name, or any error inside the file (with its line).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no config file {str(path)!r}; give the path of a Python file that defines {name}")
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)
    try:
        namespace = runpy.run_path(str(path))
        if name not in namespace:
            raise UserError(f"it does not define {name}")
        value = namespace[name]
        return value() if callable(value) else value
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
        line = f":{frames[-1].lineno}" if frames else ""
        if isinstance(error, SyntaxError) and error.lineno:
            line = f":{error.lineno}"
        error = _unknown_import(error) or error
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        message = " ".join(str(error).split())
        raise UserError(f"{path}{line}: {kind}{message}") from error


def _unknown_import(error: Exception) -> UserError | None:
    """Returns the error with the valid names if a recjax module was asked for a name that it has not."""
    if isinstance(error, ImportError) and (found := re.search(r"cannot import name '(\w+)'", str(error))):
        module, name = sys.modules.get(error.name or ""), found[1]
    elif isinstance(error, AttributeError) and isinstance(error.obj, types.ModuleType):
        module, name = error.obj, error.name
    else:
        return None
    if module is None or name is None or not module.__name__.startswith("recjax"):
        return None
    own = (key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__)
    kind = "transform" if module.__name__.startswith("recjax.transforms") else f"name in {module.__name__}"
    return unknown_name(kind, name, getattr(module, "__all__", None) or (key for key in own if key[0] != "_"))


def override(config: T, overrides: Sequence[str]) -> T:
    """Returns `config` with each `dotted.name=value` set, the value parsed by the field's type.

    All are set at once: in what order they come matters only where a name comes twice; its last value is taken.

    Args:
      config: an experiment, or another dataclass of plain values and of such dataclasses.
      overrides: of its values.

    Raises:
      UserError: not of that form, an unknown name (with the nearest match), or a value of another type.
    """
    values: dict[str, str] = {}
    for text in overrides:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise UserError(f"override {text!r} is not of the form name=value, as in model.embedding_dim=32")
        values[name] = value
    return _set(config, "", values) if values else config


def has_key(config: Any, text: str) -> bool:
    """Returns whether the config has the key of an override `dotted.name=value`."""
    node = config
    for name in text.partition("=")[0].split("."):
        if not dataclasses.is_dataclass(node) or name not in (field.name for field in dataclasses.fields(node)):
            return False
        node = getattr(node, name)
    return True


def _set(node: Any, prefix: str, values: Mapping[str, str]) -> Any:
    """Returns the node with the values, by full name, whose names begin with the prefix."""
    fields = {field.name: field for field in dataclasses.fields(node)}
    changed: dict[str, Any] = {}
    for full_name, text in values.items():
        name, _, below = full_name.removeprefix(prefix).partition(".")
        if name not in fields:
            raise unknown_name(f"config key in {full_name!r}:", name, fields)
        current = getattr(node, name)
        is_group = dataclasses.is_dataclass(current)
        if below and not is_group:
            raise UserError(f"{full_name!r}: {name!r} is {current!r} and has no keys of its own; set it whole")
        if is_group and not below:
            inner = ", ".join(field.name for field in dataclasses.fields(current))
            raise UserError(f"{full_name!r} is a group; set one of its keys: {inner}")
        if not is_group:
            changed[name] = _parse(text, fields[name].type, full_name)
        elif name not in changed:
            path = f"{prefix}{name}."
            changed[name] = _set(current, path, {key: v for key, v in values.items() if key.startswith(path)})
    return dataclasses.replace(node, **changed)


def _parse(text: str, field_type: Any, name: str) -> Any:
    if "Any" in str(field_type):
        raise UserError(f"{name} cannot be set from text; set it in a config file")
    adapter = type_adapter(field_type)
    try:
        if str(field_type).startswith("tuple"):
            return adapter.validate_python([part.strip() for part in text.strip("()").split(",") if part.strip()])
        return adapter.validate_strings(text)
    except pydantic.ValidationError as error:
        reason = error.errors()[0]["msg"]
        of_type = "" if get_origin(field_type) is Literal else f"; the field is {type_name(field_type)}"
        raise UserError(f"{name}={text!r}: {reason[0].lower()}{reason[1:]}{of_type}") from error
