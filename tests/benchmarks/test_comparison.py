import dataclasses

import numpy as np
import pytest
from compared_runs import draw_samples, make_row, make_run, run_of

from benchmarks.comparison import Compared, Comparison, compare_runs
from benchmarks.figure_tests import Figure
from benchmarks.results import RowSamples
from recjax.load.checks import window_fault
from recjax.load.window import Window

CASES = [f"model_{number:02}/fp32" for number in range(20)]


def runs_of(seed: int, slowdown: float, **drawn: float) -> tuple:
    rng = np.random.default_rng(seed)
    return tuple(
        make_run(name, {case: draw_samples(rng, factor, **drawn) for case in CASES})
        for name, factor in (("A", 1.0), ("B", slowdown))
    )


@pytest.mark.parametrize("paired", [False, True])
def test_twenty_rows_that_are_a_tenth_slower_are_all_found_and_twenty_equal_ones_are_not(paired: bool) -> None:
    same, slower, faster = (compare_runs(*runs_of(0, factor), paired=paired) for factor in (1.0, 1.1, 1 / 1.1))
    assert len(same.of("same")) >= 19
    assert not same.is_worse
    assert len(slower.of("slower")) == 20
    assert slower.is_worse
    assert len(faster.of("faster")) == 20
    assert not faster.is_worse


def test_a_single_slow_row_comes_first() -> None:
    rng = np.random.default_rng(1)
    a = make_run("A", {case: draw_samples(rng) for case in CASES})
    b = make_run("B", {case: draw_samples(rng, 1.1 if case == CASES[7] else 1.0) for case in CASES})
    comparison = compare_runs(a, b)
    assert comparison.rows[0].name == "model_07 / fp32, offline, batch 16"
    assert [row.verdict for row in comparison.rows] == ["slower"] + 19 * ["same"]
    assert [figure.name for figure in comparison.rows[0].figures] == ["p50", "samples/s", "p99"]


def test_a_slow_tail_makes_a_row_slower_whose_median_is_the_same() -> None:
    rng = np.random.default_rng(2)
    samples = [draw_samples(rng, effect=0.005, n=400) for _ in range(2)]
    stalled = RowSamples(
        [np.where(np.arange(400) % 25, ms, 3 * ms) for ms in samples[1].windows_ms], samples[1].processes
    )
    comparison = compare_runs(make_run("A", {"m/fp32": samples[0]}), make_run("B", {"m/fp32": stalled}))
    (row,) = comparison.rows
    assert row.verdict == "slower"
    assert {figure.name: figure.verdict for figure in row.figures} == {
        "p50": "same",
        "samples/s": "slower",  # every 25th query takes three times as long: 8% of the time
        "p99": "slower",
    }


def test_few_noisy_processes_leave_room_for_a_slowdown() -> None:
    comparison = compare_runs(*runs_of(3, 1.0, effect=0.05))
    assert comparison.unsure
    assert all(row.worst > 1.05 for row in comparison.unsure)
    assert not compare_runs(*runs_of(3, 1.0, effect=0.002, n=2_000)).unsure


def test_rows_of_one_side_and_other_batch_sizes() -> None:
    rng = np.random.default_rng(4)
    samples = [draw_samples(rng) for _ in range(4)]
    a = run_of(
        "A",
        [make_row(samples[0].latency_ms), make_row(samples[1].latency_ms, batch_size=32)],
        samples[:2],
    )
    b = run_of(
        "B",
        [make_row(samples[2].latency_ms), make_row(samples[3].latency_ms, "other/fp32")],
        samples[2:],
    )
    comparison = compare_runs(a, b)
    assert {row.name: row.reason for row in comparison.of("not comparable")} == {
        "sasrec / fp32, offline, batch 32": "only in A; the other run has it at batch 16",
        "other / fp32, offline, batch 16": "only in B",
    }
    assert len(comparison.of("same")) == 1
    assert comparison.n_lost == 1
    assert not comparison.is_worse


def test_an_incomparable_row_keeps_its_plain_ratios_and_is_tested_by_nobody() -> None:
    rng = np.random.default_rng(5)
    a, b = (make_run(name, {"m/fp32": draw_samples(rng, factor)}) for name, factor in (("A", 1), ("B", 2)))
    (key,) = b.rows
    invalid = dataclasses.replace(a, rows={key: dataclasses.replace(a.rows[key], valid=False, invalid_reason="late")})
    (row,) = compare_runs(invalid, b).rows
    assert (row.verdict, row.reason) == ("not comparable", "A is invalid: late")
    assert row.figures[0].ratio == pytest.approx(2, rel=0.1)
    assert row.figures[0].low is None
    assert not compare_runs(invalid, b).is_worse


