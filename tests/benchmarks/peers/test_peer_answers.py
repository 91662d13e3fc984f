"""Every peer that is installed here answers as recjax does, in processes as the suite starts them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from test_peer_recjax import BAGS, DLRM, SASREC, task_of

from benchmarks.peers.equality import difference_in_words
from benchmarks.peers.process import PeerProcess
from benchmarks.peers.recjax_served import prepare
from benchmarks.peers.registry import PEERS, RECJAX, Peer, missing
from benchmarks.peers.workloads import Sizes, write_arrays, write_sizes

OTHERS = [peer for peer in PEERS if peer.prepare != RECJAX.prepare]
CASES = [
    pytest.param(peer, sizes, id=f"{peer.name}-{sizes.kind}", marks=pytest.mark.slow)
    for peer in OTHERS
    for sizes in (DLRM, SASREC, BAGS)
    if sizes.kind in peer.kinds
]


@pytest.mark.parametrize(("peer", "sizes"), CASES)
def test_a_peer_answers_as_recjax(peer: Peer, sizes: Sizes, tmp_path: Path) -> None:
    for module in peer.needs:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{peer.needs[module]} is not installed; docs/peers.md says how")
    task = task_of(sizes)
    write_sizes(tmp_path, sizes)
    write_arrays(tmp_path, weights=task.weights, columns=task.columns)
    process = PeerProcess(peer, tmp_path, threads=1)
    try:
        assert "error" not in process.ask(do="start"), process.log.read_text()
        for batch_size in (1, 3):
            assert "compile_s" in (reply := process.ask(do="build", batch_size=batch_size)), reply
            process.ask(do="check", batch_size=batch_size, to=str(tmp_path / "answers.npz"))
            answers = dict(np.load(tmp_path / "answers.npz"))
            rows = np.random.default_rng([1, 1]).integers(0, 20, (-(-64 // batch_size), batch_size))  # the worker's own
            answer = prepare(task)(batch_size)
            expected = [answer(of_call) for of_call in rows]
            joined = {name: np.concatenate([one[name] for one in expected]) for name in expected[0]}
            largest, why = difference_in_words(answers, joined, tolerance=1e-5)
            assert why is None
            assert largest is not None
    finally:
        process.close()


@pytest.mark.parametrize("peer", OTHERS, ids=lambda peer: peer.name)
def test_a_peer_says_what_it_misses(peer: Peer) -> None:
    absent = [package for module, package in peer.needs.items() if importlib.util.find_spec(module) is None]
    reason = missing(peer)
    assert (reason is None) == (not absent)
    assert reason is None or all(package in reason for package in absent)


def test_peers_have_names_of_their_own_and_a_mode() -> None:
    assert len({peer.name for peer in PEERS}) == len(PEERS)
    assert PEERS[0] is RECJAX
    assert all(peer.mode and set(peer.kinds) <= {"dlrm", "sasrec", "bags"} for peer in PEERS)
