import dataclasses
import html
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_rows import SINCE_4
from plotly.offline import get_plotlyjs
from rich.console import Console

from benchmarks.plot_style import log_ticks, variant_styles
from benchmarks.report import print_table, wide_console, write_report
from benchmarks.report_plots import quality_against_p99
from benchmarks.results import Row, check_row
from benchmarks.statistics import summarize_latency
from benchmarks.summary import format_number, group_variants, samples_key, summary_lines
from tools.screenshot_report import BROWSERS, main, run_browser

SPEED = {"fp32": 1.0, "bf16": 1.5, "int8": 2.0, "prune(0.5) + shrink + int8": 3.0}
SCENARIOS = (("single_stream", 1), ("multi_stream", 8), ("offline", 64), ("offline", 256), ("server", 256))
REASON = "the processor has no such counter"
URL_ATTRIBUTES = ("src", "href", "srcset", "data", "action", "poster", "background")


def make_row(
    experiment: str, variant: str, scenario: str, batch_size: int, latency_ms: np.ndarray, **changes: Any
) -> Row:
    latency = summarize_latency(latency_ms)
    rate = batch_size * 1e3 / float(latency_ms.mean())
    is_server = scenario == "server"
    values: dict[str, Any] = {
        "run_id": "20250102T030405-abcdef",
        "started_at": "2025-01-02T03:04:05+00:00",
        "suite": "invented",
        "case": f"{experiment}/{variant}",
        "model": "SASRec",
        "model_config": {"embedding_dim": 64},
        "dataset": "tiny",
        "protocol": "tiny/5-core/full_catalogue/test",
        "transforms": [],
        "variant": variant,
        "transform_report": {},
        "support": "native",
        "device": {"platform": "cpu", "kind": "Some CPU (2 cores)", "count": 1, "mesh": None},
        "scenario": scenario,
        "batch_size": batch_size,
        "quality": {"ndcg@10": 0.0599, "hr@10": 0.12},
        "quality_metric": "ndcg@10",
        "quality_reference": {"popularity": {"ndcg@10": 0.0361, "hr@10": 0.071}, "random": {"ndcg@10": 0.0014}},
        "quality_retained": 0.987,
        "quality_retained_ci95": [0.961, 1.012],
        "validation_quality": 0.061,
        "latency_ms": latency.values,
        "throughput_queries_per_s": rate / batch_size,
        "throughput_samples_per_s": rate,
        "speedup": None if is_server else {"median": 2.314, "range": [2.2, 2.4], "rounds": 5},
        "target_qps": 1234.5 if is_server else None,
        "search": {"probes": 7} if is_server else None,
        "slo_ms": 20.0 if is_server else None,
        "valid": True,
        "invalid_reason": None,
        "compile_s": 1.5,
        "recompiles_in_window": 0,
        "padding_waste": 0.125,
        "parameter_bytes": 2_340_000,
        "dense_layer_bytes": 640_000,
        "checkpoint_bytes": 2_400_000,
        "program_memory_bytes": 3_100_000,
        "peak_memory_bytes": None,
        "energy_j_per_1k_samples": None,
        "table_bytes": 400,
        "masked_share": 0.25,
        "realised_share": 0.5,
        "masked_speedup": {"median": 1.0, "range": [0.9, 1.1], "rounds": 5},
        "realised_speedup": {"median": 2.0, "range": [1.5, 2.5], "rounds": 5},
        "products": {"s8 x s8 -> s32": 6},
        "train_samples_per_s": 5000.0,
        "train_speedup": {"median": 0.75, "range": [0.5, 1.0], "rounds": 20},
        "train_s": 12.0,
        "flops_per_sample": 2.5e7,
        "bytes_per_sample": 1.1e5,
        "achieved_fraction_of_roofline": 0.31,
        "bound_by": "compute",
        "mfu": 0.2,
        "environment": {"versions": {"jax": "0.12.0"}, "seed": 0},
    }
    values = SINCE_4 | values | changes
    missing = {name: REASON for name, value in values.items() if value is None}
    row = Row(**values, reasons={**missing, "device.mesh": "one device", **latency.reasons})
    check_row(row)
    return row


