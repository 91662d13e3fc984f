"""The suite from beginning to end at a tiny size: recjax beside itself, and peers that may not be there."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.peers import run_peers as suite
from benchmarks.peers.entrants import Settings
from benchmarks.peers.process import PeerProcess
from benchmarks.peers.registry import PEERS
from benchmarks.peers.rows import PeerRow
from benchmarks.peers.run_peers import run_peers
from benchmarks.peers.workloads import BagSizes, DLRMSizes, SASRecSizes, Workload
from benchmarks.stored import read_stored
from recjax.command_line import INTERRUPTED
from recjax.errors import UserError

DLRM = Workload(
    name="tiny_dlrm",
    sizes=DLRMSizes(tables=2, rows=9, dim=4, n_dense=3, bottom_mlp=(5,), cross_ranks=(3, 2), top_mlp=(6,)),
    batch_sizes=(2,),
)
SASREC = Workload(
    name="tiny_sasrec",
    sizes=SASRecSizes(items=40, history=5, dim=8, heads=2, mlp_dims=(16,), top_k=3),
    batch_sizes=(4,),
)
BAGS = Workload(name="tiny_bags", sizes=BagSizes(tables=2, rows=30, dim=4, bag_length=3), batch_sizes=(1, 4))
SETTINGS = Settings(threads=1, rounds=3, turn_s=0.01)
ENTERING = [peer for peer in PEERS if peer.name in ("recjax", "recjax-again", "fbgemm")]


def test_recjax_beside_itself_and_a_peer_that_may_be_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_peers(tmp_path, "cpu", workloads=[BAGS], peers=ENTERING, settings=SETTINGS) == 0
    rows = read_stored(tmp_path / "peers.jsonl", PeerRow, "benchmarks.peers")
    names = ("recjax", "recjax-again", "fbgemm")
    assert [(row.workload, row.batch_size, row.peer) for row in rows] == [
        ("tiny_bags", size, name) for size in (1, 4) for name in names
    ]
    assert_compared_with_recjax([row for row in rows if row.peer != "fbgemm"])
    for row in rows:
        if row.peer == "fbgemm":
            assert row.median_ms is not None or "not installed" in row.reasons["median_ms"]
    assert "| tiny\\_bags | 4 | recjax-again |" in (tmp_path / "peers.md").read_text()
    assert "tiny_bags" in capsys.readouterr().out


@pytest.mark.slow
def test_recjax_beside_itself_with_models(tmp_path: Path) -> None:
    assert run_peers(tmp_path, "cpu", workloads=[DLRM, SASREC], peers=ENTERING, settings=SETTINGS) == 0
    rows = read_stored(tmp_path / "peers.jsonl", PeerRow, "benchmarks.peers")
    assert [(row.workload, row.peer) for row in rows] == [
        (name, peer) for name in ("tiny_dlrm", "tiny_sasrec") for peer in ("recjax", "recjax-again")
    ]
    assert_compared_with_recjax(rows)


def assert_compared_with_recjax(rows: Sequence[PeerRow]) -> None:
    for row in rows:
        assert row.largest_difference == 0.0
        assert np.shape(row.latency_ms)[0] == SETTINGS.rounds
        assert row.median_ms is not None
        assert row.inputs.startswith("synthetic: ")
        assert row.threads == 1
        assert row.versions["jax"] == row.environment["versions"]["jax"]
        assert row.environment["noise"]["duration_s"] > 0
        assert (row.ratio is None) == (row.peer == "recjax")


def test_an_interrupted_run_keeps_finished_rows_and_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[PeerProcess] = []
    ask = PeerProcess.ask

    def interrupted_at_the_second_batch(process: PeerProcess, **request: Any) -> Mapping[str, Any]:
        started.append(process)
        if request["do"] == "turn" and request["batch_size"] == 4:
            raise KeyboardInterrupt
        return ask(process, **request)

    monkeypatch.setattr(PeerProcess, "ask", interrupted_at_the_second_batch)
    drawn = []
    monkeypatch.setattr(suite.tempfile, "TemporaryDirectory", _noted(suite.tempfile.TemporaryDirectory, drawn))
    code = run_peers(tmp_path, "cpu", workloads=[BAGS, SASREC], peers=ENTERING[:1], settings=SETTINGS)
    assert code == INTERRUPTED
    (row,) = read_stored(tmp_path / "peers.jsonl", PeerRow, "benchmarks.peers")
    assert (row.workload, row.batch_size) == ("tiny_bags", 1)
    assert (tmp_path / "peers.md").exists()
    assert "interrupted; 1 finished rows are kept" in capsys.readouterr().err
    assert not any(process.is_running for process in started)
    assert [folder.exists() for folder in drawn] == [False]


@pytest.mark.slow
def test_drawing_that_fails_is_told(tmp_path: Path) -> None:
    broken = Workload(name="broken", sizes=SASRecSizes(heads=3, dim=8), batch_sizes=(1,))
    with pytest.raises(UserError, match=r"drawing the weights and requests of broken failed: .*heads"):
        run_peers(tmp_path, "cpu", workloads=[broken], peers=ENTERING[:1], settings=SETTINGS)
    assert not (tmp_path / "peers.jsonl").exists()


def _noted(make: Any, names: list[Path]) -> Any:
    def noting(**options: Any) -> Any:
        folder = make(**options)
        names.append(Path(folder.name))
        return folder

    return noting
