"""Contests among peers in plain NumPy, in real processes: turns, answers, failures."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy_peers import TURNS_FILE, WORKLOAD, peer

from benchmarks.peers import contest as contest_module
from benchmarks.peers.contest import run_contest
from benchmarks.peers.entrants import Contest, Settings, entrants_of
from benchmarks.peers.registry import Peer
from benchmarks.peers.rows import PeerRow, row_of
from recjax.errors import UserError

SETTINGS = Settings(threads=1, rounds=5, turn_s=1e-3)


def silent(note: str = "", remaining: int | None = None) -> None:
    """Takes notes of progress and shows none."""


@contextlib.contextmanager
def contests(
    peers: Sequence[Peer], task: Path, batch_sizes: Sequence[int], settings: Settings = SETTINGS
) -> Iterator[list[Contest]]:
    with entrants_of(peers, task, settings, silent) as entrants:
        yield [run_contest(WORKLOAD, size, entrants, task, settings, silent) for size in batch_sizes]


def rows_of(contest: Contest, batch_size: int) -> dict[str, PeerRow]:
    rows = [row_of(one, contest, WORKLOAD, batch_size, SETTINGS, {"seed": 0}) for one in contest.results]
    for row in rows:
        for name in ("largest_difference", "compile_s", "latency_ms", "median_ms", "cpu_ms", "waited_cpu_ms", "ratio"):
            assert (getattr(row, name) is None) == (name in row.reasons)
    return {row.peer: row for row in rows}


def test_one_computes_at_a_time_and_every_round_has_every_peer(
    tiny_task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tiny_task / "turns.txt"
    monkeypatch.setenv(TURNS_FILE, str(written))
    peers = [peer("honest"), peer("honest", name="second"), peer("honest", name="third")]
    with contests(peers, tiny_task, [4]) as (contest,):
        pids = [one.entrant.process._process.pid for one in contest.results]
    calls = [line.split() for line in written.read_text().splitlines()]
    calls.sort(key=lambda call: float(call[1]))
    ends, starts = [float(call[2]) for call in calls[:-1]], [float(call[1]) for call in calls[1:]]
    assert all(end <= start for end, start in zip(ends, starts, strict=True))
    assert {call[3] for call in calls} == {"4"}
    for pid, one in zip(pids, contest.results, strict=True):
        assert len(one.turns) == SETTINGS.rounds
        (n_calls,) = {len(turn["latency_ms"]) for turn in one.turns}
        assert 2 <= n_calls <= 500
        # Build, check of 64 requests and probe, then each turn with one call that is not timed.
        assert [call[0] for call in calls].count(str(pid)) == 1 + 16 + 4 + SETTINGS.rounds * (1 + n_calls)


def test_rows_compare_with_the_first(tiny_task: Path) -> None:
    with contests([peer("honest"), peer("honest", name="again")], tiny_task, [1, 4]) as both:
        for contest, batch_size in zip(both, (1, 4), strict=True):
            rows = rows_of(contest, batch_size)
            assert rows["honest"].reasons == {"ratio": "it is what the others are compared with"}
            assert rows["again"].reasons == {}
            assert rows["again"].largest_difference == 0.0
            assert rows["again"].batch_size == batch_size
            assert rows["again"].threads == 1
            assert rows["again"].versions.keys() == {"python"}
            ratio = rows["again"].ratio
            assert ratio is not None
            own, other = ([np.median(turn) for turn in rows[name].latency_ms or []] for name in ("again", "honest"))
            assert ratio["median"] == pytest.approx(np.median(np.array(own) / other))
            assert ratio["rounds"] == SETTINGS.rounds
            assert contest.others_share is None or 0 <= contest.others_share <= 1


def test_other_answers_are_never_timed(tiny_task: Path) -> None:
    with contests([peer("honest"), peer("wrong")], tiny_task, [1]) as (contest,):
        row = rows_of(contest, 1)["wrong"]
    assert row.largest_difference == pytest.approx(0.01, rel=0.5)
    assert row.reasons["latency_ms"].startswith("its answers differ from recjax's by 0.0")
    assert contest.results[1].turns == []


def test_a_peer_that_is_missing_or_fails_costs_its_own_row(tiny_task: Path) -> None:
    absent = peer("honest", name="absent", needs={"no_such_module": "no-such-package"})
    peers = [peer("honest"), absent, peer("fails_in_large_batches"), peer("dies_in_a_turn")]
    with contests(peers, tiny_task, [1, 4], Settings(threads=1, rounds=5, turn_s=0.03)) as (small, large):
        rows, large_rows = rows_of(small, 1), rows_of(large, 4)
    assert "no-such-package is not installed" in rows["absent"].reasons["median_ms"]
    assert rows["absent"].versions == {}
    assert rows["fails_in_large_batches"].reasons == {}
    assert large_rows["fails_in_large_batches"].reasons["ratio"] == "NotImplementedError: no kernel for"
    died = "its process ended with code 3: fatal: heap corrupted"
    assert rows["dies_in_a_turn"].reasons["median_ms"] == died
    assert rows["dies_in_a_turn"].compile_s is not None
    assert large_rows["dies_in_a_turn"].reasons["compile_s"] == died
    assert rows["honest"].median_ms is not None
    assert large_rows["honest"].median_ms is not None


@pytest.mark.parametrize("name", ["fails_in_large_batches", "dies_in_a_turn"])
def test_without_recjax_there_is_no_contest(name: str, tiny_task: Path) -> None:
    settings = Settings(threads=1, rounds=20, turn_s=0.03)
    peers = [peer(name), peer("honest")]
    with (
        pytest.raises(UserError, match="recjax itself does not run tiny_bags at batch 4: "),
        contests(peers, tiny_task, [4], settings),
    ):
        pass


def test_every_process_is_gone_after_an_error(tiny_task: Path) -> None:
    pids: list[int] = []
    with (
        contextlib.suppress(KeyboardInterrupt),
        entrants_of([peer("honest"), peer("loud")], tiny_task, SETTINGS, silent) as entrants,
    ):
        pids += [entrant.process._process.pid for entrant in entrants]
        raise KeyboardInterrupt
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_disturbed_turns_are_taken_again_while_there_is_time(tiny_task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([0.5, 0.2, 0.01])
    monkeypatch.setattr(Contest, "others_share", property(lambda contest: next(shares)))
    monkeypatch.setattr(contest_module, "wait_until_quiet", lambda until_s: True)
    peers = [peer("honest"), peer("honest", name="again")]
    with contests(peers, tiny_task, [1], Settings(threads=1, rounds=2, turn_s=1e-3, quiet_s=60)) as (contest,):
        assert contest.tries == 3
        assert [len(one.turns) for one in contest.results] == [2, 2]


def test_disturbed_turns_count_once_the_time_is_over(tiny_task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Contest, "others_share", property(lambda contest: 0.5))
    with contests([peer("honest")], tiny_task, [1]) as (contest,):
        assert contest.tries == 1
        assert len(contest.results[0].turns) == SETTINGS.rounds
