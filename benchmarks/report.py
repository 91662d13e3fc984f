"""A run's rows as a terminal table, `report.md`, `results.csv` and `report.html`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from benchmarks.report_contents import heading_facts
from benchmarks.report_csv import write_csv
from benchmarks.report_html import render_html
from benchmarks.report_markdown import render_markdown
from benchmarks.report_runs import ReportRun, label_runs
from benchmarks.results import Row
from benchmarks.summary import (
    EMULATED_MARK,
    INVALID_MARK,
    Line,
    disturbance_in_words,
    floor_in_words,
    group_experiments,
    invalid_rows,
    loadgen_in_words,
    metric_name,
    null_variants,
    server_limits,
    steadiness_in_words,
    summary_columns,
    summary_lines,
)

TABLE_WIDTH = 120  # characters that the widest table needs
STYLES = {"variant": "", "reference": "dim", "null": "dim"}


def wide_console() -> Console:
    """Returns standard output, wide enough for the tables: a narrow terminal wraps lines, but no column is cut."""
    return Console(highlight=False, width=max(TABLE_WIDTH, Console().width))


def write_report(rows: Sequence[Row], folder: Path, samples: Mapping[str, NDArray]) -> Path:
    """Writes `report.md`, `results.csv` and `report.html` and returns the last one's path.

    Args:
      rows: of one run; at least one.
      folder: where to write, made if needed.
      samples: raw latency in ms by `samples_key(row)`; a row without an entry is drawn from its percentiles.

    Raises:
      ValueError: no rows.
    """
    if not rows:
        raise ValueError("a report needs at least one row; results.jsonl is empty")
    return write_joint_report(label_runs([(folder.name, rows, samples)]), folder)


def write_joint_report(runs: Sequence[ReportRun], folder: Path) -> Path:
    """Writes the same of several runs side by side, such as those of several devices; the folder is made if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(render_markdown(runs), encoding="utf-8")
    write_csv([row for run in runs for row in run.rows], folder / "results.csv")
    page = folder / "report.html"
    page.write_text(render_html(runs), encoding="utf-8")
    return page


def print_table(rows: Sequence[Row], console: Console) -> None:
    """Prints one line a variant under its experiment's name, then the reasons of invalid rows and the marks used."""
    columns = summary_columns(rows)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for index, header in enumerate(columns):
        table.add_column(Text("\n".join(header)), justify="right" if index else "left", no_wrap=index > 0)
    lines = summary_lines(rows)
    for experiment, variants in group_experiments(rows).items():
        metric = metric_name(variants[0].first("quality_metric"))
        table.add_row(Text(experiment, style="bold"), Text(metric, style="bold"))
        for line in lines:
            if line.experiment == experiment and line.kind != "null":
                _add_line(table, line)
        table.add_section()
    for line in lines:
        if line.kind == "null":
            _add_line(table, line)
    device = heading_facts(rows)["Device"]
    console.print(Text(f"suite {rows[0].suite} on {device}", style="bold"))
    console.print(table)
    for note in _notes(rows):
        console.print(note)


def _add_line(table: Table, line: Line) -> None:
    label = Padding(Text(line.label, overflow="fold"), (0, 0, 0, 0 if line.kind == "null" else 2))
    cells = [Text(cell, style="red" if cell.startswith(INVALID_MARK) else "") for cell in line.cells]
    table.add_row(label, *cells, style=STYLES[line.kind])


def _notes(rows: Sequence[Row]) -> list[Text]:
    notes = [Text(f"{INVALID_MARK} {name}: {reason}", style="red") for name, reason in invalid_rows(rows)]
    limits = server_limits(rows)
    if len(limits) > 1:
        text = "; ".join(f"{', '.join(names)} {limit:g} ms" for limit, names in limits.items())
        notes.append(Text(f"server limits of p99: {text}", style="dim"))
    variants = [variant for members in group_experiments(rows).values() for variant in members]
    if any(variant.is_emulated for variant in variants):
        words = "emulated: computed without its gain here (masked zeros multiplied, narrow types widened)"
        notes.append(Text(f"{EMULATED_MARK} {words}", style="dim"))
    words = (
        "kept: share of fp32's quality, ± half its 95% interval; x: samples/s over fp32's, each at its best batch size"
    )
    if null_variants(rows):
        words += "; null: the harness's floor, a model that does no work"
    notes.append(Text(words, style="dim"))
    notes += [Text(words, style="dim") for words in floor_in_words(rows)]
    asides = (loadgen_in_words(rows), steadiness_in_words(rows), disturbance_in_words(rows))
    notes += [Text(words, style="dim") for words in asides if words]
    return notes
