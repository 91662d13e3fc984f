"""The report as Markdown."""

from collections.abc import Iterable, Sequence

from benchmarks.markdown import bullets, escape, table
from benchmarks.report_contents import (
    PADDING_NOTE,
    PADDING_TITLE,
    TIME_SPLITS,
    full_rows,
    full_table,
    heading_facts,
    how_to_read,
    missing_figures,
    padding_table,
    protocols,
    quality_table,
    recommendation,
)
from benchmarks.report_device_plots import device_table
from benchmarks.report_runs import ReportRun
from benchmarks.results import Row
from benchmarks.summary import (
    disturbance_in_words,
    floor_in_words,
    format_number,
    group_experiments,
    invalid_rows,
    loadgen_in_words,
    metric_name,
    server_limits,
    steadiness_in_words,
    summary_columns,
    summary_lines,
)
from recjax.load.window import PARTS


def render_markdown(runs: Sequence[ReportRun]) -> str:
    """Returns the whole of `report.md`: one run's page, or a comparison of the devices and the pages below it."""
    pages = [_page(run.rows) for run in runs]
    if len(runs) == 1:
        return pages[0]
    header, lines, _ = device_table(runs)
    comparison = ["# recjax benchmark: devices compared", table(header, lines, 2), "In brackets: over the first."]
    return "\n\n".join(comparison) + "\n\n" + "\n".join(pages)


def _page(rows: Sequence[Row]) -> str:
    facts = heading_facts(rows)
    limits = [f"{', '.join(names)}: p99 within {limit:g} ms" for limit, names in server_limits(rows).items()]
    asides = (*floor_in_words(rows), loadgen_in_words(rows), steadiness_in_words(rows), disturbance_in_words(rows))
    parts = [
        f"# recjax benchmark: suite {escape(facts['Suite'])}",
        bullets(f"{name}: {escape(value)}" for name, value in facts.items()),
        "## Summary",
        _summary(rows),
        bullets(f"! {escape(name)}: {escape(reason)}" for name, reason in invalid_rows(rows)),
        f"Server limits: {escape('; '.join(limits))}." if limits else "",
        bullets(escape(words) for words in asides if words),
        *(_quality(rows)),
        "## All rows",
        table(*full_table(rows)),
        *_time_split(rows, "time_split_ms"),
        *_time_split(rows, "tail_split_ms"),
        *_padding(rows),
        "## What could not be measured",
        table(["reason", "fields", "rows"], [[r, f, f"{n} of {len(rows)}"] for r, f, n in missing_figures(rows)], 2),
        "## How to read this",
        bullets(f"**{title}.** {escape(text)}" for title, text in how_to_read(rows)),
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


def _time_split(rows: Sequence[Row], field: str) -> Iterable[str]:
    """Yields the mean of each part of a latency, of all queries or of the slowest; nothing for rows that lack it."""
    split = [(row, getattr(row, field)) for row in full_rows(rows) if getattr(row, field)]
    if not split:
        return
    parts = [name for name in PARTS if any(name in of_row for _, of_row in split)]
    header = ["case", "scenario", "batch", *(f"{name.replace('_', ' ')} ms" for name in parts), "mean ms"]
    lines = [
        [row.case, row.scenario, str(row.batch_size)]
        + [format_number(of_row.get(name)) for name in parts]
        + [format_number(sum(of_row.values()))]
        for row, of_row in split
    ]
    title, caption = TIME_SPLITS[field]
    yield f"## {title}"
    yield caption
    yield table(header, lines, 2)


def _padding(rows: Sequence[Row]) -> Iterable[str]:
    header, lines = padding_table(rows)
    if lines:
        yield f"## {PADDING_TITLE}"
        yield PADDING_NOTE
        yield table(header, lines, 2)


def _quality(rows: Sequence[Row]) -> Iterable[str]:
    yield "## Quality"
    for name, variants in group_experiments(rows).items():
        yield f"### {escape(name)}"
        yield f"Protocol: {escape(protocols(rows)[name])}"
        yield table(*quality_table(variants))
        yield escape(recommendation(variants) or "")
