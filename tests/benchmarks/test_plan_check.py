"""Predictions for this device beside what it does."""

import dataclasses
from pathlib import Path

import jax
import pytest
from assertions import assert_help_is_light, assert_one_line
from config_files import write_config

from benchmarks import plan_check_timing
from benchmarks.plan_check import CASES, main, parse_arguments
from benchmarks.plan_check_page import BEGIN, END, check_page, render, table_line, write_page
from benchmarks.plan_check_timing import (
    HIDDEN,
    UNCOUNTED,
    PlanCheckRow,
    ReadyProgram,
    check_row,
    chip_here,
    held_at_most,
    higher,
)
from benchmarks.stored import read_stored
from recjax.config_files import load_config
from recjax.errors import UserError
from recjax.hardware.ceilings import Ceilings
from recjax.hardware.program_costs import ProgramCosts

ROOT = Path(__file__).parents[2]
CEILINGS = Ceilings({"float32": 1e9, "bfloat16": 2e9, "int8": 4e9}, 1e10)
COSTS = ProgramCosts(
    argument_bytes=100,
    output_bytes=20,
    alias_bytes=10,
    temporary_bytes=5,
    code_bytes=1,
    flops={"float32": 3e6, "int8": 4e6},
    xla_flops=7e6,
    traffic_bytes=20_000_000,
    collective_bytes={},
    loops_counted_once=False,
)
READY = ReadyProgram(
    experiment="a",
    config="configs/a.py",
    program="serve",
    samples=8,
    costs=COSTS,
    call=lambda: None,
    measured_memory_bytes=None,
    no_memory="it is an example",
)


@pytest.fixture(scope="module")
def run(ratings_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[PlanCheckRow]]:
    """Returns the folder and the rows of one small model; its ceilings are not measured, which takes seconds."""
    folder = tmp_path_factory.mktemp("plan_check")
    config = write_config(folder, ratings_file)
    page = folder / "page.md"
    page.write_text(f"# A page\n\n{BEGIN}\nold\n{END}\n\nIts end.\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_check_timing, "measure_ceilings", lambda device: CEILINGS)
        arguments = [f"--config={config}", "--rounds=20", f"--out={folder}", f"--page={page}"]
        assert main([*arguments, "--set", "serving.buckets=8,16"]) == 0
    return folder, read_stored(folder / "plan_check.jsonl", PlanCheckRow, "benchmarks.plan_check")


def test_a_training_step_and_an_answer_are_predicted_and_timed(run: tuple[Path, list[PlanCheckRow]]) -> None:
    train, serve = run[1]
    assert [(row.program, row.samples) for row in (train, serve)] == [("train", 64), ("serve", 16)]
    for row in (train, serve):
        assert len(row.latency_ms) == 20
        assert min(row.latency_ms) <= row.median_ms <= max(row.latency_ms)
        assert row.predicted_ms == pytest.approx(1e3 * row.estimate["step_s"])
        assert row.over_predicted == pytest.approx(row.median_ms / row.predicted_ms)
        assert row.estimate["memory_s"] == pytest.approx(row.costs["traffic_bytes"] / CEILINGS.bytes_per_s)
        assert row.overrides == ["serving.buckets=8,16"]
        assert row.reasons == {"measured_memory_bytes": UNCOUNTED}
        assert row.costs["collective_bytes"] == {}
        assert {"device", "load", "versions", "git"} <= set(row.environment)
    assert train.predicted_memory_bytes > serve.predicted_memory_bytes  # AdamW has two moments of every parameter


def test_the_page_has_the_table_in_its_place_and_the_rest_as_it_was(run: tuple[Path, list[PlanCheckRow]]) -> None:
    folder, rows = run
    assert (folder / "page.md").read_text() == f"# A page\n\n{BEGIN}\n\n{render(rows)}\n\n{END}\n\nIts end.\n"
    write_page(folder / "page.md", rows[:1])
    assert "| serve |" not in (folder / "page.md").read_text()
    assert (folder / "page.md").read_text().endswith(f"{END}\n\nIts end.\n")


def test_a_prediction_is_that_of_the_slowest_measured_ceiling() -> None:
    chip = chip_here("a CPU", "cpu", CEILINGS, 1 << 30)
    row = check_row(READY, [5.0, 4.0, 30.0], [], chip, {})
    assert row.estimate["compute_s"] == pytest.approx(3e6 / 1e9 + 4e6 / 4e9)
    assert row.predicted_ms == pytest.approx(4.0)  # and of memory 2 ms
    assert row.bound_by == "compute"
    assert row.median_ms == 5.0
    assert row.over_predicted == pytest.approx(1.25)
    assert row.predicted_memory_bytes == 100 + 20 - 10 + 5 + 1
    assert table_line(row)[3:8] == ("compute", "4", "5", "4 to 30", "1.25")
    assert set(chip.sources.values()) == {"recjax.hardware.ceilings.measure_ceilings, on this device"}


def test_products_without_a_ceiling_leave_no_prediction() -> None:
    costs = dataclasses.replace(COSTS, flops={"float64": 1.0})
    row = check_row(
        dataclasses.replace(READY, costs=costs), [5.0], [], chip_here("a CPU", "cpu", CEILINGS, 1 << 30), {}
    )
    assert (row.predicted_ms, row.over_predicted, row.bound_by) == (None, None, None)
    assert row.reasons["predicted_ms"] == "no published peak of a CPU for products of float64"
    assert table_line(row)[3:5] == ("–", "–")


def test_of_two_measurements_the_higher_ceiling_counts() -> None:
    other = Ceilings({"float32": 3e9, "bfloat16": 1e9, "int8": 4e9}, 5e9)
    assert higher(CEILINGS, other) == Ceilings({"float32": 3e9, "bfloat16": 2e9, "int8": 4e9}, 1e10)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, None, (None, UNCOUNTED)),
        ({"bytes_in_use": 10, "peak_bytes_in_use": 50}, {"bytes_in_use": 20, "peak_bytes_in_use": 50}, (None, HIDDEN)),
        ({"bytes_in_use": 10, "peak_bytes_in_use": 50}, {"bytes_in_use": 20, "peak_bytes_in_use": 70}, (60, None)),
    ],
)
def test_memory_is_measured_where_the_peak_is_the_programs(
    before: dict[str, int] | None, after: dict[str, int] | None, expected: tuple[int | None, str | None]
) -> None:
    assert held_at_most(before, after) == expected


