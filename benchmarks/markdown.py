"""Markdown from plain values."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class Markup(str):
    """Text that is Markdown already: a table does not escape it."""


def table(header: Sequence[str], lines: Iterable[Sequence[str]], n_left: int = 1) -> str:
    """Returns a table whose first `n_left` columns are left-aligned and the others right-aligned."""
    aligned = ["---" if index < n_left else "---:" for index in range(len(header))]
    cells = [header, aligned, *([_cell(cell) for cell in line] for line in lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _cell(value: str) -> str:
    return value if isinstance(value, Markup) else escape(value)


def bullets(items: Iterable[str]) -> str:
    """Returns a list of items, which may hold markup."""
    return "\n".join(f"- {item}" for item in items)


def environment_facts(environment: Mapping[str, Any]) -> list[str]:
    """Returns the device, the versions and the commit of rows, an item each."""
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    changes = " and changes" if environment["git"]["modified"] else ""
    return [
        f"Device: {escape(environment['device'])}",
        f"Versions: {escape(versions)}",
        f"Commit: {environment['git']['commit'] or 'unknown'}{changes}",
    ]


def escape(value: str) -> str:
    """Returns the value with what Markdown or HTML would take for markup escaped, on one line."""
    for character in "\\`*_[]~|#":
        value = value.replace(character, "\\" + character)
    return " ".join(value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())
