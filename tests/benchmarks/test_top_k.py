import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from assertions import assert_one_line

from benchmarks import top_k_timing
from benchmarks.top_k import main, parse_arguments
from benchmarks.top_k_timing import METHODS, Size, TopKRow, measure, recall, run_sizes, table_lines

CPU = jax.devices("cpu")[0]
ENVIRONMENT = {"device": "d", "versions": {"jax": "1"}, "git": {"commit": "abc", "modified": False}}
SMALL = ["--items=300,700", "--batches=3", "--k=5", "--dim=4", "--window=0.001"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("top_k")
    sizes = [Size(items=items, batch=3, k=5, dim=4) for items in (300, 700)]
    assert run_sizes(sizes, CPU, 0.9, 0.001, folder) == 0
    return folder


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[TopKRow]:
    return [TopKRow(**json.loads(line)) for line in (folder / "top_k.jsonl").read_text().splitlines()]


def row(method: str, **changes: Any) -> TopKRow:
    values: dict[str, Any] = {
        "method": method,
        "items": 1000,
        "batch": 4,
        "k": 10,
        "dim": 8,
        "latency_ms": [1.0],
        "median_ms": 1.0,
        "over_exact": None if method == "exact" else 0.5,
        "recall": None if method == "maximum" else 1.0,
        "recall_target": 0.95 if method == "approximate" else None,
        "environment": ENVIRONMENT,
    }
    return TopKRow(**(values | changes))


def test_every_method_has_a_row_at_every_size(rows: list[TopKRow]):
    assert [(r.items, r.method) for r in rows] == [(items, method) for items in (300, 700) for method in METHODS]
    assert {len(r.latency_ms) for r in rows if r.items == 300} == {len(rows[0].latency_ms)}
    assert all(min(r.latency_ms) > 0 and len(r.latency_ms) >= top_k_timing.FEWEST_ROUNDS for r in rows)


def test_two_stages_find_what_one_sort_does_and_the_approximate_one_its_target(rows: list[TopKRow]):
    recalls = {r.method: r.recall for r in rows if r.items == 700}
    assert recalls["maximum"] is None
    assert recalls["exact"] == recalls["two_stage"] == 1
    assert recalls["approximate"] >= 0.9


def test_the_report_holds_the_table_and_what_it_was_had_under(rows: list[TopKRow], folder: Path):
    text = (folder / "top_k.md").read_text()
    assert text == top_k_timing.render(rows)
    for part in (f"jax {jax.__version__}", "| 300 | 3 | 5 |", "| 700 | 3 | 5 |", "4 dimensions"):
        assert part in text


def test_a_line_of_the_table_by_hand():
    exact, staged = row("exact", median_ms=12.34), row("two_stage", median_ms=4.0, over_exact=0.25)
    (line,) = table_lines([row("maximum"), exact, staged, row("approximate", recall=0.9666)])
    assert line == ("1,000", "4", "10", "1", "12.3", "4", "1", "4.00", "0.967")


def test_recall_by_hand():
    assert recall(np.array([[1, 2, 3], [4, 5, 6]]), np.array([[3, 2, 9], [4, 5, 6]])) == 5 / 6


def test_an_interruption_keeps_finished_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = measure

    def second_is_interrupted(size: Size, *others: Any) -> list[TopKRow]:
        if size.items == 700:
            raise KeyboardInterrupt
        return real(size, *others)

    monkeypatch.setattr(top_k_timing, "measure", second_is_interrupted)
    sizes = [Size(items=items, batch=3, k=5, dim=4) for items in (300, 700)]
    assert run_sizes(sizes, CPU, 0.9, 0.001, tmp_path) == 130
    assert len((tmp_path / "top_k.jsonl").read_text().splitlines()) == len(METHODS)
    assert "| 300 |" in (tmp_path / "top_k.md").read_text()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--items=many", "argument --items: 'many'; allowed: whole numbers from 1 on, as in 1,64"),
        ("--batches=1,0", "argument --batches: '1,0'; allowed: whole numbers from 1 on, as in 1,64"),
        ("--dim=0", "--dim=0; allowed: 1 or more"),
        ("--recall-target=1.5", "--recall-target=1.5; allowed: above 0, at most 1"),
        ("--window=0", "--window=0; allowed: above 0"),
        ("--k=400", "--k has 400 and --items 300; allowed: no k above any catalogue"),
    ],
)
def test_unusable_arguments(argument: str, message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exited:
        parse_arguments([*SMALL, argument])
    assert exited.value.code == 2
    assert capsys.readouterr().err == f"error: {message}; see python -m benchmarks.top_k --help\n"


def test_unusable_devices_and_folders_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([*SMALL, "--device=cpus"]) == 2
    assert_one_line(capsys.readouterr().err, "unknown device 'cpus'")
    (tmp_path / "file").write_text("")
    assert main([*SMALL, f"--out={tmp_path / 'file'}"]) == 2
    assert_one_line(capsys.readouterr().err, "cannot make the output folder")
