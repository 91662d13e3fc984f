"""The rows as a flat table."""

import csv
import dataclasses
from pathlib import Path

from invented_run import make_rows

from benchmarks.report_csv import COLUMNS, write_csv
from benchmarks.results import read_rows

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "benchmarks" / "results" / "quick-amd-epyc" / "results.jsonl"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_line_a_row_with_its_figures(tmp_path: Path) -> None:
    rows, _ = make_rows()
    invalid = dataclasses.replace(rows[0], valid=False, invalid_reason='it "leaks", badly')
    write_csv([invalid, *rows[1:]], tmp_path / "results.csv")
    lines = read(tmp_path / "results.csv")
    assert len(lines) == len(rows)
    first, server = lines[0], lines[4]
    assert first["experiment"] == "sasrec"
    assert first["variant"] == "fp32"
    assert first["platform"] == "cpu"
    assert first["device_kind"] == "Some CPU (2 cores)"
    assert (first["valid"], first["invalid_reason"]) == ("False", 'it "leaks", badly')
    assert float(first["quality"]) == 0.0599
    assert [float(first[f"quality_retained{end}"]) for end in ("", "_low", "_high")] == [0.987, 0.961, 1.012]
    assert float(first["p99_ms"]) == rows[0].latency_ms["p99"]
    assert [float(first["p50_ms_low"]), float(first["p50_ms_high"])] == rows[0].latency_ms["ci95_p50"]
    assert (first["compute_ms"], first["queue_ms"], first["send_lag_ms"]) == ("2.0", "0.5", "")
    assert (first["samples_per_s_low"], first["samples_per_s_high"]) == ("95.0", "105.0")
    assert (first["speedup"], first["speedup_low"]) == ("2.314", "")
    assert (first["server_rate_qps"], first["limit_ms"]) == ("", "")
    assert (server["server_rate_qps"], server["limit_ms"], server["failed_at_qps"]) == ("1234.5", "20.0", "1500.0")
    assert first["energy_j_per_1k_samples"] == ""
    assert first["commit"] == "c" * 40


def test_older_rows_have_the_same_columns(tmp_path: Path) -> None:
    rows = read_rows(PUBLISHED)
    write_csv(rows, tmp_path / "results.csv")
    lines = read(tmp_path / "results.csv")
    assert len(lines) == len(rows)
    assert list(lines[0]) == list(COLUMNS)
    assert {line["steady"] for line in lines} == {""}


def test_every_column_is_documented() -> None:
    text = (ROOT / "docs" / "report.md").read_text()
    missing = [name for name in COLUMNS if f"`{name}`" not in text]
    assert missing == []
