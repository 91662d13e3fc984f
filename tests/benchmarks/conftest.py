from collections.abc import Callable
from types import SimpleNamespace

import pytest
from simulated_time import Clock, FakeModel

from benchmarks import scenarios


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    simulated = Clock()
    monkeypatch.setattr(scenarios, "time", SimpleNamespace(perf_counter=simulated.perf_counter, sleep=simulated.sleep))
    monkeypatch.setattr(scenarios, "SPIN_S", 0.0)  # it would take a million readings to spin for a millisecond
    return simulated


@pytest.fixture
def fake(clock: Clock) -> Callable[..., FakeModel]:
    """Returns a function that makes a model with that service time in seconds (or a function of the call's number)."""

    def make(service_s: float | Callable[[int], float], *buckets: int) -> FakeModel:
        model = FakeModel(clock.sleep, service_s if callable(service_s) else lambda call: service_s, *buckets)
        model.read_s = lambda: clock.now_s
        return model

    return make
