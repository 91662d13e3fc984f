"""Rows of what hardware that is not here would do at best, and their table: a type, a file and a title of their own.

An estimated row is no `benchmarks.results.Row`, so no table or plot of measured rows can take one.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks import markdown
from benchmarks.results import SCHEMA_VERSION
from benchmarks.stored import read_stored
from benchmarks.summary import MISSING, format_number
from recjax.errors import UserError

COMMAND = "benchmarks.run --estimate"
TITLE = "Estimated, not measured"
HEADER = (
    *("experiment", "variant", "hardware", "program", "samples", "memory, GiB"),
    *("step, us", "bound by", "samples/s at best", "$ a million"),
)
NOTES = (
    "No device ran any of this: programs were compiled for hardware that is not here, and a step is at the roofline of "
    "published figures, which no run beats (docs/planning.md).",
    "memory: of one device, of what a program may use there; step: of the slowest resource, all others hidden behind "
    "it; serve: the largest batch of serving.buckets; $: at the prices in recjax/hardware/prices.toml.",
)
GIB = 1 << 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class EstimatedRow:
    """One program of one model x transforms on hardware that is not here.

    Fields that `benchmarks.results.Row` has too mean the same; there is no latency, quality or measured rate.
    """

    schema_version: int = SCHEMA_VERSION
    estimated: bool = True
    run_id: str
    started_at: str  # ISO 8601, UTC, of the whole run
    suite: str
    case: str  # experiment name / variant
    model: str
    model_config: dict[str, Any]  # of the experiment, before its transforms
    dataset: str
    transforms: list[dict[str, Any]]
    variant: str
    support: str  # native, emulated or none on that platform
    plan: dict[str, Any]  # recjax.planning.PlanRow.to_json: what `recjax plan --json` writes
    environment: dict[str, Any]


def has_estimates(path: Path) -> bool:
    """Returns whether the rows of a file are estimated ones.

    Raises:
      UserError: some are and some are not.
    """
    flags = [_is_estimated(line) for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    if any(flags) and not all(flags):
        raise UserError(
            f"{path} has {flags.count(False)} measured and {flags.count(True)} estimated rows, which share no table; "
            "put them into two files"
        )
    return any(flags)


def _is_estimated(line: str) -> bool:
    try:
        values = json.loads(line)
    except json.JSONDecodeError:
        return False  # who reads the rows says what is wrong
    return isinstance(values, dict) and values.get("estimated") is True


def read_estimates(path: Path) -> list[EstimatedRow]:
    """Returns the estimated rows of a file; raises UserError, with the line, for one that is none."""
    return read_stored(path, EstimatedRow, COMMAND)


def table_line(row: EstimatedRow) -> tuple[str, ...]:
    """Returns the cells of a row, under HEADER."""
    plan = row.plan
    best: Mapping[str, Any] = plan["estimate"] or {}
    needed, step_s = plan["memory_bytes"], best.get("step_s")
    memory = MISSING if needed is None else f"{needed / GIB:.2f} of {plan['capacity_bytes'] / GIB:.2f}"
    if not plan["compiles"] or not plan["fits"]:
        memory = f"! {memory}"
    return (
        row.case.partition("/")[0],
        row.variant,
        plan["target"],
        plan["program"],
        MISSING if plan["samples"] is None else f"{plan['samples']:,}",
        memory,
        format_number(None if step_s is None else step_s * 1e6),
        best.get("bound_by") or MISSING,
        format_number(best.get("samples_per_s")),
        format_number(best.get("usd_per_million_samples")),
    )


def print_estimates(rows: Sequence[EstimatedRow], console: Console) -> None:
    """Prints the table under its title, what does not compile or fit, and how to read it."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for index, name in enumerate(HEADER):
        table.add_column(name, justify="right" if index > 3 else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, table_line(row)))
    console.print(Text(f"{TITLE}: suite {rows[0].suite}", style="bold"))
    console.print(table)
    for words in _unusable(rows):
        console.print(Text(f"! {words}", style="red"))
    for words in (*_reasons(rows), *NOTES):
        console.print(Text(words, style="dim"))


def render_estimates(rows: Sequence[EstimatedRow]) -> str:
    """Returns the whole of a `report.md` of estimated rows."""
    facts = [f"Started: {rows[0].started_at}", f"Compilers: {', '.join(_compilers(rows)) or 'none'}"]
    parts = [
        f"# {TITLE}: suite {markdown.escape(rows[0].suite)}",
        markdown.bullets(map(markdown.escape, facts)),
        markdown.table(HEADER, map(table_line, rows), 4),
        markdown.bullets(f"! {markdown.escape(words)}" for words in _unusable(rows)),
        markdown.bullets(map(markdown.escape, (*_reasons(rows), *NOTES))),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _unusable(rows: Sequence[EstimatedRow]) -> list[str]:
    """Returns what does not compile and why, and what compiles but does not fit."""
    found = []
    for row in rows:
        name = f"{row.case} on {row.plan['target']}, {row.plan['program']}"
        if not row.plan["compiles"]:
            found.append(f"{name}: does not compile: {row.plan['reason']}")
        elif not row.plan["fits"]:
            whole = row.plan["training_bytes"] or 0
            what = "a whole training" if whole > row.plan["capacity_bytes"] else "it"
            found.append(f"{name}: {what} does not fit into the memory of a device")
    return found


def _reasons(rows: Sequence[EstimatedRow]) -> list[str]:
    """Returns once each why a figure is missing."""
    reasons = [why for row in rows if row.plan["estimate"] for why in row.plan["estimate"]["reasons"].values()]
    return list(dict.fromkeys(reasons))


def _compilers(rows: Sequence[EstimatedRow]) -> list[str]:
    return list(dict.fromkeys(row.plan["compiler"] for row in rows if row.plan["compiler"]))