def test_a_row_that_became_invalid_is_worse_unless_some_process_held_no_rate() -> None:
    rng = np.random.default_rng(8)
    a, b = (make_run(name, {"m/fp32": draw_samples(rng), "n/fp32": draw_samples(rng)}) for name in "AB")
    key = next(iter(b.rows))

    def compared(**changes: object) -> Comparison:
        known = {"valid": False, "invalid_reason": "the system leaks"} | changes
        invalid = dataclasses.replace(b.rows[key], **known)
        return compare_runs(a, dataclasses.replace(b, rows={**b.rows, key: invalid}))

    assert [(row.verdict, row.reason) for row in compared().rows] == [
        ("invalid", "the system leaks"),
        ("same", None),
    ]
    assert compared().is_worse
    assert compared(search={"confirmed": True, "late_generator": None}).is_worse
    for search in (
        {"confirmed": False, "late_generator": None},
        {"confirmed": True, "late_generator": "it fell behind"},
    ):
        assert not compared(search=search).is_worse
        assert compared(search=search).of("not comparable")
    unsettled = {"confirmed": False, "late_generator": None, "held_processes": 2}
    assert compared(search=unsettled | {"no_rate": "p99 did not hold 10 ms at any rate that process 1 tried"}).of(
        "not comparable"
    )
    assert compared(search=unsettled | {"no_rate": None}).of("invalid")  # it is the leak that makes the row invalid
    late = Window(
        latency_ms=np.ones(10),
        parts_ms={"send_lag": np.full(10, 2.0)},
        samples=10,
        padded_samples=10,
        batch_samples=np.ones(10, np.int64),
        duration_s=1.0,
    )
    fell_behind = compared(invalid_reason=window_fault(late, slo_ms=10.0), search={"no_rate": None})
    assert fell_behind.of("not comparable")
    assert not fell_behind.is_worse


def test_a_server_that_holds_no_rate_in_any_process_is_worse() -> None:
    rng = np.random.default_rng(9)
    samples = {"m/fp32": draw_samples(rng)}
    loop = {"windows": 24, "loop": "open, from a process of its own"}
    a = make_run("A", samples, scenario="server", slo_ms=10.0, target_qps=900.0, load=loop)
    (key,) = a.rows

    def compared(held_processes: int, **changes: object) -> Comparison:
        search = {"confirmed": False, "held_processes": held_processes, "late_generator": None, "cannot_hold": None}
        known: dict = {"valid": False, "invalid_reason": "p99 did not hold 10 ms at any rate", "search": search}
        row = dataclasses.replace(a.rows[key], target_qps=70.0, **known | changes)
        return compare_runs(a, dataclasses.replace(a, name="B", rows={key: row}))

    (row,) = compared(0).rows
    assert (row.verdict, row.reason) == ("invalid", "p99 did not hold 10 ms at any rate")
    assert compared(0).is_worse
    for comparison in (compared(1), compared(0, slo_ms=5.0)):  # one held; another limit
        assert [row.verdict for row in comparison.rows] == ["not comparable"]
        assert not comparison.is_worse


def test_samples_that_are_missing_or_of_another_run() -> None:
    rng = np.random.default_rng(6)
    a, b = (make_run(name, {"m/fp32": draw_samples(rng)}) for name in "AB")
    missing = dataclasses.replace(b, samples={})
    (row,) = compare_runs(a, missing).rows
    assert row.reason == "B has no samples of it: its samples.npz belongs beside its results.jsonl"
    others = dataclasses.replace(a, samples={key: draw_samples(rng, n=20) for key in a.samples})
    (row,) = compare_runs(others, b).rows
    assert row.reason == "the samples.npz of A is of another run"


def test_lost_quality_is_worse() -> None:
    rng = np.random.default_rng(7)
    samples = {"m/fp32": draw_samples(rng)}
    a, b = make_run("A", samples), make_run("B", samples, quality={"ndcg@10": 0.2, "mrr": 0.125})
    comparison = compare_runs(a, b)
    assert comparison.of("slower") == []
    assert comparison.is_worse
    assert [change.case for change in comparison.qualities] == ["m/fp32"]
    assert comparison.n_models == 1


def test_the_worst_slowdown_is_unknown_without_an_interval() -> None:
    row = Compared(name="r", verdict="same", figures=(Figure(name="p50", ratio=1.0),))
    assert row.worst == float("inf")