def make_rows(experiment: str = "sasrec") -> tuple[list[Row], dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    rows, samples = [], {}
    for variant, speed in SPEED.items():
        for scenario, batch_size in SCENARIOS:
            latency_ms = batch_size**0.8 / speed * (1 + rng.gamma(1.5, 0.1, 500))
            rows.append(make_row(experiment, variant, scenario, batch_size, latency_ms))
            samples[samples_key(rows[-1])] = latency_ms
    no_quality = dict.fromkeys(
        ("quality", "quality_metric", "quality_reference", "quality_retained", "quality_retained_ci95", "protocol")
    )
    for scenario, batch_size in SCENARIOS:
        null = make_row(
            "null", "null", scenario, batch_size, np.full(500, 0.02), model="null", speedup=None, **no_quality
        )
        rows.append(null)
    return rows, samples


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return make_rows()[0]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(*_arguments(tmp_path_factory.mktemp("report")))


def _arguments(folder: Path) -> tuple[list[Row], Path, dict[str, np.ndarray]]:
    rows, samples = make_rows()
    samples.pop(samples_key(rows[0]))  # drawn from its percentiles
    return rows, folder, samples


class _References(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [f"{tag} {name}={value}" for name, value in attrs if name in URL_ATTRIBUTES]
        self.found += [f"{tag} style={v}" for name, v in attrs if name == "style" and v and "url(" in v]


def test_html_refers_to_nothing_outside_itself(report: Path):
    page = report.read_text().replace(get_plotlyjs(), "")
    parser = _References()
    parser.feed(page)
    assert parser.found == []
    for style in re.findall(r"<style>(.*?)</style>", page, re.DOTALL):
        assert "@import" not in style
        assert "url(" not in style
    assert "http://" not in page
    assert "https://" not in page
    assert "default-src 'none'" in page


def test_html_holds_plotly_once(report: Path):
    assert report.read_text().count(get_plotlyjs()) == 1


def test_html_names_every_case(report: Path, rows: list[Row]):
    page = report.read_text()
    for case in {row.case for row in rows}:
        assert f"<td>{html.escape(case)}</td>" in page


def test_names_from_rows_are_escaped(tmp_path: Path):
    wild = "<script>alert(1)</script>"
    rows = [dataclasses.replace(row, invalid_reason=wild, valid=False) for row in make_rows(wild)[0]]
    page = write_report(rows, tmp_path, {}).read_text().replace(get_plotlyjs(), "")
    assert wild not in page
    assert "alert(1)" in page
    markdown = (tmp_path / "report.md").read_text()
    assert "<script>" not in markdown
    assert "alert(1)" in markdown


def test_markdown_tables_have_a_line_a_row(report: Path, rows: list[Row]):
    text = report.with_name("report.md").read_text()
    summary, full = (text.split(f"## {title}\n")[1].split("\n## ")[0] for title in ("Summary", "All rows"))
    assert _table_lines(summary) == 2 + len(SPEED) + 2 + 1  # header and rule, variants, popularity and random, null
    assert _table_lines(full) == 2 + len(rows)
    assert "Protocol: tiny/5-core/full\\_catalogue/test" in text


def test_missing_figures_are_a_dash_and_a_reason(rows: list[Row], report: Path):
    text = report.with_name("report.md").read_text()
    single = next(line for line in text.splitlines() if line.startswith("| sasrec/fp32 | single"))
    assert "–" in single
    for page in (text, html.unescape(report.read_text())):
        assert REASON in page
        assert "n samples; at least 10,000 are needed" in page
    assert f"{len(rows)} of {len(rows)}" in text


def test_summary_of_a_variant(rows: list[Row]):
    line = summary_lines(rows)[0]
    assert (line.kind, line.experiment, line.label) == ("variant", "sasrec", "fp32")
    assert line.cells[:2] == ("0.0599", "98.7 ±2.6")
    assert line.cells[5].endswith("x1.00")
    assert line.cells[6:] == ("1,234", "640", "2.34")
    assert [line.kind for line in summary_lines(rows)[4:]] == ["reference", "reference", "null"]


def test_offline_is_the_best_valid_batch(rows: list[Row]):
    offline = [row for row in rows if row.scenario == "offline"]
    fastest = max(offline[:2], key=lambda row: row.throughput_samples_per_s)
    changed = [dataclasses.replace(row, valid=row is not fastest, invalid_reason="no") for row in offline[:2]]
    best = group_variants(changed)[0].best("offline")
    assert best is not None
    assert best.valid
    assert best.throughput_samples_per_s < fastest.throughput_samples_per_s


def test_a_variants_gain_is_its_best_batch_over_that_of_fp32(rows: list[Row]):
    def offline(variant: str, batch_size: int, rate: float, ratio: float) -> Row:
        row = next(row for row in rows if (row.variant, row.scenario) == (variant, "offline"))
        speedup = {"median": ratio, "range": [ratio, ratio], "rounds": 5}
        return dataclasses.replace(row, batch_size=batch_size, throughput_samples_per_s=rate, speedup=speedup)

    fp32 = [offline("fp32", 32, 1000.0, 1.0), offline("fp32", 128, 900.0, 1.0)]
    int8 = [offline("int8", 32, 700.0, 0.7), offline("int8", 128, 1500.0, 1.67)]
    cells = [line.cells[5].split() for line in summary_lines([*fp32, *int8]) if line.kind == "variant"]
    assert cells == [["1,000", "x1.00"], ["1,500", "x1.50"]]


@pytest.mark.parametrize("width", [120])
def test_terminal_table_fits(rows: list[Row], width: int):
    console = Console(width=width, file=io.StringIO(), record=True)
    invalid = dataclasses.replace(rows[4], valid=False, invalid_reason="no rate held the limit", support="emulated")
    print_table([*rows[:4], invalid, *rows[5:]], console)
    lines = console.export_text().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    assert sum(any(line.strip().startswith(f"{name} ") for name in SPEED) for line in lines) == len(SPEED)
    assert any("! 1,234" in line for line in lines)
    assert "! sasrec / fp32, server, batch 256: no rate held the limit" in "\n".join(lines)
    assert not any("…" in line for line in lines)
    table = [line for line in lines if line.startswith(("  ", "null"))]
    assert table[-1].startswith("null, null's requests")


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_narrow_terminal_loses_no_column(
    rows: list[Row], columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", str(columns))
    print_table(rows, wide_console())
    output = capsys.readouterr().out
    assert "…" not in output
    for variant in SPEED:
        assert variant in output


def test_quality_is_drawn_with_its_interval(rows: list[Row]):
    variants = group_variants(rows)
    figure = quality_against_p99(variants, variant_styles(variant.name for variant in variants))
    points = [trace for trace in figure.data if trace.mode == "markers" and trace.y[0] == pytest.approx(98.7)]
    assert points
    for point in points:
        assert point.error_y.array[0] == pytest.approx(101.2 - 98.7)
        assert point.error_y.arrayminus[0] == pytest.approx(98.7 - 96.1)
    assert figure.layout.yaxis.range[0] < 96.1
    assert figure.layout.yaxis.range[1] > 101.2


def test_an_interrupted_run_still_has_a_report(tmp_path: Path, rows: list[Row]):
    write_report(rows[:1], tmp_path, {})
    print_table(rows[:1], Console(file=io.StringIO()))
    with pytest.raises(ValueError, match="at least one row"):
        write_report([], tmp_path, {})


def test_numbers_are_short():
    values = (None, 0, 0.01234, 0.3121, 12.34, 999.4, 999.6, 12_345.6, 1_204_331, 2.5e9)
    words = ("–", "0", "0.0123", "0.312", "12.3", "999", "1,000", "12,346", "1.20M", "2.50G")
    assert tuple(map(format_number, values)) == words


def test_ticks_are_round_and_inside():
    assert log_ticks(0.5, 2000) == [1, 10, 100, 1000]
    assert log_ticks(0.9, 6) == [1, 1.5, 2, 3, 5]
    for low, high in ((0.98, 1.05), (12.8, 21), (3e-3, 4e5)):
        ticks = log_ticks(low, high)
        assert 1 <= len(ticks) <= 10
        assert all(low <= tick <= high for tick in ticks)


def test_a_variant_looks_the_same_everywhere():
    styles = variant_styles([*SPEED, "fp32", *(f"v{n}" for n in range(20))])
    assert list(styles)[: len(SPEED)] == list(SPEED)
    assert len({(style.colour, style.symbol) for style in styles.values()}) == len(styles)


def test_screenshot_of_nothing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(tmp_path / "absent.html"), str(tmp_path / "out.png")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium is installed")
def test_browser_draws_every_plot(report: Path):
    # The page's policy blocks and logs every request; no name resolves either.
    done = run_browser(report, "--dump-dom", "--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND")
    n_plots = len(re.findall(r'class="plot[ "]', report.read_text().replace(get_plotlyjs(), "")))
    assert n_plots == 6
    drawn = done.stdout.replace(get_plotlyjs(), "")
    assert len(set(re.findall(r'<div class="plot [^"]*js-plotly-plot[^"]*" id="(plot-0-\d)"', drawn))) == n_plots
    assert len(re.findall(r'<svg class="main-svg"', drawn)) >= n_plots
    assert drawn.count('class="point"') >= 5 * len(SPEED)  # a marker in two frontiers, three bars
    problems = [line for line in done.stderr.splitlines() if "CONSOLE" in line or "net::ERR" in line]
    assert problems == []


def _table_lines(text: str) -> int:
    return sum(line.startswith("|") for line in text.splitlines())
