"""The report as a reader sees it: in headless Chromium, on a desk, a phone, a dark screen and paper."""

import dataclasses
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from invented_run import SCENARIOS, SPEED, make_rows

from benchmarks.report import write_joint_report
from benchmarks.report_runs import label_runs
from benchmarks.results import Row, read_rows
from tools.browser import BROWSERS, Browser
from tools.screenshot_report import main, screenshot

pytestmark = [
    pytest.mark.slow,  # starts a browser, which CI installs before the slow tests
    pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium is installed"),
]

PUBLISHED = Path(__file__).parents[2] / "benchmarks" / "results" / "quick-amd-epyc" / "results.jsonl"
DRAW_ALL = (
    "new Promise((done) => { document.querySelectorAll('.plot').forEach(draw);"
    " requestAnimationFrame(() => requestAnimationFrame(done)); })"
)
VISIBLE_ROWS = "[...document.querySelectorAll('table.rows tbody tr')].filter((line) => !line.hidden).length"
FRONTIER = (
    "JSON.stringify(((traces) => { const line = traces.find((trace) => trace.meta.frontier);"
    " return line.x.map((x, index) => [x, line.y[index]]); })(document.getElementById('plot-0-0-0').data))"
)


def two_models() -> list[Row]:
    """Returns the rows of two models; one of the first is invalid and one not steady."""
    rows, _ = make_rows("sasrec")
    others = [row for row in make_rows("dlrm")[0] if row.model != "null"]
    rows[2] = dataclasses.replace(rows[2], valid=False, invalid_reason="it leaks")
    rows[3] = dataclasses.replace(rows[3], steady=False)
    return [*rows, *others]


N_ROWS = 2 * len(SPEED) * len(SCENARIOS) + len(SCENARIOS)  # the harness's floor once


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = two_models()
    samples = make_rows("sasrec")[1]
    return write_joint_report(label_runs([("one", rows, samples)]), tmp_path_factory.mktemp("report"))


