"""Ratios of rounds, by hand, and what they say."""

import dataclasses

import numpy as np
import pytest

from benchmarks.peers.rows import PeerRow, median_ratio, verdict

ROW = PeerRow(
    workload="sasrec",
    sizes={"items": 5},
    inputs="synthetic",
    batch_size=1,
    peer="torch-eager",
    mode="eval()",
    threads=2,
    versions={"torch": "2"},
    largest_difference=1e-7,
    tolerance=1e-4,
    compile_s=0.1,
    latency_ms=[[2.0, 2.0]],
    median_ms=2.0,
    cpu_ms=[1.5],
    waited_cpu_ms=0.0,
    ratio={"median": 2.0, "ci95": [1.5, 2.5], "rounds": 1},
    environment={},
    reasons={},
)


def test_a_ratio_is_of_a_rounds_medians() -> None:
    # Rounds: 2 / 1, 6 / 2, 40 / 10; the slow call of the first round moves nothing.
    ratio = median_ratio([[2.0, 2.0, 90.0], [6.0], [40.0, 40.0]], [[1.0], [2.0, 2.0], [10.0]])
    assert ratio["median"] == 3.0
    assert ratio["rounds"] == 3
    assert ratio["ci95"][0] < 2.0 < 4.0 < ratio["ci95"][1]  # three rounds tell little


def test_two_rounds_have_no_interval_and_no_verdict() -> None:
    ratio = median_ratio([[2.0], [2.1]], [[1.0], [1.0]])
    assert ratio["ci95"] is None
    assert verdict(dataclasses.replace(ROW, ratio=ratio)) == ""


def test_what_slows_a_whole_round_cancels() -> None:
    slow = np.array([1.0, 3.0, 1.0, 7.0])
    ratio = median_ratio([[2.0 * s] for s in slow], [[s] for s in slow])
    assert (ratio["median"], ratio["rounds"]) == (2.0, 4)
    assert ratio["ci95"] == pytest.approx([2.0, 2.0])


def test_the_interval_covers_the_true_ratio_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        own, other = rng.lognormal(np.log(1.3), 0.1, (12, 3)), rng.lognormal(0.0, 0.1, (12, 3))
        low, high = median_ratio(own.tolist(), other.tolist())["ci95"]
        covered.append(low <= 1.3 <= high)
    assert 0.90 <= np.mean(covered) <= 0.99


@pytest.mark.parametrize(
    ("interval", "word"), [([1.01, 1.2], "slower"), ([0.9, 0.99], "faster"), ([0.9, 1.1], "same"), (None, "")]
)
def test_an_interval_without_one_is_a_difference(interval: list[float] | None, word: str) -> None:
    ratio = None if interval is None else {"median": 1.0, "ci95": interval, "rounds": 9}
    assert verdict(dataclasses.replace(ROW, ratio=ratio)) == word
