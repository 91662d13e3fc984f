import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_rows import VALUES

from benchmarks.results import (
    SCHEMA_VERSION,
    SINCE_VERSION_2,
    SINCE_VERSION_3,
    SINCE_VERSION_4,
    ResultWriter,
    Row,
    RowSamples,
    check_row,
    read_row_samples,
    read_rows,
    read_samples,
    write_samples,
)
from recjax.errors import UserError

NO_REASON = "reasons does not say why"


def make_row(**changes: Any) -> Row:
    """Returns a complete row of 10,000 queries, changed as told."""
    return Row(**(VALUES | changes))


CAN_BE_NONE = [field.name for field in dataclasses.fields(Row) if str(field.type).endswith("| None")]


@pytest.mark.parametrize(
    ("version", "lacks"),
    [
        (1, SINCE_VERSION_2 + SINCE_VERSION_3 + SINCE_VERSION_4),
        (2, SINCE_VERSION_3 + SINCE_VERSION_4),
        (3, SINCE_VERSION_4),
    ],
    ids=["1", "2", "3"],
)
def test_rows_of_earlier_versions_have_reasons_for_what_they_lack(
    tmp_path: Path, version: int, lacks: tuple[str, ...]
) -> None:
    values = dataclasses.asdict(make_row()) | {"schema_version": version}
    for name in lacks:
        del values[name]
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(values) + "\n")
    (row,) = read_rows(path)
    check_row(row)
    for name in lacks:
        assert getattr(row, name) is None
        assert row.reasons[name] == "measured before rows had it"
    assert dataclasses.replace(row, reasons={}, **{name: getattr(make_row(), name) for name in lacks}) == (
        dataclasses.replace(make_row(), reasons={})
    )


def test_a_complete_row_passes() -> None:
    check_row(make_row())
    assert {"protocol", "speedup", "peak_memory_bytes", "bound_by"} <= set(CAN_BE_NONE)


@pytest.mark.parametrize("name", CAN_BE_NONE)
def test_none_needs_a_reason(name: str) -> None:
    row = make_row(**{name: None})
    with pytest.raises(ValueError, match=f"^row sasrec/int8/server: {name} is None and {NO_REASON}"):
        check_row(row)
    check_row(dataclasses.replace(row, reasons=row.reasons | {name: "this machine cannot tell"}))