def test_this_cpu_keeps_no_count_of_its_memory() -> None:
    assert held_at_most(jax.devices("cpu")[0].memory_stats(), jax.devices("cpu")[0].memory_stats()) == (None, UNCOUNTED)


@pytest.mark.parametrize("text", ["no place", f"{END}\n{BEGIN}", f"{BEGIN}\n{BEGIN}\n{END}"])
def test_a_page_without_a_place_for_the_table_is_refused_before_anything_runs(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "page.md").write_text(text)
    assert main([f"--page={tmp_path / 'page.md'}", f"--out={tmp_path / 'out'}"]) == 2
    assert_one_line(capsys.readouterr().err, "has no place for the table; put <!-- plan_check: begin -->")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="cannot be read: No such file"):
        check_page(tmp_path / "missing.md")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds=5"], "--rounds=5; allowed: 20 or more"),
        (["--set", "a.b=1"], "--set is for the experiment of --config, and there is none"),
    ],
)
def test_unusable_arguments_exit_with_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        parse_arguments(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("path", "overrides"), CASES)
def test_the_default_cases_can_be_loaded(path: str, overrides: tuple[str, ...]) -> None:
    assert load_config(ROOT / path, overrides).dataset.source in ("movielens-latest-small", "synthetic-dlrm-v2")


def test_the_table_in_the_documentation_is_that_of_the_stored_rows() -> None:
    (stored,) = (ROOT / "benchmarks" / "results").glob("plan-check-*/plan_check.jsonl")
    rows = read_stored(stored, PlanCheckRow, "benchmarks.plan_check")
    assert f"{BEGIN}\n\n{render(rows)}\n\n{END}" in (ROOT / "docs" / "planning.md").read_text()


def test_help_loads_nothing_heavy() -> None:
    assert_help_is_light("benchmarks.plan_check", "--page")
