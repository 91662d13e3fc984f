"""Runs a suite: prepares and measures every case, writes rows as they come, and the report at the end.

Each step runs in a process of its own (`benchmarks.step`), unless several processes share the training, or the caller
wants all of it in this one.
"""

import dataclasses
import datetime
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import step
from benchmarks.contestants import NULL_LABEL
from benchmarks.measured import Measured
from benchmarks.measuring import found_rates, load_facts, measure_part, read_part, scenarios_of
from benchmarks.prepare import prepare_case
from benchmarks.prepared import PreparedCase, load_prepared
from benchmarks.report import print_table, wide_console, write_report
from benchmarks.results import ResultWriter, Row, RowSamples, write_samples
from benchmarks.rows import Rowed, make_row, samples_of
from benchmarks.suite import Case, Source, Suite
from benchmarks.summary import samples_key
from recjax.command_line import INTERRUPTED
from recjax.data.sources import check_source
from recjax.parallel.start import is_writer
from recjax.progress import console

Step = Callable[[dict[str, Any]], None]  # runs what the request describes, here or in a process of its own


def run_apart(suite: Suite, source: Source, device: str, folder: Path) -> int:
    """Runs the suite with every step in a process of its own; arguments and outcome are those of `run_suite`."""
    with tempfile.TemporaryDirectory() as cache:
        # The first process that measures a case compiles for itself, later ones read what it left.
        of_compiler = {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }

        def run(request: dict[str, Any]) -> None:
            described = {"source": dataclasses.asdict(source), "device": device, "folder": str(folder)}
            step.run_apart(described | request, of_compiler if request["step"] == "measure" else {})

        return _run(suite, folder, run)


def run_suite(suite: Suite, device: jax.Device, folder: Path) -> int:
    """Runs the suite in this process, prints its table and returns the exit code; an interruption keeps finished rows.

    Raises:
      UserError: a data set that is not there, before anything is measured or an earlier run's rows replaced.
      CheckpointError: a final model cannot be written to `folder`.
    """
    cases = {case.experiment.name: case for case in suite.cases}

    def run(request: dict[str, Any]) -> None:
        case = cases[request["name"]]
        if request["step"] == "prepare":
            prepare_case(case, folder, suite.measurement.train_window_s)
        elif is_writer():  # every process trains; the first one measures what serves, and writes
            measure_part(suite, case, folder, device, request["process"], request["rates"], request["ceilings"])

    return _run(suite, folder, run)


def _run(suite: Suite, folder: Path, run: Step) -> int:
    for case in suite.cases:
        check_source(case.experiment.dataset)
    started, now = time.perf_counter(), datetime.datetime.now(datetime.UTC)
    console.print(f"suite {suite.name}; results go to {folder}", markup=False)
    console.print(suite.description, markup=False)
    writer, code = (ResultWriter(folder) if is_writer() else None), 0
    samples: dict[str, RowSamples] = {}
    of_run = {"run_id": f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}", "suite": suite.name}
    if is_writer():
        _clear(folder, suite)
    unwritten: Case | None = None
    ceilings: dict[str, Any] | None = None
    try:
        for case in suite.cases:
            unwritten = case
            run({"step": "prepare", "name": case.experiment.name})
            ceilings = _measure(suite, case, folder, run, ceilings)
            if writer:
                samples |= _write_rows(writer, suite, case, folder, of_run)
            unwritten = None
    except KeyboardInterrupt:
        code = INTERRUPTED
        if writer and unwritten is not None:
            samples |= _write_rows(writer, suite, unwritten, folder, of_run)
        kept = "no row was finished"
        if writer and writer.rows:
            kept = f"{len(writer.rows)} finished rows are kept in {writer.path}"
        console.print(f"interrupted; {kept}", markup=False)
    except step.StepError as error:
        code = error.code
    finally:
        if writer and writer.rows:
            write_samples(folder / "samples.npz", samples)
            latencies = {key: row.latency_ms for key, row in samples.items()}
            report = write_report(writer.rows, folder, latencies)
            print_table(writer.rows, wide_console())
            console.print(
                f"{len(writer.rows)} rows in {time.perf_counter() - started:.0f} s; open {report}", markup=False
            )
        if writer:
            shutil.rmtree(folder / "parts", ignore_errors=True)
    return code


def _clear(folder: Path, suite: Suite) -> None:
    """Removes what an earlier run left between its steps, so that no figure of it can be taken for one of this run."""
    shutil.rmtree(folder / "parts", ignore_errors=True)
    for case in suite.cases:
        shutil.rmtree(folder / "models" / case.experiment.name, ignore_errors=True)


def _measure(
    suite: Suite, case: Case, folder: Path, run: Step, ceilings: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Measures a case in one process after the other and returns the device's ceilings."""
    name, rates = case.experiment.name, dict[str, float]()
    for process in range(suite.measurement.processes):
        if suite.measurement.processes > 1:
            console.print(f"{name}: process {process + 1} of {suite.measurement.processes}", markup=False)
        run({"step": "measure", "name": name, "process": process, "rates": rates, "ceilings": ceilings})
        facts = load_facts(folder, name, process)
        ceilings = facts.environment["ceilings"] if facts else ceilings
        if process == 0:
            by_scenario = read_part(suite, case, folder, 0, _labels(case))
            rates = next((found_rates(records) for key, records in by_scenario.items() if key[0] == "server"), {})
    return ceilings


def _write_rows(
    writer: ResultWriter, suite: Suite, case: Case, folder: Path, of_run: Mapping[str, Any]
) -> dict[str, RowSamples]:
    """Writes the rows of every scenario that was measured, and returns their samples."""
    prepared = load_prepared(folder, case.experiment.name)
    numbers = range(suite.measurement.processes)
    facts = [load_facts(folder, case.experiment.name, process) for process in numbers]
    if prepared is None or facts[0] is None:
        return {}
    parts = [read_part(suite, case, folder, process, _labels(case)) for process in numbers]
    known = [of_process for of_process in facts if of_process is not None]
    samples: dict[str, RowSamples] = {}
    for key in scenarios_of(suite, case):
        measured = [part[key] for part in parts if key in part]
        if measured:
            rows, of_rows = _rows(case, prepared, measured, parts, known, of_run)
            writer.write(rows)
            samples |= of_rows
    return samples


def _rows(
    case: Case,
    prepared: PreparedCase,
    measured: Sequence[Sequence[Measured]],
    parts: Sequence[Mapping[tuple[str, int], Sequence[Measured]]],
    facts: Sequence[Any],
    of_run: Mapping[str, Any],
) -> tuple[list[Row], dict[str, RowSamples]]:
    """Returns one row a variant and the null model, of one scenario that was measured in one or more processes."""
    rows, samples, labels = list[Row](), dict[str, RowSamples](), _labels(case)
    for index, label in enumerate(labels):
        variant = next((variant for variant in prepared.variants if variant.label == label), None)
        masked = labels.index(variant.masked_label) if variant and variant.masked_label in labels else None
        records = Rowed(
            of_variant=[records[index] for records in measured],
            of_fp32=[records[0] for records in measured],
            of_masked=None if masked is None else [records[masked] for records in measured],
            of_all=[[records[index] for records in part.values()] for part in parts if part],
        )
        row = make_row(case, variant, records, facts, of_run, prepared.training)
        rows.append(row)
        samples[samples_key(row)] = samples_of(records.of_variant)
    return rows, samples


def _labels(case: Case) -> list[str]:
    return [*(variant.label for variant in case.variants), NULL_LABEL]