def test_every_plot_is_drawn_without_a_complaint(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.run(DRAW_ALL)
    n_plots = len(re.findall(r'<div class="plot"', report.read_text()))
    assert n_plots == 2 * 11
    assert browser.run("document.querySelectorAll('.plot .main-svg').length") >= n_plots
    assert browser.run("document.querySelectorAll('.plot .point').length") > 100
    assert browser.problems == []


def test_filters_hide_lines_points_and_sections_and_stand_in_the_address(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.run(DRAW_ALL)
    assert browser.run(VISIBLE_ROWS) == N_ROWS
    browser.run("document.querySelector('[data-value=\"prune(0.5) + shrink + int8\"]').click()")
    browser.run("document.querySelector('[data-value=\"sasrec\"]').click()")
    assert browser.run(VISIBLE_ROWS) == len(SCENARIOS)
    assert browser.run("document.querySelector('#count').textContent") == f"({len(SCENARIOS)} of {N_ROWS} rows)"
    assert browser.run("[...document.querySelectorAll('section.model')].filter((part) => !part.hidden).length") == 1
    names = "[...new Set(document.getElementById('plot-0-0-4').data.map((trace) => trace.name))].join()"
    assert browser.run(names) == "prune(0.5) + shrink + int8"
    address = browser.run("location.hash")
    browser.open(report, address[1:])
    assert browser.run(VISIBLE_ROWS) == len(SCENARIOS)
    browser.run("document.getElementById('reset').click()")
    assert browser.run(VISIBLE_ROWS) == N_ROWS
    assert browser.problems == []


def test_a_batch_size_leaves_its_points_and_hides_other_plots(browser: Browser, report: Path) -> None:
    browser.open(report, "batch=64&batch=8")
    browser.run(DRAW_ALL)
    assert browser.run("document.getElementById('plot-0-0-4').data[0].x") == [8, 64]
    hidden = "[...document.querySelectorAll('figure')].filter((card) => card.hidden).map((card) =>"
    titles = browser.run(f"{hidden} card.querySelector('h3').textContent)")
    assert set(titles) == {"Quality against served load", "Latency against offered rate", "Padding"}
    pressed = browser.run("document.querySelector('figure .choice button[aria-pressed=true]').dataset.choice")
    assert pressed == "multi_stream"


def test_only_valid_rows_are_joined_by_the_frontier(browser: Browser, tmp_path: Path) -> None:
    """Of (p99, quality) (1, 90), (2, 95), (3, 94), (0.5, 99, invalid) the frontier is the first two."""
    rows = []
    wanted = {"fp32": (1.0, 0.90, True), "b": (2.0, 0.95, True), "c": (3.0, 0.94, True), "d": (0.5, 0.99, False)}
    for name, (p99, quality, valid) in wanted.items():
        row = make_rows()[0][0]
        rows.append(
            dataclasses.replace(
                row,
                case=f"sasrec/{name}",
                variant=name,
                latency_ms=row.latency_ms | {"p99": p99, "ci95_p99": [p99, p99]},
                quality_retained=quality,
                valid=valid,
                invalid_reason=None if valid else "no",
            )
        )
    page = write_joint_report(label_runs([("one", rows, {})]), tmp_path)
    browser.open(page)
    browser.run(DRAW_ALL)
    assert browser.run(FRONTIER) == "[[1,90],[2,95]]"
    browser.open(page, "variant=c&variant=d")
    browser.run(DRAW_ALL)
    assert browser.run(FRONTIER) == "[[3,94]]"
    browser.open(page, "valid=1")
    assert browser.run(VISIBLE_ROWS) == 3


def test_columns_sort_by_number_with_dashes_last(browser: Browser, report: Path) -> None:
    browser.open(report)
    column = "[...document.querySelectorAll('table.rows tbody tr')].map((line) => line.cells[14].textContent)"
    header = "document.querySelectorAll('table.rows thead th')[14]"
    for direction in ("ascending", "descending"):
        browser.run(f"{header}.querySelector('button').click()")
        assert browser.run(f"{header}.getAttribute('aria-sort')") == direction
        values = [float(value.replace(",", "").replace("M", "e6")) for value in browser.run(column)]
        assert values == sorted(values, reverse=direction == "descending")
    gain = "document.querySelectorAll('table.rows thead th')[15]"
    browser.run(f"{gain}.querySelector('button').click()")
    gains = browser.run(column.replace("[14]", "[15]"))
    assert gains[0].startswith("x")
    assert gains[-1] == "–"


def test_ticks_are_round_and_inside(browser: Browser, report: Path) -> None:
    browser.open(report)
    assert browser.run("logTicks(0.5, 2000)") == [1, 10, 100, 1000]
    for low, high in ((0.98, 1.05), (12.8, 21), (3e-3, 4e5), (9000, 13000)):
        ticks = browser.run(f"logTicks({low}, {high})")
        assert 1 <= len(ticks) <= 10
        assert all(low <= tick <= high for tick in ticks)


@pytest.mark.parametrize("width", [390, 820])
def test_a_narrow_screen_needs_no_sideways_scrolling(browser: Browser, report: Path, width: int) -> None:
    browser.open(report, width=width, height=900)
    browser.run(DRAW_ALL)
    assert browser.run("document.documentElement.scrollWidth") == width
    widest = (
        "Math.max(...[...document.querySelectorAll('.plot .main-svg')].map((svg) => svg.getBoundingClientRect().right))"
    )
    assert browser.run(widest) <= width


def test_dark_by_the_system_or_by_the_switch(browser: Browser, report: Path) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    text = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
    browser.open(report)
    browser.run(DRAW_ALL)
    light = browser.run(background), browser.run(text)
    browser.open(report, look="dark")
    browser.run(DRAW_ALL)
    dark = browser.run(background), browser.run(text)
    assert dark != light
    assert _luminance(dark[0]) < 0.1 < 0.8 < _luminance(light[0])
    assert _luminance(dark[1]) > 0.6 > 0.4 > _luminance(light[1])
    browser.run("document.getElementById('theme').click()")
    assert browser.run("document.querySelector('#theme').textContent") == "Look: light"
    assert browser.run(background) == light[0]


def test_paper_is_light_without_filters_and_cuts_no_plot(browser: Browser, report: Path) -> None:
    browser.open(report, width=703, look="dark")  # A4 within margins of 12 mm
    browser.set_media("print", "dark")
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert _luminance(browser.run("getComputedStyle(document.body).backgroundColor")) == 1.0
    assert browser.run("getComputedStyle(document.querySelector('.filters')).display") == "none"
    outside = (
        "[...document.querySelectorAll('figure')].filter((card) => { const box = card.getBoundingClientRect();"
        " return [...card.querySelectorAll('.main-svg')]"
        ".some((svg) => svg.getBoundingClientRect().right > box.right + 1)"
        " || !card.querySelector('.main-svg') || getComputedStyle(card).breakInside !== 'avoid'; }).length"
    )
    assert browser.run(outside) == 0
    assert browser.paper().startswith(b"%PDF")
    assert browser.problems == []


def test_rows_of_before_version_4_are_drawn_too(browser: Browser, tmp_path: Path) -> None:
    page = write_joint_report(label_runs([("old", read_rows(PUBLISHED), {})]), tmp_path)
    browser.open(page)
    browser.run(DRAW_ALL)
    assert "Latency against offered rate: no row has latencies at lower rates" in page.read_text()
    assert browser.problems == []


def test_a_picture_is_as_large_as_asked_for(report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "page.png"
    screenshot(report, picture, 390, 500, dark=True, fragment="model=dlrm", top="section.model:not([hidden])")
    header = picture.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(header[16:20]), int.from_bytes(header[20:24])) == (390, 500)
    assert main([str(report), str(picture), "--top=#nowhere"]) == 2
    assert "nothing of" in capsys.readouterr().err


def _luminance(colour: str) -> float:
    """Returns the mean of a colour's three channels, from 0 (black) to 1 (white)."""
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3 / 255
