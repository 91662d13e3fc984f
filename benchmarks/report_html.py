"""The report as one HTML page that opens without a network."""

import json
from collections.abc import Mapping, Sequence

from benchmarks import report_cost_plots as costs
from benchmarks import report_plots as plots
from benchmarks.plot_style import Style, variant_styles
from benchmarks.report_contents import (
    PADDING_NOTE,
    PADDING_TITLE,
    environment_facts,
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
from benchmarks.report_device_plots import device_plot, device_table, experiments_of
from benchmarks.report_figure import Plot, Shown
from benchmarks.report_page import (
    FILTER_BAR,
    cell,
    heading,
    keys,
    plot_cards,
    render_page,
    scrolled,
    sortable,
    swatch,
    table,
    text,
)
from benchmarks.report_runs import ReportRun, row_facts, row_key
from benchmarks.summary import (
    EMULATED_MARK,
    INVALID_MARK,
    Variant,
    disturbance_in_words,
    floor_in_words,
    group_experiments,
    group_variants,
    loadgen_in_words,
    metric_name,
    row_name,
    server_limits,
    steadiness_in_words,
    summary_columns,
    summary_lines,
)

MOST_WARNINGS = 12  # lines of invalid rows before they are folded
MODEL_PLOTS = (
    plots.quality_against_p99,
    plots.quality_against_rate,
    plots.latency_against_rate,
    plots.latency_distribution,
    plots.throughput_against_batch,
    costs.time_split,
    costs.tail_split,
    costs.roofline,
    costs.stored_bytes,
    costs.program_bytes,
    costs.padding_waste,
)


def render_html(runs: Sequence[ReportRun]) -> str:
    """Returns the whole of `report.html` for one run, or for several side by side."""
    names = [v.name for run in runs for variants in group_experiments(run.rows).values() for v in variants]
    styles = variant_styles(names)
    rows = {row_key(number, row): row_facts(row, run.label) for number, run in enumerate(runs) for row in run.rows}
    facts = heading_facts(runs[0].rows)
    body = [heading("recjax benchmark", facts if len(runs) == 1 else _joint_facts(runs)), FILTER_BAR]
    for number, run in enumerate(runs):
        body.append(f"<section{keys([row_key(number, row) for row in run.rows])}>")
        body.append(f"<h2>{text(run.label)}</h2>" if len(runs) > 1 else "")
        body.append(_summary(number, run, styles) + "</section>")
    drawn: dict[str, Plot] = {}
    if len(runs) > 1:
        body.append(_devices(runs, drawn))
    for number, run in enumerate(runs):
        of_run = f" on {run.label}" if len(runs) > 1 else ""
        body += [
            _model_section(
                f"plot-{number}-{index}", f"{name}{of_run}", run, _shown(number, run, variants, styles), drawn
            )
            for index, (name, variants) in enumerate(group_experiments(run.rows).items())
        ]
    body += [_all_rows(runs), *map(_padding, runs), *map(_missing, runs), _how_to_read(runs[0])]
    body += map(_environment, runs)
    return render_page(f"recjax: {facts['Suite']} on {runs[0].label}", rows, styles, drawn, "".join(body))


def _shown(number: int, run: ReportRun, variants: Sequence[Variant], styles: Mapping[str, Style]) -> Shown:
    return Shown(run=number, variants=variants, styles=styles, samples=run.samples)


def _joint_facts(runs: Sequence[ReportRun]) -> dict[str, str]:
    facts = {run.label: f"{f['Suite']}, {f['Started']}" for run in runs for f in [heading_facts(run.rows)]}
    return facts | {"Rows": str(sum(len(run.rows) for run in runs))}


def _summary(number: int, run: ReportRun, styles: Mapping[str, Style]) -> str:
    rows, columns = run.rows, summary_columns(run.rows)
    header = "".join(sortable("<br>".join(text(words) for words in column if words)) for column in columns)
    metrics = {name: metric_name(v[0].first("quality_metric")) for name, v in group_experiments(rows).items()}
    of_variant = {(v.experiment, v.name): [row_key(number, row) for row in v.rows] for v in group_variants(rows)}
    bodies: dict[str, list[str]] = {}
    for line in summary_lines(rows):
        name = line.label.removesuffix(f" {EMULATED_MARK}")
        mark = swatch(styles[name]) if line.kind == "variant" else ""
        cells = "".join(f"<td>{cell(part)}</td>" for part in line.cells)
        behind = keys(of_variant[line.experiment, name]) if line.kind == "variant" else ""
        bodies.setdefault(line.experiment, []).append(
            f'<tr class="{line.kind}"{behind}><td>{mark}{text(line.label)}</td>{cells}</tr>'
        )
    body = ""
    for experiment, members in bodies.items():
        title = ""
        if experiment in metrics:
            blank = "<td></td>" * (len(columns) - 2)
            title = (
                f'<tr class="experiment"><td>{text(experiment)}</td><td>{text(metrics[experiment])}</td>{blank}</tr>'
            )
        of_model = [key for (name, _), of in of_variant.items() if name == experiment for key in of]
        body += f"<tbody{keys(of_model) if experiment in metrics else ''}>{title}{''.join(members)}</tbody>"
    invalid = [
        (row_key(number, row), f"{INVALID_MARK} {row_name(row)}: {row.invalid_reason}") for row in rows if not row.valid
    ]
    limits = [f"{', '.join(names)} {limit:g} ms" for limit, names in server_limits(rows).items()]
    notes = [
        f"Server limits of p99: {'; '.join(limits)}." if limits else "",
        "x: samples/s over fp32's, each at its best batch size. ~ emulated: computed without its gain here.",
        *(f"{words[0].upper()}{words[1:]}." for words in floor_in_words(rows)),
    ]
    asides = (loadgen_in_words(rows), steadiness_in_words(rows), disturbance_in_words(rows))
    notes += [f"{words[0].upper()}{words[1:]}." for words in asides if words]
    return (
        scrolled(f"<table><thead><tr>{header}</tr></thead>{body}</table>")
        + _warnings(invalid)
        + f'<p class="note">{text(" ".join(notes).strip())}</p>'
    )


def _warnings(invalid: Sequence[tuple[str, str]]) -> str:
    lines = "".join(f'<p class="note bad"{keys([key])}>{text(words)}</p>' for key, words in invalid)
    if len(invalid) <= MOST_WARNINGS:
        return lines
    return f'<details><summary class="bad">{len(invalid)} invalid rows, and why</summary>{lines}</details>'


def _devices(runs: Sequence[ReportRun], drawn: dict[str, Plot]) -> str:
    cards = plot_cards("devices", [device_plot(experiment, runs) for experiment in experiments_of(runs)], drawn)
    header, lines, behind = device_table(runs)
    return (
        f"<section{keys([key for of_line in behind for key in of_line])}>"
        f'<h2>Devices compared</h2>{cards}<p class="note">In brackets: over the first.</p>'
        f"{scrolled(table(header, lines, 'words', behind), 'tall')}</section>"
    )


def _model_section(identity: str, title: str, run: ReportRun, shown: Shown, drawn: dict[str, Plot]) -> str:
    variants = shown.variants
    rows = [shown.key(row) for variant in variants for row in variant.rows]
    advice = recommendation(variants)
    of_variants = {variant.name: [shown.key(row) for row in variant.rows] for variant in variants}
    header, lines = quality_table(variants)
    behind = [of_variants.get(line[0], rows) for line in lines]
    return (
        f'<section class="model"{keys(rows)}><h2>{text(title)}</h2>'
        + (f'<p class="advice">{text(advice)}</p>' if advice else "")
        + plot_cards(identity, [plot(shown) for plot in MODEL_PLOTS], drawn)
        + '<h3 class="below">Quality</h3>'
        f'<p class="note">Protocol: <span class="protocol">{text(protocols(run.rows)[variants[0].experiment])}</span>'
        f"</p>{scrolled(table(header, lines, rows=behind))}</section>"
    )


def _all_rows(runs: Sequence[ReportRun]) -> str:
    header, lines, behind = list[str](), list[list[str]](), list[list[str]]()
    for number, run in enumerate(runs):
        header, of_run = full_table(run.rows)
        lines += [[run.label, *line] for line in of_run] if len(runs) > 1 else of_run
        behind += [[row_key(number, row)] for row in full_rows(run.rows)]
    header = ["device", *header] if len(runs) > 1 else header
    return f"<h2>All rows</h2>{scrolled(table(header, lines, 'rows', behind), 'tall')}"


def _padding(run: ReportRun) -> str:
    header, lines = padding_table(run.rows)
    content = f'<p class="note">{text(PADDING_NOTE)}</p>{scrolled(table(header, lines, "rows"))}'
    return f"<h2>{text(PADDING_TITLE)}</h2>{content}" if lines else ""


def _missing(run: ReportRun) -> str:
    lines = [[reason, fields, f"{n} of {len(run.rows)}"] for reason, fields, n in missing_figures(run.rows)]
    content = table(["reason", "fields", "rows"], lines, "text plain")
    return f"<h2>What could not be measured</h2>{scrolled(content)}" if lines else ""


def _how_to_read(run: ReportRun) -> str:
    items = "".join(f"<div><dt>{text(name)}</dt><dd>{text(words)}</dd></div>" for name, words in how_to_read(run.rows))
    return f'<h2>How to read this</h2><dl class="notes">{items}</dl>'


def _environment(run: ReportRun) -> str:
    facts = [[name, value] for name, value in environment_facts(run.rows).items()]
    settings = "".join(
        f"<details><summary>{text(variant.experiment)} / {text(variant.name)}</summary>"
        f"<pre>{text(_settings(variant))}</pre></details>"
        for variants in group_experiments(run.rows).values()
        for variant in variants
    )
    return (
        f"<h2>Environment</h2>{scrolled(table(['name', 'value'], facts, 'text plain'))}"
        f'<h2>Settings</h2><div class="card">{settings}</div>'
    )


def _settings(variant: Variant) -> str:
    row = variant.rows[0]
    parts = {"model": row.model, "model_config": row.model_config, "transforms": row.transforms}
    return json.dumps(parts | {"transform_report": row.transform_report}, indent=2, default=str)
