"""Stored rows shown again, on the rows that the repository holds."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.show import main

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PUBLISHED = RESULTS / "quick-intel-xeon-amx"


def without_trailing_blanks(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.splitlines())


def test_the_table_in_the_readme_is_that_of_the_published_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(PUBLISHED)]) == 0
    table = without_trailing_blanks(capsys.readouterr().out)
    assert table.count("\n") > 30
    assert f"```\n{table}\n```" in (ROOT / "README.md").read_text()


def test_every_published_run_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    runs = sorted(map(str, RESULTS.glob("quick-[ai]*/*.jsonl")))
    assert len(runs) >= 5
    assert main(runs) == 0
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line.endswith(".jsonl")] == runs


@pytest.mark.parametrize(
    "name",
    [
        "quick-intel-xeon-amx",
        "quick-intel-xeon-amx-disturbed",
        "quick-amd-epyc",
        "quick-amd-epyc-jax-0.10",
        "zoo-amd-epyc",
    ],
)
def test_the_report_made_again_is_the_one_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run = RESULTS / name
    assert main([str(run), f"--out={tmp_path / 'again'}"]) == 0
    assert (tmp_path / "again" / "report.md").read_text() == (run / "report.md").read_text()
    assert capsys.readouterr().out.splitlines()[-1] == f"open {tmp_path / 'again' / 'report.html'}"


def test_latencies_beside_the_rows_are_drawn(tmp_path: Path) -> None:
    rows = (PUBLISHED / "results.jsonl").read_text()
    pages = []
    for name, latency_ms in (("short", 1.0), ("long", 2.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.jsonl").write_text(rows)
        samples = {"sasrec/fp32/single_stream/1": np.full(2000, latency_ms, np.float32)}
        np.savez_compressed(tmp_path / name / "samples.npz", **samples)
        assert main([str(tmp_path / name), f"--out={tmp_path / name}"]) == 0
        pages.append((tmp_path / name / "report.html").read_text())
    assert pages[0] != pages[1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, "there are no rows at"),
        (b"", "is empty: its run was stopped before the first row"),
        (b"\xff\xfe\x00", ":1: not JSON"),
        (b"[1]", ":1: not a result row of schema version"),
    ],
)
def test_what_holds_no_rows_is_one_line(
    rows: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if rows is not None:
        (tmp_path / "results.jsonl").write_bytes(rows)
    out = tmp_path / "out"
    assert main([str(tmp_path), f"--out={out}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not out.exists()


@pytest.mark.parametrize("content", [b"no zip", b"PK\x03\x04 cut short", b""])
def test_unreadable_latencies_are_one_line(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results.jsonl").write_bytes((PUBLISHED / "results.jsonl").read_bytes())
    (tmp_path / "samples.npz").write_bytes(content)
    assert main([str(tmp_path), f"--out={tmp_path}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds no latency samples" in line


def test_two_runs_make_one_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(PUBLISHED), str(RESULTS / "quick-amd-epyc")]
    assert main([*runs, f"--out={tmp_path}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"open {tmp_path / 'report.html'}"
    page = (tmp_path / "report.html").read_text()
    assert "<h2>sasrec on AMD EPYC (2 cores)</h2>" in page
    assert "<h2>sasrec on Intel(R) Xeon(R) Processor (2 cores, AMX)</h2>" in page
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 1 + 2 * 84


def test_latencies_beside_a_file_of_another_name_are_of_other_rows(tmp_path: Path) -> None:
    (tmp_path / "first.jsonl").write_bytes((PUBLISHED / "results.jsonl").read_bytes())
    (tmp_path / "samples.npz").write_bytes(b"no zip")  # it would be refused
    assert main([str(tmp_path / "first.jsonl"), f"--out={tmp_path / 'report'}"]) == 0
