"""Many runs over time: which rows are joined, what is left out, and the page."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from invented_run import make_rows

from benchmarks.history import main
from benchmarks.history_page import render_history
from benchmarks.history_rows import StoredRun, comparable_groups, read_history
from benchmarks.results import Row
from recjax.errors import UserError
from tools.browser import BROWSERS, Browser

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
PROCESSOR = {"cpu": "Some CPU (2 cores)"}


def run(number: int, **changes: object) -> list[Row]:
    """Returns the rows of a run on the day of that number."""
    environment = make_rows()[0][0].environment | PROCESSOR
    values = {"run_id": f"run{number}", "started_at": f"2025-01-{number:02}T03:04:05+00:00", "environment": environment}
    return [dataclasses.replace(row, **values | changes) for row in make_rows()[0]]


def write(folder: Path, rows: list[Row], name: str = "results.jsonl") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in rows))


def test_runs_are_read_by_their_start_and_others_left_out(tmp_path: Path) -> None:
    write(tmp_path / "late", run(3))
    write(tmp_path / "early", run(1))
    write(tmp_path / "early" / "previous-1", run(2))
    write(tmp_path / "copy", run(1))
    write(tmp_path / "more", run(4), "repeat.jsonl")
    (tmp_path / "early" / "quality.jsonl").write_text('{"schema_version": 1, "config": "x"}\n')
    (tmp_path / "early" / "broken.jsonl").write_text("not JSON\n")
    (tmp_path / "early" / "empty.jsonl").write_text("")
    estimated = json.dumps(dataclasses.asdict(run(5)[0]) | {"estimated": True})
    (tmp_path / "early" / "estimates.jsonl").write_text(estimated + "\n")
    runs, others = read_history([tmp_path])
    assert [stored.name for stored in runs] == ["copy", "early/previous-1", "late", "more/repeat"]
    assert others == 4
    assert runs[0].commit == "c" * 9
    assert runs[0].software == "jax 0.12.0"


def test_rows_are_joined_where_the_same_was_measured() -> None:
    first = run(1)[4]
    faster = dataclasses.replace(run(2)[4], target_qps=2000.0, processes=1, valid=False, invalid_reason="no")
    other_limit = dataclasses.replace(run(3)[4], slo_ms=5.0)
    other_processor = dataclasses.replace(run(4)[4], environment=first.environment | {"cpu": "Another CPU"})
    again = run(5)[4]
    assert comparable_groups([first, faster, other_limit, other_processor, again]) == [[0, 1, 4], [2], [3]]


def test_what_holds_no_runs_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"no results\.jsonl in"):
        read_history([tmp_path])
    assert main([str(tmp_path / "absent"), f"--out={tmp_path / 'page.html'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "there is no folder" in line
    write(tmp_path, run(1))
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write("cut sho")
    assert main([str(tmp_path), f"--out={tmp_path / 'page.html'}"]) == 2
    assert "results.jsonl:26: not JSON" in capsys.readouterr().err


def test_a_page_that_is_not_html_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(RESULTS), f"--out={tmp_path / 'page.txt'}"])
    assert ended.value.code == 2
    assert "allowed: a file that ends in .html" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_published_runs_make_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "folder" / "history.html"
    assert main([str(RESULTS), f"--out={out}"]) == 0
    page = out.read_text()
    assert capsys.readouterr().out.rstrip().endswith(f"open {out}")
    for name in ("quick-amd-epyc", "quick-amd-epyc-repeats/first", "transforms-amd-epyc-avx2", "zoo-amd-epyc"):
        assert f"<td>{name}</td>" in page
    assert "http://" not in page
    assert "https://" not in page
    assert len(page) < 3_000_000


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium is installed")
def test_the_page_draws_series_with_intervals(tmp_path: Path) -> None:
    runs = [
        StoredRun(name=f"run-{number}", rows=run(number, **changes))
        for number, changes in ((1, {}), (2, {"throughput_ci95": None}), (3, {"steady": False}))
    ]
    page = tmp_path / "history.html"
    page.write_text(render_history(runs))
    with Browser() as browser:
        browser.open(page, "scenario=offline&batch=64&variant=fp32")
        browser.run(
            "new Promise((done) => { document.querySelectorAll('.plot').forEach(draw); setTimeout(done, 50); })"
        )
        visible = "[...document.querySelectorAll('figure')].filter((card) => !card.hidden)"
        assert browser.run(f"{visible}.map((card) => card.querySelector('h3').textContent)") == ["offline, batch 64"]
        (trace,) = browser.run(
            f"{visible}[0].querySelector('.plot').data.map(({{x, text, error_y}}) => [x, text, error_y.array])"
        )
        assert trace[0] == [0, 1, 2]
        assert trace[1] == ["", "", "*"]
        assert [array is not None for array in trace[2]] == [True, False, True]
        browser.open(page, width=390, height=800)
        assert browser.run("document.documentElement.scrollWidth") == 390
        assert browser.problems == []
