"""How variants take turns, on windows that no model answered."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import measure
from benchmarks.measure import NULL_RATE_QPS, Place, measure_case
from benchmarks.measured import Measured, append_measured, read_measured, window_facts
from benchmarks.suite import Measurement
from recjax.config import Serving
from recjax.load.window import Window
from recjax.measurement.early_stopping import most_over_limit

LABELS = ("fp32", "prune", "null")
SETTINGS = Measurement(rounds=12, search_steps=2, curve=(0.5,))
SERVING = Serving(buckets=(1, 8, 32), slo_ms=10.0)


def window(n: int, samples: int, rate_qps: float | None = None) -> Window:
    latency_ms = np.full(n, 1.0)
    parts = {"queue": latency_ms * 0.25, "compute": latency_ms * 0.75}
    return Window(
        latency_ms=latency_ms,
        parts_ms=parts,
        samples=samples,
        padded_samples=samples,
        batch_samples=np.array([samples]),
        duration_s=1.0,
        offered_qps=rate_qps,
    )


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns a function that measures in a process, and the order of the closed-loop windows by batch size."""
    orders: dict[int, list[str]] = {}
    rates: list[tuple[str, float]] = []
    may_exceed: list[tuple[str, int, int | None]] = []

    def closed_loop(system: Any, size: int, *settings: Any) -> Window:
        del settings
        orders.setdefault(size, []).append(system.label)
        return window(10, 10 * size)

    class Generator:
        def __enter__(self) -> "Generator":
            return self

        def __exit__(self, *exception: object) -> None:
            return

        def measure(self, system: Any, rate_qps: float, n_queries: int, **settings: Any) -> Window:
            rates.append((system.label, rate_qps))
            may_exceed.append((system.label, n_queries, settings["most_over"]))
            return window(n_queries, n_queries, rate_qps)

    monkeypatch.setattr(measure, "warm_up", lambda system: None)
    monkeypatch.setattr(measure, "closed_loop", closed_loop)
    monkeypatch.setattr(measure, "cached_answers", lambda system, seed: ({"fresh_over_repeated": 1.0}, None))
    monkeypatch.setattr(measure, "wrong_answers", lambda system, window: None)
    monkeypatch.setattr(measure, "LoadGenerator", Generator)

    def measured_in(process: int, of_first: dict[str, float]) -> dict[tuple[str, int], list[Measured]]:
        contestants: Any = [
            SimpleNamespace(label=label, system=SimpleNamespace(label=label), is_null=label == "null")
            for label in LABELS
        ]
        place = Place(process=process, platform="cpu", n_devices=1, name="toy")
        groups = measure_case(contestants, SETTINGS, SERVING, place, of_first)
        return {(records[0].scenario, records[0].batch_size): records for records in groups}

    return SimpleNamespace(measured_in=measured_in, orders=orders, rates=rates, may_exceed=may_exceed)


def test_every_round_has_every_contestant_once_in_an_order_of_its_own(run: Any) -> None:
    measured = run.measured_in(0, {})
    assert list(measured) == [("single_stream", 1), ("multi_stream", 8), ("offline", 32), ("server", 32)]
    rounds = {
        size: [tuple(labels[i : i + len(LABELS)]) for i in range(0, len(labels), len(LABELS))]
        for size, labels in run.orders.items()
    }
    assert {size: len(orders) for size, orders in rounds.items()} == {1: 12, 8: 12, 32: 12}
    for orders in rounds.values():
        assert {frozenset(order) for order in orders} == {frozenset(LABELS)}
        assert len(set(orders)) > 1
    assert len({tuple(orders) for orders in rounds.values()}) == 3  # nor do all scenarios share one sequence
    for records in measured.values():
        assert [record.label for record in records] == list(LABELS)


def test_two_processes_have_other_orders(run: Any) -> None:
    run.measured_in(0, {})
    first = list(run.orders[1])
    run.orders.clear()
    run.measured_in(1, {"fp32": 50.0, "prune": 60.0})
    assert run.orders[1] != first


def test_the_first_process_searches_and_the_others_confirm_its_rates(run: Any) -> None:
    first = run.measured_in(0, {})[("server", 32)]
    assert [record.search is None for record in first] == [False, False, True]
    assert len(first[0].windows) == 3
    assert first[0].search is not None
    found = first[0].windows[0]["offered_qps"]
    assert [point["rate_qps"] for point in first[0].search["curve"]] == [pytest.approx(found / 2)]
    run.rates.clear()
    second = run.measured_in(1, {"fp32": 50.0, "prune": 60.0})[("server", 32)]
    rounds = [run.rates[:3], run.rates[3:5], run.rates[5:]]  # they take turns
    searched = {("fp32", 50.0), ("prune", 60.0)}
    assert [set(asked) for asked in rounds] == [searched | {("null", NULL_RATE_QPS)}, searched, searched]
    assert [len(record.windows) for record in second] == [3, 3, 1]
    assert [record.search and record.search["held_at_qps"] for record in second] == [50.0, 60.0, None]


def test_windows_of_the_search_end_early_and_others_do_not(run: Any) -> None:
    run.measured_in(0, {})
    of_fp32 = [(n, most) for label, n, most in run.may_exceed if label == "fp32"]
    *searched, (_, of_curve) = of_fp32
    assert all(most == most_over_limit(0.99, n) for n, most in searched)
    assert of_curve is None
    assert [most for label, _, most in run.may_exceed if label == "null"] == [None]


def test_what_was_watched_belongs_to_the_windows_that_are_kept(run: Any) -> None:
    for records in run.measured_in(0, {}).values():
        for record in records:
            n = len(record.windows)
            assert len(record.latency_ms) == len(record.host["windows"]) == len(record.host_growth_bytes) == n
            assert (record.energy_j is None) == (record.energy_reason is not None)


def test_records_come_back_from_disk(run: Any, tmp_path: Any) -> None:
    records = run.measured_in(0, {})[("server", 32)]
    append_measured(tmp_path, records)
    again = read_measured(tmp_path, "server", 32, LABELS)
    assert again is not None
    for ours, theirs in zip(records, again, strict=True):
        for before, after in zip(ours.latency_ms, theirs.latency_ms, strict=True):
            np.testing.assert_array_equal(before, after)
        assert (ours.windows, ours.search) == (theirs.windows, theirs.search)
        assert ours.host["jitter"] == theirs.host["jitter"]
    assert read_measured(tmp_path, "server", 32, [*LABELS, "another"]) is None


def test_facts_of_a_window_are_plain_values() -> None:
    facts = window_facts(window(4, 8, 100.0), 12.0)
    assert facts["parts_ms"] == {"queue": 1.0, "compute": 3.0}
    assert (facts["samples"], facts["offered_qps"], facts["send_lag_ms"]) == (8, 100.0, None)
