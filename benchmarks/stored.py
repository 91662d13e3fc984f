"""Rows of one kind, stored one JSON object a line, read with every defect told by its line."""

import dataclasses
import json
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from recjax.errors import UserError

Row = TypeVar("Row")


def read_stored(file: Path, kind: type[Row], command: str) -> list[Row]:
    """Returns the rows of the file in order.

    Args:
      file: what the command wrote.
      kind: dataclass of a row.
      command: which wrote it, for the error.

    Raises:
      UserError: a line is not a row of that kind; with file and line.
    """
    adapter = pydantic.TypeAdapter(kind)
    fields = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            rows.append(adapter.validate_python(_checked(line, fields)))
        except ValueError as error:  # pydantic's and json's are ValueErrors
            raise UserError(f"{file}:{number}: not a row of {command}: {_reason(error)}; remove that line") from error
    return rows


def append_stored(file: Path, row: Any) -> None:
    """Writes the row, a dataclass of plain values, as one more line."""
    with file.open("a", encoding="utf-8") as output:
        output.write(json.dumps(dataclasses.asdict(row), allow_nan=False) + "\n")


def _checked(line: str, fields: set[str]) -> dict[str, Any]:
    values = json.loads(line)
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    if wrong := sorted(set(values) ^ fields):
        raise ValueError(f"missing or unknown fields: {', '.join(wrong)}")
    return values


def _reason(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON ({error.msg})"
    if isinstance(error, pydantic.ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))} is {first['input']!r}: {first['msg']}"
    return str(error)
