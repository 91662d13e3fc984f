import base64
import dataclasses
import html
import io
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from invented_run import REASON, SPEED, make_rows
from plotly.offline import get_plotlyjs
from rich.console import Console

from benchmarks.plot_style import variant_styles
from benchmarks.report import print_table, wide_console, write_joint_report, write_report
from benchmarks.report_contents import how_to_read
from benchmarks.report_runs import label_runs
from benchmarks.results import Row
from benchmarks.summary import (
    disturbance_in_words,
    format_number,
    group_variants,
    loadgen_in_words,
    samples_key,
    summary_lines,
)
from tools.screenshot_report import main

URL_ATTRIBUTES = ("src", "href", "srcset", "data", "action", "poster", "background")


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
    page = report.read_text()
    parser = _References()
    parser.feed(page)
    assert parser.found == []
    for style in re.findall(r"<style>(.*?)</style>", page, re.DOTALL):
        assert "@import" not in style
        assert "url(" not in style
    assert "http://" not in page
    assert "https://" not in page
    assert "default-src 'none'" in page


def test_html_holds_plotly_once_and_deflated(report: Path):
    page = report.read_text()
    assert get_plotlyjs() not in page
    ((packed,),) = [re.findall(r'<script type="text/plain" id="plotly">([^<]+)</script>', page)]
    assert zlib.decompress(base64.b64decode(packed)).decode() == get_plotlyjs()
    assert len(page) < 2_400_000


def test_html_names_every_case(report: Path, rows: list[Row]):
    page = report.read_text()
    for case in {row.case for row in rows}:
        assert f"<td>{html.escape(case)}</td>" in page


def test_names_from_rows_are_escaped(tmp_path: Path):
    wild = "<script>alert(1)</script>"
    rows = [dataclasses.replace(row, invalid_reason=wild, valid=False) for row in make_rows(wild)[0]]
    page = write_report(rows, tmp_path, {}).read_text()
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
    split = text.split("## Where the time goes\n")[1].split("\n## ")[0]
    assert _table_lines(split) == 2 + len(rows)
    assert "| sasrec/fp32 | offline | 64 | 0.500 | 0.125 | 0.125 | 2.00 |" in split


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


def test_an_interrupted_run_still_has_a_report(tmp_path: Path, rows: list[Row]):
    write_report(rows[:1], tmp_path, {})
    print_table(rows[:1], Console(file=io.StringIO()))
    with pytest.raises(ValueError, match="at least one row"):
        write_report([], tmp_path, {})


def test_numbers_are_short():
    values = (None, 0, 0.01234, 0.3121, 12.34, 999.4, 999.6, 12_345.6, 1_204_331, 2.5e9)
    words = ("–", "0", "0.0123", "0.312", "12.3", "999", "1,000", "12,346", "1.20M", "2.50G")
    assert tuple(map(format_number, values)) == words


def test_a_variant_looks_the_same_everywhere():
    styles = variant_styles([*SPEED, "fp32", *(f"v{n}" for n in range(20))])
    assert list(styles)[: len(SPEED)] == list(SPEED)
    assert len({(style.colour, style.symbol) for style in styles.values()}) == len(styles)


def test_screenshot_of_nothing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(tmp_path / "absent.html"), str(tmp_path / "out.png")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_notes_fit_how_the_rows_were_measured(rows: list[Row]):
    before_4 = [dataclasses.replace(row, processes=None) for row in rows]
    assert "three windows of three" in dict(how_to_read(rows))["Scenarios"]
    assert "bootstrap over the processes" in dict(how_to_read(rows))["Intervals"]
    assert "in one of two windows" in dict(how_to_read(before_4))["Scenarios"]
    assert dict(how_to_read(before_4)).keys() == dict(how_to_read(rows)).keys()


def test_runs_of_one_device_are_told_apart(rows: list[Row]):
    other = [dataclasses.replace(row, device=row.device | {"kind": "GPU", "count": 2}) for row in rows]
    labels = [run.label for run in label_runs([("a", rows, {}), ("b", rows, {}), ("c", other, {})])]
    assert labels == ["Some CPU (2 cores), a", "Some CPU (2 cores), b", "GPU, 2 devices"]
    later = [dataclasses.replace(row, run_id="later") for row in rows]
    assert [run.label for run in label_runs([("a", rows, {}), ("a", later, {})])] == [
        "Some CPU (2 cores), a, 20250102T030405-abcdef",
        "Some CPU (2 cores), a, later",
    ]


def test_a_report_of_two_devices_compares_them(tmp_path: Path, rows: list[Row]):
    twice = [
        dataclasses.replace(
            row, device=row.device | {"kind": "GPU"}, throughput_samples_per_s=2 * row.throughput_samples_per_s
        )
        for row in rows
    ]
    page = write_joint_report(label_runs([("a", rows, {}), ("b", twice, {})]), tmp_path).read_text()
    assert "<h2>Devices compared</h2>" in page
    assert "<h2>sasrec on GPU</h2>" in page
    markdown = (tmp_path / "report.md").read_text()
    assert markdown.startswith("# recjax benchmark: devices compared\n")
    (line,) = [line for line in markdown.splitlines() if line.startswith("| sasrec/fp32 | offline samples/s |")]
    assert "(x2.00)" in line
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 1 + 2 * len(rows)


def _table_lines(text: str) -> int:
    return sum(line.startswith("|") for line in text.splitlines())


def test_a_disturbed_machine_and_loadgens_verdict_stand_below_the_table(rows: list[Row]):
    assert disturbance_in_words(rows) == loadgen_in_words(rows) == ""
    shares = [0.3, 0.02, None]
    disturbed = [dataclasses.replace(rows[0], host={"others_share": share}) for share in shares]
    assert disturbance_in_words(disturbed).startswith(
        "disturbed: in 1 of 2 rows other programs took more than 5% of the processors' time, up to 30%"
    )
    verdicts = [{"result": "VALID"}, {"result": "INVALID"}, None]
    asked = [dataclasses.replace(rows[0], load={"verdict": verdict}) for verdict in verdicts]
    assert loadgen_in_words(asked).startswith("LoadGen asked, and called 1 of 2 runs VALID")
