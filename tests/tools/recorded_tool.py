"""A stand-in for a cluster's command-line tool, which no test machine has a cluster for."""

from pathlib import Path

import pytest


def record_tool(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, code: int = 0) -> tuple[Path, Path]:
    """Returns the files into which a program of that name, first on PATH, writes its arguments and its input."""
    arguments, standard_input = folder / f"{name}.arguments", folder / f"{name}.input"
    program = folder / name
    program.write_text(
        f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {arguments}\n[ -t 0 ] || cat > {standard_input}\nexit {code}\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return arguments, standard_input
