"""A row of `peers.jsonl`: one peer at one workload and batch size, with every sample.

Shapes: R rounds.
"""

import dataclasses
from typing import Any

import numpy as np

from benchmarks.peers.entrants import Contest, Result, Settings
from benchmarks.peers.workloads import INPUTS, Workload
from recjax.measurement.intervals import interval, quantile_of

TIMES = ("latency_ms", "median_ms", "cpu_ms", "waited_cpu_ms", "ratio")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeerRow:
    """What a peer took, and how that compares; a figure that could not be had is None, and `reasons` says why.

    Attributes:
      workload: its name.
      sizes: of the model.
      inputs: how weights and requests were made.
      batch_size: requests a call.
      peer: its name.
      mode: how it answers.
      threads: that it could compute with.
      versions: of Python and its packages.
      largest_difference: of its answers from recjax's, relative where recjax's is above 1.
      tolerance: of that.
      compile_s: compiling and the first answer.
      latency_ms: [R][calls] of every timed call.
      median_ms: of all of them.
      cpu_ms: [R] the process's CPU time of a call.
      waited_cpu_ms: the most CPU time that the process used between two of its turns, when it should wait.
      ratio: of the medians of a round, this peer's over recjax's: median over rounds, `ci95` (None of fewer than three
        rounds), `rounds`.
      environment: machine, software of the coordinator, and what else the machine did.
      reasons: by field.
    """

    workload: str
    sizes: dict[str, Any]
    inputs: str
    batch_size: int
    peer: str
    mode: str
    threads: int
    versions: dict[str, str]
    largest_difference: float | None
    tolerance: float
    compile_s: float | None
    latency_ms: list[list[float]] | None
    median_ms: float | None
    cpu_ms: list[float] | None
    waited_cpu_ms: float | None
    ratio: dict[str, Any] | None
    environment: dict[str, Any]
    reasons: dict[str, str]


def row_of(
    result: Result,
    contest: Contest,
    workload: Workload,
    batch_size: int,
    settings: Settings,
    environment: dict[str, Any],
) -> PeerRow:
    """Returns the entrant's row; one that did not finish every round has no times.

    Args:
      result: of the entrant.
      contest: in which recjax is the first.
      workload: of the contest.
      batch_size: of the contest.
      settings: of the contest.
      environment: of the row.
    """
    peer, reason = result.entrant.peer, result.reason
    known: dict[str, Any] = dict.fromkeys(TIMES)
    if reason is None:
        latency_ms, recjax_ms = _latency_ms(result), _latency_ms(contest.results[0])
        known = {
            "latency_ms": latency_ms,
            "median_ms": float(np.median(np.concatenate(latency_ms))),
            "cpu_ms": [round(turn["cpu_ms"], 5) for turn in result.turns],
            "waited_cpu_ms": round(max(turn["waited_cpu_ms"] for turn in result.turns), 5),
        }
        known["ratio"] = None if result is contest.results[0] else median_ratio(latency_ms, recjax_ms)
    values = {"largest_difference": result.largest_difference, "compile_s": result.compile_s, **known}
    why = reason or "it is what the others are compared with"
    return PeerRow(
        workload=workload.name,
        sizes=dataclasses.asdict(workload.sizes),
        inputs=INPUTS,
        batch_size=batch_size,
        peer=peer.name,
        mode=peer.mode,
        threads=settings.threads,
        versions=result.entrant.versions,
        tolerance=settings.tolerance,
        environment=environment,
        reasons={name: why for name, value in values.items() if value is None},
        **values,
    )


def median_ratio(own_ms: list[list[float]], other_ms: list[list[float]]) -> dict[str, Any]:
    """Returns the median over rounds of the ratio of medians, with its 95% interval over rounds.

    A round's turns follow each other within a second or so, hence the ratio is taken within a round. The interval says
    how sure the median of these processes is; other processes of the same programs may differ by more.

    Args:
      own_ms: [R][calls].
      other_ms: [R][calls], of the same rounds.
    """
    ratios = [np.array([np.median(own) / np.median(other)]) for own, other in zip(own_ms, other_ms, strict=True)]
    found = interval(quantile_of(ratios, 0.5), [0] * len(ratios))
    ci95 = None if found.low is None else [found.low, found.high]
    return {"median": found.value, "ci95": ci95, "rounds": len(ratios)}


def verdict(row: PeerRow) -> str:
    """Returns "slower", "faster" or "same" as recjax, by whether the interval holds 1; "" for a row without one."""
    if row.ratio is None or row.ratio["ci95"] is None:
        return ""
    low, high = row.ratio["ci95"]
    return "slower" if low > 1 else "faster" if high < 1 else "same"


def _latency_ms(result: Result) -> list[list[float]]:
    return [[round(ms, 5) for ms in turn["latency_ms"]] for turn in result.turns]
