"""The table of predicted and measured, on the terminal and between two comments of a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks import markdown
from recjax.errors import UserError

if TYPE_CHECKING:
    from benchmarks.plan_check_timing import PlanCheckRow

BEGIN, END = "<!-- plan_check: begin -->", "<!-- plan_check: end -->"
HEADER = (
    *("experiment", "program", "samples", "bound by", "predicted ms", "measured ms", "range, ms"),
    *("ratio", "predicted MB", "measured MB"),
)
NOTHING = "–"
WIDTH = 120


def print_rows(rows: Sequence["PlanCheckRow"]) -> None:
    """Prints the table and why figures are missing."""
    console = Console(highlight=False, width=max(WIDTH, Console().width))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, name in enumerate(HEADER):
        table.add_column(name, justify="right" if index > 1 else "left", no_wrap=index in (0, 6))
    for row in rows:
        table.add_row(*map(Text, table_line(row)))
    console.print(table)
    for note in _notes(rows):
        console.print(Text(note))


def table_line(row: "PlanCheckRow") -> tuple[str, ...]:
    """Returns the cells of a row, under HEADER."""
    return (
        row.experiment,
        row.program,
        f"{row.samples:,}",
        row.bound_by or NOTHING,
        NOTHING if row.predicted_ms is None else f"{row.predicted_ms:.3g}",
        f"{row.median_ms:.3g}",
        f"{min(row.latency_ms):.3g} to {max(row.latency_ms):.3g}",
        NOTHING if row.over_predicted is None else f"{row.over_predicted:.2f}",
        f"{row.predicted_memory_bytes / 1e6:,.1f}",
        NOTHING if row.measured_memory_bytes is None else f"{row.measured_memory_bytes / 1e6:,.1f}",
    )


def render(rows: Sequence["PlanCheckRow"]) -> str:
    """Returns the part of the page between the comments, with its table, its device and its notes."""
    facts = [*markdown.environment_facts(rows[0].environment), *map(markdown.escape, _notes(rows))]
    changed = {row.experiment: row.overrides for row in rows if row.overrides}
    facts += [f"{markdown.escape(name)}: `{' '.join(values)}`" for name, values in changed.items()]
    return "\n\n".join([markdown.table(HEADER, map(table_line, rows), 2), markdown.bullets(facts)])


def check_page(page: Path) -> None:
    """Raises UserError unless the page is there and has the two comments, each once and in order."""
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--page is {page}, which cannot be read: {error.strerror}") from error
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(f"{page} has no place for the table; put {BEGIN} and {END} there, a line each")


def write_page(page: Path, rows: Sequence["PlanCheckRow"]) -> None:
    """Replaces what stands between the two comments of a page that `check_page` let pass."""
    text = page.read_text(encoding="utf-8")
    head, tail = text.partition(BEGIN)[0], text.partition(END)[2]
    page.write_text(f"{head}{BEGIN}\n\n{render(rows)}\n\n{END}{tail}", encoding="utf-8")
    print(f"wrote the table of {page}")


def _notes(rows: Sequence["PlanCheckRow"]) -> list[str]:
    """Returns the ceilings, how often what ran beside what else, and each reason once."""
    ceilings, load = rows[0].ceilings, rows[0].environment["load"]
    rates = ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in ceilings["flops_per_s"].items())
    notes = [
        f"Ceilings measured in this run: {rates}; memory {ceilings['bytes_per_s'] / 1e9:.1f} GB/s",
        f"Measured: median of {len(rows[0].latency_ms)} runs, all programs in turn, another random order every round",
        "Ratio: measured / predicted; 1.00 would be a program at the roofline",
        f"Load of the machine before the run: {load['load_1_min']} on {load['processors']} processors",
    ]
    reasons = [(name, why) for row in rows for name, why in row.reasons.items()]
    return notes + [f"No {name}: {why}" for name, why in dict.fromkeys(reasons)]