@pytest.mark.parametrize("name", ["quality_retained", "throughput_samples_per_s", "padding_waste", "train_s"])
def test_nan_needs_a_reason(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is nan and {NO_REASON}"):
        check_row(make_row(**{name: float("nan")}))


@pytest.mark.parametrize(
    ("field", "key", "value"),
    [
        ("latency_ms", "p99_9", None),
        ("latency_ms", "ci95_p99", None),
        ("latency_ms", "mean", float("nan")),
        ("quality", "mrr", None),
        ("quality", "ndcg@10", float("nan")),
        ("device", "kind", None),
    ],
)
def test_a_nested_value_needs_a_reason_under_its_own_name(field: str, key: str, value: float | None) -> None:
    row = make_row(**{field: getattr(make_row(), field) | {key: value}})
    with pytest.raises(ValueError, match=f"{field}.{key} is {value} and {NO_REASON}"):
        check_row(row)
    check_row(dataclasses.replace(row, reasons=row.reasons | {f"{field}.{key}": "too few samples"}))


def test_a_nested_nan_of_the_references_needs_a_reason() -> None:
    with pytest.raises(ValueError, match=r"quality_reference.*nan and reasons"):
        check_row(make_row(quality_reference={"random": {"auc": float("nan")}}))


def test_a_nan_bound_of_an_interval_needs_a_reason() -> None:
    with pytest.raises(ValueError, match=r"quality_retained_ci95.* reasons does not say why"):
        check_row(make_row(quality_retained_ci95=[float("nan"), 1.0]))


def test_search_and_report_may_hold_none() -> None:
    check_row(make_row(search={"failed_at_qps": None}, transform_report={"int8": {"why": None}}))


def test_rows_are_on_disk_when_write_returns(tmp_path: Path) -> None:
    writer = ResultWriter(tmp_path / "deep" / "folder")
    assert writer.path == tmp_path / "deep" / "folder" / "results.jsonl"
    assert read_rows(writer.path) == []
    first, second, third = (make_row(batch_size=size) for size in (1, 2, 3))
    writer.write([first])
    assert read_rows(writer.path) == [first]
    writer.write([second, third])
    assert read_rows(writer.path) == [first, second, third]
    assert writer.rows == [first, second, third]


def test_a_row_is_one_line_of_json(tmp_path: Path) -> None:
    writer = ResultWriter(tmp_path)
    writer.write([make_row(dataset="a\nb"), make_row()])
    lines = writer.path.read_text().splitlines()
    assert [json.loads(line)["dataset"] for line in lines] == ["a\nb", "tiny"]
    assert json.loads(lines[0])["schema_version"] == SCHEMA_VERSION


def test_an_incomplete_row_is_refused_and_finished_ones_stay(tmp_path: Path) -> None:
    writer = ResultWriter(tmp_path)
    good = make_row()
    writer.write([good])
    with pytest.raises(ValueError, match="slo_ms is None"):
        writer.write([good, make_row(slo_ms=None)])
    assert read_rows(writer.path) == writer.rows == [good, good]


def test_an_earlier_runs_files_are_kept_aside_once_there_is_a_row_to_replace_them(tmp_path: Path) -> None:
    for number in (1, 2):
        ResultWriter(tmp_path).write([make_row(case=f"run {number}")])
        (tmp_path / "report.md").write_text(f"report {number}")
    (tmp_path / "report.html").write_text("only of run 2")
    assert [row.case for row in read_rows(tmp_path / "previous-1" / "results.jsonl")] == ["run 1"]
    ResultWriter(tmp_path)  # a run that ended before its first row
    assert [row.case for row in read_rows(tmp_path / "results.jsonl")] == ["run 2"]
    assert (tmp_path / "report.html").exists()
    ResultWriter(tmp_path).write([make_row(case="run 3")])
    assert [row.case for row in read_rows(tmp_path / "results.jsonl")] == ["run 3"]
    assert [row.case for row in read_rows(tmp_path / "previous-1" / "results.jsonl")] == ["run 1"]
    previous = tmp_path / "previous-2"
    assert [row.case for row in read_rows(previous / "results.jsonl")] == ["run 2"]
    assert (previous / "report.md").read_text() == "report 2"
    assert (previous / "report.html").read_text() == "only of run 2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["previous-1", "previous-2", "results.jsonl"]


def test_the_newest_run_kept_aside_has_the_highest_number_even_if_one_was_deleted(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        ResultWriter(tmp_path).write([make_row(case=f"run {number}")])
    (tmp_path / "previous-1" / "results.jsonl").unlink()
    (tmp_path / "previous-1").rmdir()
    (tmp_path / "previous-9-of-mine").mkdir()
    ResultWriter(tmp_path).write([make_row(case="run 4")])
    assert [row.case for row in read_rows(tmp_path / "previous-3" / "results.jsonl")] == ["run 3"]


def test_a_new_run_replaces_the_rows_of_an_earlier_one(tmp_path: Path) -> None:
    for case in ("old", "new"):
        ResultWriter(tmp_path).write([make_row(case=case)])
    assert [row.case for row in read_rows(tmp_path / "results.jsonl")] == ["new"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r":2: not JSON \(.*\); expected one result row a line"),
        ("", r":2: not JSON"),
        ("[1]", ":2: not a result row of schema version 1"),
        ('{"schema_version": 6}', ":2: not a result row of schema version 1 to 5"),
        ('{"run_id": "r"}', ":2: not a result row of schema version 1"),
    ],
)
def test_a_line_that_is_no_row_is_refused_with_its_number(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(dataclasses.asdict(make_row())) + f"\n{line}\n")
    with pytest.raises(UserError, match=message) as caught:
        read_rows(path)
    assert str(caught.value).startswith(f"{path}:2: ")


def test_missing_and_unknown_fields_are_named(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    values = dataclasses.asdict(make_row()) | {"colour": "red"}
    del values["slo_ms"]
    path.write_text(json.dumps(values) + "\n")
    with pytest.raises(UserError, match=":1: missing or unknown fields: colour, slo_ms"):
        read_rows(path)


def test_samples_come_back_by_window_and_process(tmp_path: Path) -> None:
    windows = [np.array([1.0, 2.0], np.float32), np.array([3.0], np.float32), np.array([], np.float32)]
    write_samples(tmp_path / "samples.npz", {"a/server/8": RowSamples(windows, [0, 0, 1])})
    again = read_row_samples(tmp_path / "samples.npz")["a/server/8"]
    assert [window.tolist() for window in again.windows_ms] == [[1.0, 2.0], [3.0], []]
    assert again.processes == [0, 0, 1]
    assert read_samples(tmp_path / "samples.npz")["a/server/8"].tolist() == [1.0, 2.0, 3.0]


def test_samples_from_before_there_were_windows_are_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", key=np.array([1.0, 2.0]))
    row = read_row_samples(tmp_path / "samples.npz")["key"]
    assert ([window.tolist() for window in row.windows_ms], row.processes) == ([[1.0, 2.0]], [0])
