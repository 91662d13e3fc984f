"""How variants take turns, on windows that no model answered."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import measure
from benchmarks.measure import Measured, measure_case
from benchmarks.scenarios import Window
from benchmarks.suite import Measurement

LABELS = ("fp32", "prune", "prune + shrink", "null")
SETTINGS = Measurement(rounds=12, search_steps=2)


def contestant(label: str) -> Any:
    experiment = SimpleNamespace(name="toy", serving=SimpleNamespace(buckets=(1, 8, 32), slo_ms=10.0))
    compiled = SimpleNamespace(label=label, buckets=(1, 8, 32))
    # "prune + shrink" is what "prune" becomes once its zeros are removed.
    without = SimpleNamespace(label=label.removesuffix(" + shrink"))
    transform = SimpleNamespace(only_masked=lambda: without)
    trained = None if label == "null" else SimpleNamespace(model=SimpleNamespace(transform=transform))
    return SimpleNamespace(experiment=experiment, label=label, compiled=compiled, columns={}, trained=trained)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Returns the order of the closed-loop windows by batch size, and what was measured in the server scenario.

    The null model's first server window stalls.
    """
    orders: dict[int, list[str]] = {}
    null_windows: list[float] = []

    def closed_loop(compiled: Any, columns: Any, size: int, *settings: Any) -> Window:
        del columns, settings
        orders.setdefault(size, []).append(compiled.label)
        return Window(np.ones(10), 10, 10 * size, 10 * size, 1.0)

    def server(compiled: Any, columns: Any, rate_qps: float, n_queries: int, *settings: Any) -> Window:
        del columns, settings
        stalls = compiled.label == "null" and not null_windows
        if compiled.label == "null":
            null_windows.append(rate_qps)
        latency_ms = np.full(n_queries, 50.0 if stalls else 1.0)
        return Window(latency_ms, n_queries, n_queries, n_queries, n_queries / rate_qps, rate_qps)

    monkeypatch.setattr(measure, "warm_up", lambda compiled, columns: None)
    monkeypatch.setattr(measure, "closed_loop", closed_loop)
    monkeypatch.setattr(measure, "server", server)

    def make_row(contestant: Any, measured: Measured, of_fp32: Measured, facts: Any, of_masked: Any) -> Any:
        del of_fp32, facts
        masked[contestant.label] = of_masked
        return contestant.label, measured

    masked: dict[str, Any] = {}
    monkeypatch.setattr(measure, "make_row", make_row)
    monkeypatch.setattr(measure, "samples_key", lambda row: row[0])
    facts: Any = None
    rows = [row for rows, _ in measure_case([contestant(label) for label in LABELS], SETTINGS, facts) for row in rows]
    server_rows = {label: one for label, one in rows if one.scenario == "server"}
    return {"orders": orders, "server": server_rows, "masked": masked}


def test_every_round_has_every_contestant_once_in_an_order_of_its_own(measured: dict[str, Any]) -> None:
    rounds = {
        size: [tuple(labels[i : i + len(LABELS)]) for i in range(0, len(labels), len(LABELS))]
        for size, labels in measured["orders"].items()
    }
    assert {size: len(orders) for size, orders in rounds.items()} == {1: 12, 8: 12, 32: 12}
    for orders in rounds.values():
        assert {frozenset(order) for order in orders} == {frozenset(LABELS)}
        neighbours = {order[order.index("fp32") - 1] for order in orders if order[0] != "fp32"}
        assert len(neighbours) > 1  # a fixed cycle, wherever it begins, has one
    assert len({tuple(orders) for orders in rounds.values()}) == 3  # nor do all scenarios share one sequence


def test_a_row_knows_the_windows_of_its_chain_with_the_zeros_left_in(measured: dict[str, Any]) -> None:
    server, masked = measured["server"], measured["masked"]
    assert masked["prune + shrink"] is server["prune"]
    assert masked["prune"] is server["prune"]
    assert masked["null"] is None


def test_a_stall_in_the_null_models_first_server_window_is_not_its_result(measured: dict[str, Any]) -> None:
    null, fp32 = measured["server"]["null"], measured["server"]["fp32"]
    assert null.window.latency_ms.max() == 1.0
    assert null.window.offered_qps == pytest.approx(fp32.window.queries / fp32.window.duration_s)
    assert null.search is None


def test_throughput_is_the_median_window() -> None:
    window = Window(np.ones(3), 3, 3, 3, 1.0)
    assert Measured("offline", 1, window, np.array([1.0, 100.0, 10.0]), 0, "now").throughput == 10.0
