from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from assertions import assert_one_line

from benchmarks import crossover_timing
from benchmarks.crossover_timing import PAGE, ROWS, CrossoverRow, Size, measure, render, run_sizes, table_lines
from benchmarks.sparse_crossover import main, parse_arguments
from benchmarks.stored import read_stored
from recjax.nn.dots import SPARSE_ROUTINE

CPU = jax.devices("cpu")[0]
SIZES = [Size(width=16, batch=batch) for batch in (1, 4)]
DENSITIES = (0.5, 0.1)
ENVIRONMENT = {"device": "d", "cpu": "c", "versions": {"jax": "1"}, "git": {"commit": "abc", "modified": False}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crossover")
    assert run_sizes(SIZES, DENSITIES, CPU, 0.001, folder) == 0
    return folder


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[CrossoverRow]:
    return read_stored(folder / ROWS, CrossoverRow, "benchmarks.sparse_crossover")


def row(method: str, density: float | None = None, **changes: Any) -> CrossoverRow:
    values: dict[str, Any] = {
        "method": method,
        "density": density,
        "width": 256,
        "batch": 4,
        "latency_ms": [1.0],
        "median_ms": 1.0,
        "speedup": 1.0,
        "load_1m": 0.5,
        "environment": ENVIRONMENT,
    }
    return CrossoverRow(**(values | changes))


def test_every_method_has_a_row_at_every_size(rows: list[CrossoverRow]):
    methods = [("float32", None), ("int8", None), ("sparse", 0.5), ("sparse", 0.1)]
    assert [(r.batch, r.method, r.density) for r in rows] == [
        (batch, *method) for batch in (1, 4) for method in methods
    ]
    assert {len(r.latency_ms) for r in rows if r.batch == 1} == {len(rows[0].latency_ms)}
    assert all(min(r.latency_ms) > 0 and len(r.latency_ms) >= crossover_timing.FEWEST_ROUNDS for r in rows)
    assert {r.speedup for r in rows if r.method == "float32"} == {1.0}


def test_what_is_timed_is_what_the_methods_are_called():
    size = Size(width=16, batch=4)
    x, kernel = crossover_timing._drawn(size)
    np.testing.assert_allclose(crossover_timing._product(size, None)(), np.asarray(x) @ kernel, rtol=1e-5, atol=1e-5)
    # Sixteen products, each of values rounded to 1 / 127 of their largest.
    expected = np.asarray(x) @ kernel
    np.testing.assert_allclose(crossover_timing._int8_product(size)(), expected, atol=2 / 127 * np.abs(expected).max())
    program = crossover_timing._product(size, 0.1).func.as_text()  # type: ignore[attr-defined]
    assert SPARSE_ROUTINE in program
    assert "s8[" in crossover_timing._int8_product(size).func.as_text()  # type: ignore[attr-defined]


def test_the_page_holds_the_table_and_what_it_was_had_under(rows: list[CrossoverRow], folder: Path):
    text = (folder / PAGE).read_text()
    assert text == render(rows)
    for part in (f"jax {jax.__version__}", "| 16 | 1 |", "| 16 | 4 |", "| int8 | sparse 0.5 | sparse 0.1 |", "Load "):
        assert part in text


def test_a_line_of_the_table_by_hand():
    rows = [row("float32", median_ms=12.34), row("int8", speedup=2.345), row("sparse", 0.1, speedup=0.5)]
    header, lines = table_lines(rows)
    assert header == ["width", "batch", "float32 ms", "int8", "sparse 0.1"]
    assert lines == [["256", "4", "12.3", "2.35", "0.50"]]


def test_an_interruption_keeps_finished_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = measure

    def second_is_interrupted(size: Size, *others: Any) -> list[CrossoverRow]:
        if size.batch == 4:
            raise KeyboardInterrupt
        return real(size, *others)

    monkeypatch.setattr(crossover_timing, "measure", second_is_interrupted)
    assert run_sizes(SIZES, DENSITIES, CPU, 0.001, tmp_path) == 130
    assert len(read_stored(tmp_path / ROWS, CrossoverRow, "c")) == 4
    assert "| 16 | 1 |" in (tmp_path / PAGE).read_text()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--widths=many", "argument --widths: 'many'; allowed: whole numbers from 1 on, as in 1,64"),
        ("--batches=1,0", "argument --batches: '1,0'; allowed: whole numbers from 1 on, as in 1,64"),
        ("--densities=1", "argument --densities: '1'; allowed: numbers above 0 and below 1, as in 0.5,0.1"),
        ("--densities=half", "argument --densities: 'half'; allowed: numbers above 0 and below 1, as in 0.5,0.1"),
        ("--window=0", "--window=0; allowed: above 0"),
    ],
)
def test_unusable_arguments(argument: str, message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exited:
        parse_arguments([argument])
    assert exited.value.code == 2
    assert capsys.readouterr().err == f"error: {message}; see python -m benchmarks.sparse_crossover --help\n"


def test_an_unusable_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").write_text("")
    assert main([f"--out={tmp_path / 'file'}"]) == 2
    assert_one_line(capsys.readouterr().err, "cannot make the output folder")
