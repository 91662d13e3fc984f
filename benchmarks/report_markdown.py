"""The report as Markdown."""

from collections.abc import Iterable, Sequence

from benchmarks.report_contents import (
    HOW_TO_READ,
    full_table,
    heading_facts,
    missing_figures,
    protocols,
    quality_table,
    recommendation,
)
from benchmarks.results import Row
from benchmarks.summary import (
    group_experiments,
    invalid_rows,
    metric_name,
    server_limits,
    summary_columns,
    summary_lines,
)


def render_markdown(rows: Sequence[Row]) -> str:
    """Returns the whole of `report.md`."""
    facts = heading_facts(rows)
    limits = [f"{', '.join(names)}: p99 within {limit:g} ms" for limit, names in server_limits(rows).items()]
    parts = [
        f"# recjax benchmark: suite {_text(facts['Suite'])}",
        _bullets(f"{name}: {_text(value)}" for name, value in facts.items()),
        "## Summary",
        _summary(rows),
        _bullets(f"! {_text(name)}: {_text(reason)}" for name, reason in invalid_rows(rows)),
        f"Server limits: {_text('; '.join(limits))}." if limits else "",
        *(_quality(rows)),
        "## All rows",
        _table(*full_table(rows)),
        "## What could not be measured",
        _table(["reason", "fields", "rows"], [[r, f, f"{n} of {len(rows)}"] for r, f, n in missing_figures(rows)], 2),
        "## How to read this",
        _bullets(f"**{title}.** {_text(text)}" for title, text in HOW_TO_READ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(rows: Sequence[Row]) -> str:
    columns = summary_columns(rows)
    header = ["model", *(" ".join(header).strip() for header in columns)]
    metrics = {name: metric_name(v[0].first("quality_metric")) for name, v in group_experiments(rows).items()}
    lines = []
    for line in summary_lines(rows):
        quality = f"{metrics[line.experiment]} {line.cells[0]}" if line.experiment in metrics else ""
        lines.append([line.experiment, line.label, quality, *line.cells[1:]])
    return _table(header, lines, n_left=2)


def _quality(rows: Sequence[Row]) -> Iterable[str]:
    yield "## Quality"
    for name, variants in group_experiments(rows).items():
        yield f"### {_text(name)}"
        yield f"Protocol: {_text(protocols(rows)[name])}"
        yield _table(*quality_table(variants))
        yield _text(recommendation(variants) or "")


def _table(header: Sequence[str], lines: Iterable[Sequence[str]], n_left: int = 1) -> str:
    aligned = ["---" if index < n_left else "---:" for index in range(len(header))]
    cells = [header, aligned, *([_text(cell) for cell in line] for line in lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _text(value: str) -> str:
    """Returns the value with what Markdown or HTML would take for markup escaped, on one line."""
    for character in "\\`*_[]~|#":
        value = value.replace(character, "\\" + character)
    return " ".join(value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())
