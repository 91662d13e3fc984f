"""Runs the peers suite: workload after workload, rows to `peers.jsonl` as they come, the table at the end."""

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.peers.contest import run_contest
from benchmarks.peers.entrants import Settings, entrants_of
from benchmarks.peers.page import print_rows, render
from benchmarks.peers.process import environment_of
from benchmarks.peers.registry import PEERS, RECJAX, Peer
from benchmarks.peers.rows import PeerRow, row_of
from benchmarks.peers.workloads import WORKLOADS, Workload, write_sizes
from benchmarks.results import keep_earlier_run
from benchmarks.stored import append_stored
from recjax.command_line import INTERRUPTED, make_output_folder
from recjax.errors import UserError, unknown_name
from recjax.hardware.software import describe_software
from recjax.processor import cpu_model
from recjax.progress import console, stage

ROWS, PAGE = "peers.jsonl", "peers.md"
Named = TypeVar("Named", Workload, Peer)


def run_peers(
    folder: Path,
    platform: str,
    *,
    workloads: Sequence[Workload] = WORKLOADS,
    peers: Sequence[Peer] = PEERS,
    settings: Settings | None = None,
) -> int:
    """Runs the suite, prints its table and returns the exit code; finished rows survive an interruption.

    Args:
      folder: where peers.jsonl and peers.md go.
      platform: "cpu".
      workloads: in order.
      peers: of which those enter a workload that have it; recjax always does.
      settings: how they are timed; None is Settings with a thread for each core that this process may use.

    Raises:
      UserError: another platform, more threads than cores, an interpreter that is not there, a folder that cannot be
        made, or recjax itself fails.
    """
    if platform != "cpu":
        raise UserError(f"the peers suite runs on a CPU, and --device is {platform!r}; allowed: --device=cpu")
    settings, cores = settings or Settings(threads=usable_cores()), usable_cores()
    if settings.threads > cores:
        raise UserError(
            f"--threads is {settings.threads}, and this process may use {cores} cores; allowed: 1 to {cores}"
        )
    check_pythons(settings.pythons, peers)
    make_output_folder(folder)
    environment = {"device": cpu_model(), "processors": os.cpu_count()} | describe_software()
    rows: list[PeerRow] = []
    code, started = 0, time.perf_counter()
    try:
        for workload in workloads:
            entering = [RECJAX, *(p for p in peers if p is not RECJAX and workload.sizes.kind in p.kinds)]
            for new in _workload_rows(workload, entering, settings, environment):
                if not rows:
                    keep_earlier_run(folder, ROWS, PAGE)
                for row in new:
                    append_stored(folder / ROWS, row)
                rows += new
    except KeyboardInterrupt:
        code = INTERRUPTED
        console.print(f"interrupted; {len(rows)} finished rows are kept in {folder / ROWS}", markup=False)
    finally:
        if rows:
            (folder / PAGE).write_text(render(rows), encoding="utf-8")
            print_rows(rows)
            took_s = time.perf_counter() - started
            console.print(f"{len(rows)} rows in {took_s:.0f} s; see {folder / PAGE}", markup=False)
    return code


def named(kind: str, names: Sequence[str], of: Sequence[Named]) -> list[Named]:
    """Returns those of the names, in their own order, or all if there are no names; raises UserError for an unknown."""
    for name in names:
        if name not in [one.name for one in of]:
            raise unknown_name(kind, name, [one.name for one in of])
    return [one for one in of if one.name in names or not names]


def usable_cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_pythons(pythons: Mapping[str, str], peers: Sequence[Peer]) -> None:
    """Raises UserError unless every interpreter is there and for a peer that takes part."""
    names = [peer.name for peer in peers]
    for name, python in pythons.items():
        if name not in names:
            raise UserError(f"--python names {name!r}, which takes no part; valid: {', '.join(names)}")
        if shutil.which(python) is None:
            raise UserError(f"--python of {name} is {python}, which cannot be run; give the path of a Python")


def _workload_rows(
    workload: Workload, peers: Sequence[Peer], settings: Settings, environment: Mapping[str, Any]
) -> Iterator[list[PeerRow]]:
    """Yields the rows of each batch size; the task's folder and all processes are gone at the end."""
    with tempfile.TemporaryDirectory(prefix="recjax-peers-") as name, contextlib.ExitStack() as stack:
        task = Path(name)
        with stage(f"{workload.name}: weights and requests", 1 + len(peers)) as advance:
            _draw(workload, task, settings.threads)
            advance("drawn")
            entrants = stack.enter_context(entrants_of(peers, task, settings, advance))
        for batch_size in workload.batch_sizes:
            title, steps = f"{workload.name}: batch {batch_size}", len(peers) + settings.rounds
            with stage(title, steps) as advance:
                contest = run_contest(workload, batch_size, entrants, task, settings, advance)
            seen = {
                "others_share": contest.others_share,
                "tries": contest.tries,
                "noise": dataclasses.asdict(contest.noise),
                **environment,
            }
            yield [row_of(result, contest, workload, batch_size, settings, seen) for result in contest.results]


def _draw(workload: Workload, task: Path, threads: int) -> None:
    """Fills the task's folder; in a process of its own, whose memory and threads are gone when peers start."""
    write_sizes(task, workload.sizes)
    command = [sys.executable, "-m", "benchmarks.peers.draw", str(task)]
    done = subprocess.run(command, env=environment_of(task, threads, os.environ), capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise UserError(
            f"drawing the weights and requests of {workload.name} failed: {lines[-1]}; fewer --rows take less memory"
        )
