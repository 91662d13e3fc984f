"""One workload at one batch size: peers are built, checked against recjax, and only then timed in turn."""

import random
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.peers.entrants import Contest, Entrant, Result, Settings
from benchmarks.peers.equality import difference_in_words
from benchmarks.peers.quiet import wait_until_quiet
from benchmarks.peers.workloads import Answers, Workload
from recjax.errors import UserError
from recjax.measurement.host_noise import BUSY, HostWatch
from recjax.progress import Advance

PROBE_CALLS, FEWEST_CALLS, MOST_CALLS = 3, 2, 500
PAUSE_S = 0.05  # between turns: ONNX Runtime's threads, for one, were seen to spin for 30 ms after their last work
PROBE, TIMED = 2, 3  # tell the seeds of requests apart; the worker's own is 1


def run_contest(
    workload: Workload, batch_size: int, entrants: Sequence[Entrant], folder: Path, settings: Settings, advance: Advance
) -> Contest:
    """Returns the contest with a result for each entrant, of which the first is recjax.

    Args:
      workload: that the entrants have loaded.
      batch_size: of every call.
      entrants: whose processes wait.
      folder: for the answers that are compared.
      settings: how they are timed.
      advance: called once an entrant is built, and after each round.

    Raises:
      UserError: recjax itself gives no answers.
    """
    results = [Result(entrant) for entrant in entrants]
    for result in results:
        if reply := result.ask(do="build", batch_size=batch_size):
            result.compile_s = reply["compile_s"]
        advance(f"{result.entrant.peer.name} {'left out' if result.reason else 'built'}")
    check_answers(results, batch_size, folder, settings.tolerance)
    _must_run(results[0], workload, batch_size)
    tries, until_s = 0, time.monotonic() + settings.quiet_s
    while True:
        wait_until_quiet(until_s)
        calls = calls_of(results, batch_size, settings.turn_s)
        for result in results:
            result.turns.clear()
        with HostWatch() as watch:
            take_turns(results, calls, batch_size, settings.rounds, advance)
        _must_run(results[0], workload, batch_size)
        tries += 1
        contest = Contest(results, watch.noise, tries)
        if (contest.others_share or 0.0) <= BUSY or time.monotonic() >= until_s:
            return contest


def check_answers(results: Sequence[Result], batch_size: int, folder: Path, tolerance: float) -> None:
    """Compares every entrant's answers with those of the first, without which there is nothing to do."""
    reference: Answers | None = None
    for result in results:
        file = folder / f"{result.entrant.peer.name}-{batch_size}.npz"
        if result.ask(do="check", batch_size=batch_size, to=str(file)) is not None:
            answers = dict(np.load(file, allow_pickle=False))
            reference = answers if reference is None else reference
            result.largest_difference, result.reason = difference_in_words(answers, reference, tolerance)
        if reference is None:
            return


def calls_of(results: Sequence[Result], batch_size: int, turn_s: float) -> dict[int, int]:
    """Returns how many timed calls make a turn of that length, by the numbers of the entrants still in the contest."""
    calls = {}
    for number, result in enumerate(results):
        time.sleep(PAUSE_S)
        if probe := result.ask(do="turn", batch_size=batch_size, seed=[PROBE], calls=PROBE_CALLS):
            wanted = round(1e3 * turn_s / statistics.median(probe["latency_ms"]))
            calls[number] = min(max(wanted, FEWEST_CALLS), MOST_CALLS)
    return calls


def take_turns(
    results: Sequence[Result], calls: Mapping[int, int], batch_size: int, rounds: int, advance: Advance
) -> None:
    """Times the entrants of `calls`: round after round, each time in another random order.

    A round without recjax compares nothing, so its failure ends the contest.
    """
    order = random.Random(batch_size)
    for index in range(rounds):
        for number in order.sample(list(calls), len(calls)):
            time.sleep(PAUSE_S)
            seed = [TIMED, batch_size, index]
            if reply := results[number].ask(do="turn", batch_size=batch_size, seed=seed, calls=calls[number]):
                results[number].turns.append(reply)
        if results[0].reason is not None:
            return
        advance(", ".join(_last_in_words(results[number]) for number in calls), remaining=rounds - 1 - index)


def _must_run(recjax: Result, workload: Workload, batch_size: int) -> None:
    if recjax.reason is not None:
        raise UserError(f"recjax itself does not run {workload.name} at batch {batch_size}: {recjax.reason}")


def _last_in_words(result: Result) -> str:
    if result.reason is not None:
        return f"{result.entrant.peer.name} –"
    return f"{result.entrant.peer.name} {statistics.median(result.turns[-1]['latency_ms']):.3g} ms"
