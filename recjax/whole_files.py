"""Files that are whole or not there: what a run that is killed leaves can be read by the one that goes on."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file beside its place, and moves it there once it is on disk.

    Args:
      path: of the file; what is there is replaced.
      write: is given the open file.
    """
    beside = path.with_name(f"{path.name}.new")
    try:
        with beside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    """Writes one JSON value, whole; ValueError on NaN and infinity, which JSON has not."""
    text = json.dumps(value, allow_nan=False, indent=indent)
    write_whole(path, lambda file: file.write(text.encode()))


def drop_half_line(path: Path) -> None:
    """Cuts what follows the last end of a line: a process was killed while it appended."""
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(path, end)
