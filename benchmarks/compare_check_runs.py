"""The three runs of `benchmarks.compare_check`, measured in turns in fresh processes."""

import contextlib
import dataclasses
import datetime
import json
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare_check_suite import check_suite
from benchmarks.measured import Measured
from benchmarks.measuring import load_facts, read_part, scenarios_of
from benchmarks.prepared import load_prepared
from benchmarks.results import ResultWriter, RowSamples, write_samples
from benchmarks.row_fields import Rowed, samples_of
from benchmarks.rows import make_row
from benchmarks.suite import Case, Measurement, Suite
from benchmarks.summary import samples_key
from benchmarks.turns import TurnTaker, take_turns
from recjax.command_line import make_output_folder
from recjax.errors import UserError
from recjax.hardware.ceilings import measure_ceilings
from recjax.hardware.device import select_device
from recjax.progress import stage

RUNS = ("first", "second", "slowed")
PROCESS = (sys.executable, "-m", "benchmarks.compare_check_process")


def measure_runs(out: Path, processes: int, slowdown: float, seed: int) -> None:
    """Writes the rows and samples of all runs below `out`.

    Args:
      out: folder of the results.
      processes: fresh ones of each run.
      slowdown: mean share by which the systems of the last run are slowed.
      seed: of the drawn shares and of the order of the turns.

    Raises:
      UserError: a process ended with an error.
    """
    make_output_folder(out)
    suite = check_suite(processes)
    with tempfile.TemporaryDirectory(prefix="recjax-") as name:
        work = Path(name)
        ceilings = dataclasses.asdict(measure_ceilings(select_device("cpu")[0]))
        shared = {"folder": name, "cache": str(work / "cache"), "processes": processes, "ceilings": ceilings}
        if subprocess.run((*PROCESS, json.dumps(shared | {"process": None})), check=False).returncode:
            raise UserError("the models could not be trained: the reason stands above")
        with stage("measuring in turns", processes) as advance:
            for process in range(processes):
                _measure_process(shared | {"process": process, "seed": seed}, slowdown, work)
                advance(f"{process + 1} processes of each run")
        for run in RUNS:
            _write_rows(suite, work, run, processes, out / run)


def _measure_process(shared: dict[str, Any], slowdown: float, work: Path) -> None:
    """Measures one process of each run, all of them in turns."""
    with contextlib.ExitStack() as stack:
        takers = []
        for run in RUNS:
            request = shared | {"run": run, "slowdown": slowdown if run == "slowed" else 0.0}
            command = (*PROCESS, json.dumps(request))
            path = work / f"{run}-{request['process']}.turns"
            taker = TurnTaker(f"a process of {run}", command, work / f"{run}.log", path, Path.cwd(), {})
            takers.append(stack.enter_context(taker))
        take_turns(takers, request["seed"] + request["process"])


def _write_rows(suite: Suite, work: Path, run: str, processes: int, folder: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    of_run = {
        "run_id": f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}",
        "suite": suite.name,
        "command": {"module": "benchmarks.compare_check", "run": run},
    }
    writer, samples = ResultWriter(folder), dict[str, RowSamples]()
    for case in suite.cases:
        labels = [variant.label for variant in case.variants]
        parts = [read_part(suite, case, work / run, process, labels) for process in range(processes)]
        for scenario in scenarios_of(suite, case):
            measured = [part[scenario] for part in parts]
            samples |= _write_scenario(writer, case, work, run, measured, parts, of_run, suite.measurement)
    write_samples(folder / "samples.npz", samples)


def _write_scenario(
    writer: ResultWriter,
    case: Case,
    work: Path,
    run: str,
    measured: Sequence[Sequence[Measured]],
    parts: Sequence[dict[tuple[str, int], list[Measured]]],
    of_run: dict[str, Any],
    asked: Measurement,
) -> dict[str, RowSamples]:
    """Writes one row a variant, and returns their samples."""
    name, samples = case.experiment.name, dict[str, RowSamples]()
    prepared = load_prepared(work, name)
    facts = [of_process for n in range(len(parts)) if (of_process := load_facts(work / run, name, n)) is not None]
    assert prepared is not None
    for index, variant in enumerate(prepared.variants):
        records = Rowed(
            of_variant=[records[index] for records in measured],
            of_fp32=[records[0] for records in measured],
            of_masked=None,
            of_all=[[records[index] for records in part.values()] for part in parts],
        )
        row = make_row(case, variant, records, facts, of_run, prepared.training, asked)
        writer.write([row])
        samples[samples_key(row)] = samples_of(records.of_variant)
    return samples
