"""Stored runs in the order of their start, and which of their rows can be compared."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.comparable import MIN_PROCESSES, why_not_comparable
from benchmarks.report_runs import device_label
from benchmarks.results import READ_VERSIONS, Row, read_rows
from recjax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredRun:
    """A run that a file holds.

    Attributes:
      name: the file's folder, below the one that was searched; with the file's name where that says more.
      rows: at least one.
    """

    name: str
    rows: Sequence[Row]

    @property
    def started_at(self) -> str:
        """Returns the start of its first row, ISO 8601."""
        return min(row.started_at for row in self.rows)

    @property
    def commit(self) -> str:
        """Returns the first digits of its commit, with "+" where files were changed."""
        git = self.rows[0].environment.get("git") or {}
        return f"{(git.get('commit') or 'unknown')[:9]}{'+' if git.get('modified') else ''}"

    @property
    def device(self) -> str:
        """Returns its device in words."""
        return device_label(self.rows[0])

    @property
    def software(self) -> str:
        """Returns the versions that matter most, in words."""
        versions = self.rows[0].environment.get("versions") or {}
        return ", ".join(f"{name} {versions[name]}" for name in ("python", "jax", "recjax") if name in versions)


def read_history(folders: Iterable[Path]) -> tuple[list[StoredRun], int]:
    """Returns all runs below the folders by their start, and how many .jsonl files hold rows of another kind.

    A run whose rows stand in two files is read once. Estimated rows are another kind.

    Raises:
      UserError: no such folder, no run in any, or a defective row; with file and line.
    """
    found: dict[str, StoredRun] = {}
    others = 0
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}; give one that holds results, such as benchmarks/results")
        for path in sorted(folder.rglob("*.jsonl")):
            if not _holds_rows(path):
                others += 1
                continue
            rows = read_rows(path)
            name = path.parent.relative_to(folder).as_posix()
            name = folder.name if name == "." else name
            found.setdefault(
                rows[0].run_id,
                StoredRun(name=name if path.stem == "results" else f"{name}/{path.stem}", rows=rows),
            )
    if not found:
        raise UserError(f"no results.jsonl in {', '.join(map(str, folders))}; run python -m benchmarks.run first")
    return sorted(found.values(), key=lambda run: run.started_at), others


def comparable_groups(rows: Sequence[Row]) -> list[list[int]]:
    """Returns the places of rows that can be compared with one another, each in one group, in order.

    A row joins the first group whose last row it can be compared with: the same model, settings, data, load,
    processor and number of threads. Whether rows are valid, were measured in few processes, or found another rate
    does not part them: the page shows all of that.
    """
    groups: list[list[int]] = []
    for index, row in enumerate(rows):
        group = next((group for group in groups if _same_question(rows[group[-1]], row)), None)
        if group is None:
            groups.append([index])
        else:
            group.append(index)
    return groups


def _same_question(a: Row, b: Row) -> bool:
    alike = [
        dataclasses.replace(row, valid=True, processes=max(row.processes or 0, MIN_PROCESSES), target_qps=None)
        for row in (a, b)
    ]
    return why_not_comparable(*alike) is None


def _holds_rows(path: Path) -> bool:
    """Returns whether the first line of a file is a measured row of `benchmarks.run`."""
    with path.open(encoding="utf-8", errors="replace") as file:
        try:
            first = json.loads(file.readline() or "null")
        except json.JSONDecodeError:
            return False
    if not isinstance(first, dict) or first.get("estimated"):
        return False
    return first.get("schema_version") in READ_VERSIONS and {"run_id", "scenario", "latency_ms"} <= first.keys()
