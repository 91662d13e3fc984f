"""When a machine counts as quiet."""

import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from benchmarks.peers import quiet
from benchmarks.peers.quiet import PROBES, wait_until_quiet


def watch_that_sees(monkeypatch: pytest.MonkeyPatch, shares: Iterator[float | None]) -> list[float | None]:
    """Makes the host as busy as the shares say, and returns the list of those that were looked at."""
    seen: list[float | None] = []

    class Watch:
        def __enter__(self) -> "Watch":
            seen.append(next(shares))
            self.noise = SimpleNamespace(busy_share=seen[-1])
            return self

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr(quiet, "HostWatch", Watch)
    monkeypatch.setattr(quiet, "PROBE_S", 0.0)
    return seen


def test_quiet_must_last(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = [0.9, 0.01, 0.01, 0.06, *[0.01] * PROBES, 0.9]
    seen = watch_that_sees(monkeypatch, iter(shares))
    assert wait_until_quiet(time.monotonic() + 60)
    assert seen == shares[:-1]


def test_a_system_that_does_not_tell_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watch_that_sees(monkeypatch, iter([None])) == []
    assert wait_until_quiet(time.monotonic() + 60)


def test_the_wait_ends_on_a_machine_that_never_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "BUSY", 0.0)
    monkeypatch.setattr(quiet, "PROBE_S", 0.05)
    started = time.monotonic()
    assert not wait_until_quiet(started + 0.2)
    assert 0.2 <= time.monotonic() - started < 5
