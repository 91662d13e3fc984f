"""Steps on large tables: the command line, the ids, the turns, and one tiny run."""

import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from assertions import assert_one_line

from benchmarks import table_steps
from benchmarks.large_tables import main, parse_arguments
from benchmarks.table_contestants import (
    PLAIN,
    Contestant,
    LookupsOnly,
    draw_batches,
    jax_contestant,
    schema_of,
    spread_ids,
)
from benchmarks.table_steps import Sizes, StepRow, render, run_large_tables
from benchmarks.torch_tables import missing_torch, torch_contestant

CPU = jax.devices("cpu")[0]
TINY = Sizes(batch_size=4, stand_in_rows=50, small_rows=50, large_rows=200, dim=4, rounds=2, steps=2)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--rows=0", "--rows=0 is too small; allowed: 1 or more"),
        ("--batch-size=-1", "--batch-size=-1 is too small; allowed: 1 or more"),
        ("--memory-gb=0", "--memory-gb=0 is too small; allowed: above 0"),
        ("--rows=150000", "--rows=150000 is no multiple of --small-rows=100000; allowed: 100000 times a whole number"),
        ("--part=both", "argument --part: invalid choice: 'both' (choose from"),
    ],
)
def test_unusable_arguments_are_one_line(argument: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        parse_arguments([argument])
    assert exited.value.code == 2
    assert_one_line(capsys.readouterr().err, message, "see python -m benchmarks.large_tables --help")


def test_an_unknown_device_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--device=cpus", f"--out={tmp_path / 'out'}"]) == 2
    assert_one_line(capsys.readouterr().err, "unknown device 'cpus'")
    assert not (tmp_path / "out").exists()


def test_spread_ids_touch_as_many_rows_and_other_ones_in_every_batch() -> None:
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 50, (8, 3)) for _ in range(4)]
    spread = spread_ids(ids, 50, 50_000, 1)
    for before, after in zip(ids, spread, strict=True):
        np.testing.assert_array_equal(after % 50, before)
        assert len(np.unique(after)) == len(np.unique(before))
    assert max(batch.max() for batch in spread) > 40_000
    assert len(np.intersect1d(spread[0], spread[1])) < 5


@pytest.mark.parametrize("kind", ["dense", PLAIN, "rowwise_adagrad"])
def test_a_contestant_steps_through_its_batches(kind: str) -> None:
    schema = schema_of(1, 2_000, 3)
    ids = [np.array([[1, 2, 3], [4, 5, 6]]), np.array([[7, 8, 9], [1, 1, 1]])]
    build = functools.partial(LookupsOnly, embedding_dim=4)
    contestant = jax_contestant(kind, build, schema, draw_batches(2, ids, 0))
    for _ in range(3):
        contestant.step()
    slots = {"dense": 2 * 4, PLAIN: 2 * 4, "rowwise_adagrad": 1}[kind]
    assert contestant.state_bytes == pytest.approx(2_000 * 4 * (4 + slots), rel=0.01)
    assert contestant.compile_s > 0


def test_turns_keep_every_sample_and_compare_with_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], []

    def contestant(name: str, ms: float) -> Contestant:
        def step() -> None:
            calls.append(name)
            clock[0] += ms / 1e3

        return Contestant(name=name, step=step)

    monkeypatch.setattr("benchmarks.table_steps.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("benchmarks.table_steps.time.process_time", lambda: clock[0] / 2)
    makers = [lambda: contestant("a", 10.0), lambda: contestant("b", 12.0)]
    (a, of_a), (b, of_b) = table_steps._take_turns("t", makers, TINY)
    assert calls.count("a") == calls.count("b") == 2 * (1 + 2)  # one untimed step a turn
    np.testing.assert_allclose(of_a[0], np.full((2, 2), 10.0))
    np.testing.assert_allclose(of_b[1], np.full((2, 2), 6.0))
    first = table_steps._row(a, of_a, of_a, "a", "a", workload="w", tables="t")
    second = table_steps._row(b, of_b, of_a, "b", "a", workload="w", tables="t")
    assert first.ratio is None
    assert second.ratio is not None
    assert second.ratio["median"] == pytest.approx(1.2)
    assert second.cpu_ratio == pytest.approx(1.2)
    environment = {
        "device": "d",
        "versions": {"jax": "1"},
        "git": {"commit": "abc", "modified": True},
        "sizes": {"batch_size": 4, "rounds": 2, "steps": 2},
        "glibc_tunables": None,
    }
    absent = StepRow(workload="w", tables="t", optimizer="torch", reason="not installed")
    rows = [StepRow(**(vars(row) | {"environment": environment})) for row in (first, second, absent)]
    text = render(rows)
    assert "| w | t | b | 12.0 | 12.0 to 12.0 | a | 1.20 | 1.20 to 1.20 | 1.20 |" in text
    assert "- torch: not installed" in text
    assert "Commit: abc and changes" in text


@pytest.mark.slow
def test_a_tiny_run_writes_rows_and_a_report(tmp_path: Path) -> None:
    assert run_large_tables(TINY, ("scaling",), CPU, tmp_path) == 0
    rows = [StepRow(**json.loads(line)) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row.tables for row in rows] == ["1 x 50 x 4", "1 x 200 x 4"] * 9
    assert all(np.shape(row.step_ms) == (2, 2) for row in rows)
    assert all((row.ratio is None) == ("1 x 50 x" in row.tables) for row in rows)
    assert "lookups only" in (tmp_path / "report.md").read_text()


def test_torch_takes_part_or_says_why_not() -> None:
    reason = missing_torch()
    if reason is not None:
        assert reason == "PyTorch is not installed (the extra `peers` has it)"
        return
    schema = schema_of(2, 50, 1)
    ids = [np.random.default_rng(0).integers(0, 50, (4, 2))]
    torch_contestant(schema, draw_batches(1, ids, 0)).step()
