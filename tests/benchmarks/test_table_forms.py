import json
from pathlib import Path

import jax
import pytest
from assertions import assert_help_is_light, assert_one_line

from benchmarks import table_forms_timing
from benchmarks.table_forms import main, parse_arguments
from benchmarks.table_forms_timing import FormRow, Size, run_sizes, table_lines

CPU = jax.devices("cpu")[0]
FORMS = (
    "fp32",
    "bf16",
    "fp16",
    "int8",
    "int4",
    "hash",
    "quotient_remainder",
    "mixed_dimension",
    "tensor_train",
    "prune_rows",
)
SIZES = (
    Size(work="lookup", rows=1000, dim=8, batch=5, bag=2, ids="uniform"),
    Size(work="lookup", rows=1000, dim=8, batch=5, bag=2, ids="zipf"),
    Size(work="scores", rows=1000, dim=8, batch=3),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table_forms")
    assert run_sizes(SIZES, CPU, 3, folder) == 0
    return folder


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[FormRow]:
    return [FormRow(**json.loads(line)) for line in (folder / "table_forms.jsonl").read_text().splitlines()]


def test_every_form_has_a_row_at_every_size(rows: list[FormRow]):
    expected = [(size.work, size.batch, size.ids, form) for size in SIZES for form in FORMS]
    assert [(r.work, r.batch, r.ids, r.form) for r in rows] == expected
    assert {len(r.latency_ms) for r in rows} == {3}
    assert all((r.over_float32 is None) == (r.form == "fp32") for r in rows)


def test_bytes_are_those_of_the_forms(rows: list[FormRow]):
    stored = {r.form: r.stored_bytes for r in rows}
    assert stored["fp32"] == 1000 * 8 * 4
    assert stored["bf16"] == stored["fp16"] == 1000 * 8 * 2
    assert stored["int8"] == 1000 * (8 + 4) + 4
    assert stored["int4"] == 1000 * (4 + 4) + 4
    assert stored["hash"] == 100 * 8 * 4
    assert stored["prune_rows"] == 101 * 8 * 4 + 1000 * 4
    assert all(r.bytes_over_float32 == r.stored_bytes / 32_000 for r in rows)


def test_the_page_has_a_line_a_row_and_says_what_was_done(folder: Path, rows: list[FormRow]):
    page = (folder / "table_forms.md").read_text()
    assert "1,000 rows of 8" in page
    assert page.count("\n| lookup") == 2 * len(FORMS)
    line = table_lines([rows[3]])[0]
    assert line[:7] == ("lookup", "5", "2", "uniform", "int8", "0.0", "37.5%")
    assert line[8] == f"{rows[3].over_float32:.2f}"


def test_an_interruption_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    measure, done = table_forms_timing.measure, []

    def interrupted(size: Size, *rest: object) -> list[FormRow]:
        if done:
            raise KeyboardInterrupt
        done.append(size)
        return measure(size, *rest)

    monkeypatch.setattr(table_forms_timing, "measure", interrupted)
    assert run_sizes(SIZES, CPU, 3, tmp_path) == 130
    assert len((tmp_path / "table_forms.jsonl").read_text().splitlines()) == len(FORMS)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--rows=10", "--rows=10; allowed: 1000 or more"),
        ("--dim=7", "--dim=7; allowed: even numbers"),
        ("--rounds=1", "--rounds=1; allowed: 3 or more"),
        ("--bags=0", "'0'; allowed: whole numbers from 1 on, as in 1,26"),
        ("--queries=x", "'x'; allowed: whole numbers"),
    ],
)
def test_unusable_arguments_exit_with_one_line(argument: str, message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as error:
        parse_arguments([argument])
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_an_unknown_device_exits_with_one_line(capsys: pytest.CaptureFixture[str]):
    assert main(["--device=abacus"]) == 2
    assert_one_line(capsys.readouterr().err)


def test_help_loads_nothing_heavy():
    assert_help_is_light("benchmarks.table_forms", "--bags")
