"""The report as Markdown."""

from collections.abc import Iterable, Sequence

from benchmarks.markdown import bullets, escape, table
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
        f"# recjax benchmark: suite {escape(facts['Suite'])}",
        bullets(f"{name}: {escape(value)}" for name, value in facts.items()),
        "## Summary",
        _summary(rows),
        bullets(f"! {escape(name)}: {escape(reason)}" for name, reason in invalid_rows(rows)),
        f"Server limits: {escape('; '.join(limits))}." if limits else "",
        *(_quality(rows)),
        "## All rows",
        table(*full_table(rows)),
        "## What could not be measured",
        table(["reason", "fields", "rows"], [[r, f, f"{n} of {len(rows)}"] for r, f, n in missing_figures(rows)], 2),
        "## How to read this",
        bullets(f"**{title}.** {escape(text)}" for title, text in HOW_TO_READ),
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
    return table(header, lines, n_left=2)


def _quality(rows: Sequence[Row]) -> Iterable[str]:
    yield "## Quality"
    for name, variants in group_experiments(rows).items():
        yield f"### {escape(name)}"
        yield f"Protocol: {escape(protocols(rows)[name])}"
        yield table(*quality_table(variants))
        yield escape(recommendation(variants) or "")
