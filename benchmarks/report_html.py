"""The report as one HTML page that opens without a network."""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.offline import get_plotlyjs

from benchmarks import report_plots as plots
from benchmarks.plot_style import Style, variant_styles
from benchmarks.report_contents import (
    HOW_TO_READ,
    environment_facts,
    full_table,
    heading_facts,
    missing_figures,
    protocols,
    quality_table,
    recommendation,
)
from benchmarks.results import Row
from benchmarks.summary import (
    EMULATED_MARK,
    INVALID_MARK,
    Variant,
    group_experiments,
    invalid_rows,
    metric_name,
    server_limits,
    summary_columns,
    summary_lines,
)

FOLDER = Path(__file__).parent
# The browser itself refuses every request that the page could make.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def render_html(rows: Sequence[Row], samples: Mapping[str, NDArray]) -> str:
    """Returns the whole of `report.html`; `samples` is as for `write_report`."""
    facts = heading_facts(rows)
    experiments = group_experiments(rows)
    styles = variant_styles(variant.name for variants in experiments.values() for variant in variants)
    sections = [
        _model_section(number, name, variants, styles, protocols(rows)[name], samples)
        for number, (name, variants) in enumerate(experiments.items())
    ]
    title = f"recjax: {facts['Suite']} on {facts['Device']}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title>
<style>
{(FOLDER / "report_page.css").read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
<h1>recjax benchmark</h1>
{_facts(facts)}
{_summary(rows, styles)}
{"".join(sections)}
<h2>All rows</h2>
<div class="card scroll tall">{_table(*full_table(rows), "rows")}</div>
{_missing(rows)}
<h2>How to read this</h2>
<dl class="notes">
{"".join(f"<div><dt>{_text(name)}</dt><dd>{_text(words)}</dd></div>" for name, words in HOW_TO_READ)}
</dl>
{_environment(rows)}
</main>
<script>{get_plotlyjs()}</script>
<script>
{(FOLDER / "report_page.js").read_text(encoding="utf-8")}</script>
</body>
</html>
"""


def _summary(rows: Sequence[Row], styles: plots.Styles) -> str:
    columns = summary_columns(rows)
    header = "".join(f"<th>{'<br>'.join(_text(words) for words in column if words)}</th>" for column in columns)
    metrics = {name: metric_name(v[0].first("quality_metric")) for name, v in group_experiments(rows).items()}
    body, experiment = [], None
    for line in summary_lines(rows):
        if line.experiment in metrics and line.experiment != experiment:
            experiment = line.experiment
            blank = "<td></td>" * (len(columns) - 2)
            body.append(
                f'<tr class="experiment"><td>{_text(experiment)}</td><td>{_text(metrics[experiment])}</td>{blank}</tr>'
            )
        name = line.label.removesuffix(f" {EMULATED_MARK}")
        swatch = _swatch(styles[name]) if line.kind == "variant" else ""
        cells = "".join(f"<td>{_cell(cell)}</td>" for cell in line.cells)
        body.append(f'<tr class="{line.kind}"><td>{swatch}{_text(line.label)}</td>{cells}</tr>')
    invalid = [f"{INVALID_MARK} {name}: {reason}" for name, reason in invalid_rows(rows)]
    limits = [f"{', '.join(names)} {limit:g} ms" for limit, names in server_limits(rows).items()]
    notes = [
        f"Server limits of p99: {'; '.join(limits)}." if limits else "",
        "x: samples/s over fp32's, each at its best batch size. ~ emulated: computed without its gain here.",
    ]
    return (
        f'<div class="card scroll"><table><thead><tr>{header}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
        + "".join(f'<p class="note bad">{_text(words)}</p>' for words in invalid)
        + f'<p class="note">{_text(" ".join(notes))}</p>'
    )


def _model_section(
    number: int,
    name: str,
    variants: Sequence[Variant],
    styles: plots.Styles,
    protocol: str,
    samples: Mapping[str, NDArray],
) -> str:
    choice = "".join(
        f'<button data-scenario="{scenario}" aria-pressed="{str(index == 0).lower()}">{scenario}</button>'
        for index, scenario in enumerate(plots.FRONTIER_SCENARIOS)
        if any(variant.of(scenario) for variant in variants)
    )
    up_left = "Up and left is better; bars are 95% intervals; the dotted line joins what nothing else beats on both."
    cards = [
        (
            "Quality against p99",
            up_left,
            plots.quality_against_p99(variants, styles),
            f'<div class="choice">{choice}</div>',
        ),
        (
            "Quality against served load",
            "The rate at which p99 still held the limit. Up and right is better.",
            plots.quality_against_rate(variants, styles),
            "",
        ),
        (
            "Throughput against batch",
            "Next query sent when the last is answered.",
            plots.throughput_against_batch(variants, styles),
            "",
        ),
    ]
    for scenario, words in (
        ("single_stream", "One sample at a time. Each step up is ten times rarer."),
        ("server", "At each variant's own highest rate within the limit."),
    ):
        figure = plots.latency_distribution(variants, styles, scenario, samples)
        cards.append((f"Latency distribution, {scenario}", words, figure, ""))
    cards.append(
        ("Memory", "Stored parameters, and what the largest program needs.", plots.memory_bars(variants, styles), "")
    )
    legend = "".join(
        f'<button data-variant="{_text(variant.name)}" aria-pressed="true">'
        f"{_swatch(styles[variant.name])}{_text(variant.name)}</button>"
        for variant in variants
    )
    body = "".join(_plot_card(f"plot-{number}-{index}", *card) for index, card in enumerate(cards))
    return (
        f"<section><h2>{_text(name)}</h2>"
        f"<p>{_text(recommendation(variants) or '')}</p>"
        f'<div class="legend">{legend}</div><div class="plots">{body}</div>'
        '<h3 class="below">Quality</h3>'
        f'<p class="note">Protocol: <span class="protocol">{_text(protocol)}</span></p>'
        f'<div class="card scroll">{_table(*quality_table(variants))}</div></section>'
    )


def _plot_card(identity: str, title: str, words: str, figure: go.Figure, choice: str) -> str:
    # "<" is escaped because a script element ends at the first "</script", wherever it stands.
    data = figure.to_json().replace("<", "\\u003c")
    return (
        f'<div class="card"><h3>{_text(title)}</h3><p class="note">{_text(words)}</p>{choice}'
        f'<div class="plot" id="{identity}"></div>'
        f'<script type="application/json" id="{identity}-data">{data}</script></div>'
    )


def _missing(rows: Sequence[Row]) -> str:
    lines = [[reason, fields, f"{n} of {len(rows)}"] for reason, fields, n in missing_figures(rows)]
    table = _table(["reason", "fields", "rows"], lines, "text")
    return f'<h2>What could not be measured</h2><div class="card scroll">{table}</div>' if lines else ""


def _environment(rows: Sequence[Row]) -> str:
    facts = [[name, value] for name, value in environment_facts(rows).items()]
    settings = "".join(
        f"<details><summary>{_text(variant.experiment)} / {_text(variant.name)}</summary>"
        f"<pre>{_text(_settings(variant))}</pre></details>"
        for variants in group_experiments(rows).values()
        for variant in variants
    )
    return (
        f'<h2>Environment</h2><div class="card scroll">{_table(["name", "value"], facts, "text")}</div>'
        f'<h2>Settings</h2><div class="card">{settings}</div>'
    )


def _settings(variant: Variant) -> str:
    row = variant.rows[0]
    parts = {"model": row.model, "model_config": row.model_config, "transforms": row.transforms}
    return json.dumps(parts | {"transform_report": row.transform_report}, indent=2, default=str)


def _facts(facts: Mapping[str, str]) -> str:
    pairs = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in facts.items())
    return f'<dl class="facts">{pairs}</dl>'


def _table(header: Sequence[str], lines: Iterable[Sequence[str]], kind: str = "") -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in line)}</tr>" for line in lines)
    return f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _cell(text: str) -> str:
    if text.startswith(INVALID_MARK):
        return f'<span class="bad">{_text(text)}</span>'
    value, separator, ratio = text.partition(" ")
    return f'{_text(value)}<span class="ratio">{_text(ratio.strip())}</span>' if separator else _text(text)


def _swatch(style: Style) -> str:
    return f'<span class="swatch" style="--colour:{style.colour};--shape:{style.shape}"></span>'


def _text(value: str) -> str:
    return html.escape(str(value), quote=True)
