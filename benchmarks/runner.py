"""Runs a suite: prepares and measures every case, writes rows as they come, and the report at the end.

Each step runs in a process of its own (`benchmarks.step`), unless several processes share the training, or the caller
wants all of it in this one.
"""

import dataclasses
import datetime
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import step
from benchmarks.bench_extra import require_bench_extra
from benchmarks.contestants import NULL_LABEL
from benchmarks.manifest import check_goes_on, describe_command, experiment_digest, write_manifest
from benchmarks.measured import Measured
from benchmarks.measuring import (
    cache_folder,
    confirmed_rates,
    load_facts,
    measure_part,
    process_folder,
    read_part,
    scenarios_of,
)
from benchmarks.prepare import prepare_case
from benchmarks.prepared import PreparedCase, case_folder, load_prepared
from benchmarks.report import print_table, wide_console, write_report
from benchmarks.results import ResultWriter, Row, RowSamples, read_row_samples, read_rows, write_samples
from benchmarks.row_fields import ProcessFacts, Rowed, samples_of
from benchmarks.row_measured import at_lowest_rate
from benchmarks.rows import make_row
from benchmarks.suite import MULTI_STREAM_SAMPLES, Case, Source, Suite
from benchmarks.summary import row_name, samples_key
from recjax.command_line import INTERRUPTED
from recjax.data.sources import check_source
from recjax.load.arrivals import read_trace
from recjax.load.mlperf import require_loadgen
from recjax.measurement.histogram_log import write_histogram_log
from recjax.parallel.start import is_writer
from recjax.progress import console
from recjax.whole_files import drop_half_line

Step = Callable[[dict[str, Any]], None]  # runs what the request describes, here or in a process of its own


def run_apart(suite: Suite, source: Source, device: str, folder: Path, *, resume: bool = False) -> int:
    """Runs the suite with every step in a process of its own; otherwise as `run_suite`.

    Args:
      suite: of the source, or a shard of it.
      source: from which those processes make it again.
      device: "cpu", "gpu" or "tpu".
      folder: of the results.
      resume: go on with the run that is there: finished cases, trainings and processes are kept.

    Raises:
      UserError: nothing is there to go on with, or what is there is of another command, config or code.
    """
    command = describe_command(source, device)
    going_on = check_goes_on(folder, command, suite) if resume else None
    shared = {"source": dataclasses.asdict(source), "device": device, "folder": str(folder)}

    def run(request: dict[str, Any]) -> None:
        step.run_apart(shared | request)

    if device != "cpu":
        try:
            run({"step": "look for", "name": device})  # before anything of an earlier run is touched
        except step.StepError as error:
            return error.code
    return _run(suite, folder, run, command, going_on)


def run_suite(suite: Suite, device: jax.Device, folder: Path) -> int:
    """Runs the suite in this process, prints its table and returns the exit code; an interruption keeps finished rows.

    Raises:
      UserError: a data set, a trace or a package that is not there, before anything is trained or an earlier run's
        rows replaced.
      CheckpointError: a final model cannot be written to `folder`.
    """
    cases = {case.experiment.name: case for case in suite.cases}

    def run(request: dict[str, Any]) -> None:
        case = cases[request["name"]]
        if request["step"] == "prepare":
            prepare_case(case, folder, suite.measurement.train_window_s)
        elif is_writer():  # every process trains; the first one measures what serves, and writes
            measure_part(suite, case, folder, device, request["process"], request["rates"], request["ceilings"])

    return _run(suite, folder, run, {"suite": suite.name, "device": device.platform}, None)


def _run(suite: Suite, folder: Path, run: Step, command: dict[str, Any], going_on: str | None) -> int:
    """Runs the suite, and goes on with the run of that run_id if there is one."""
    _check_needs(suite)
    started, now = time.perf_counter(), datetime.datetime.now(datetime.UTC)
    writer, code = (ResultWriter(folder) if is_writer() else None), 0
    console.print(f"suite {suite.name}; results go to {folder}", markup=False)
    console.print(suite.description, markup=False)
    samples: dict[str, RowSamples] = {}
    run_id = going_on or f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    of_run = {"run_id": run_id, "suite": suite.name, "command": command}
    if writer and going_on:
        samples = _keep_finished(writer, suite, folder, run_id)
    elif writer:
        # No figure and no model of an earlier run may be taken for one of this run.
        for earlier in (folder / "parts", *(case_folder(folder, case.experiment.name) for case in suite.cases)):
            shutil.rmtree(earlier, ignore_errors=True)
        write_manifest(folder, run_id, command, suite)
    finished = {row.case.partition("/")[0] for row in writer.rows} if writer else set()
    for name in finished:
        console.print(f"{name}: finished before", markup=False)
    cases = [case for case in suite.cases if case.experiment.name not in finished]
    unwritten: Case | None = None
    ceilings: dict[str, Any] | None = None

    def write_rows(case: Case) -> None:
        if writer:
            samples.update(_write_rows(writer, suite, case, folder, of_run))
            if samples:
                write_samples(folder / "samples.npz", samples)

    try:
        for number, case in enumerate(cases):
            if len(cases) > 1:
                console.print(_time_left(number, len(cases), time.perf_counter() - started), markup=False)
            largest = case.experiment.serving.buckets[-1]
            if "offline" in suite.measurement.scenarios and largest <= MULTI_STREAM_SAMPLES:
                console.print(
                    f"{case.experiment.name}: no row of offline, which takes batches above {MULTI_STREAM_SAMPLES}; the "
                    f"largest of serving.buckets is {largest}",
                    markup=False,
                )
            unwritten = case
            if not (going_on and load_prepared(folder, case.experiment.name)):
                if writer:
                    shutil.rmtree(case_folder(folder, case.experiment.name), ignore_errors=True)
                run({"step": "prepare", "name": case.experiment.name})
            ceilings = _measure(suite, case, folder, run, ceilings)
            write_rows(case)
            unwritten = None
    except KeyboardInterrupt:
        code = INTERRUPTED
        if unwritten is not None:
            write_rows(unwritten)
        kept = "no row was finished"
        if writer and writer.rows:
            kept = f"{len(writer.rows)} finished rows are kept in {writer.path}; the same command with --resume goes on"
        console.print(f"interrupted; {kept}", markup=False)
    except step.StepError as error:
        code = error.code
    finally:
        if writer and writer.rows:
            latencies = {key: row.latency_ms for key, row in samples.items()}
            report = write_report(writer.rows, folder, latencies)
            print_table(writer.rows, wide_console())
            console.print(
                f"{len(writer.rows)} rows in {time.perf_counter() - started:.0f} s; open {report}", markup=False
            )
    if writer and not code:
        shutil.rmtree(folder / "parts", ignore_errors=True)
    return code


def _check_needs(suite: Suite) -> None:
    """Raises UserError for what the suite reads or runs with and is not there: now, and not after the training."""
    require_bench_extra()
    measurement = suite.measurement
    if "server" in measurement.scenarios and measurement.arrivals.kind == "trace":
        read_trace(Path(measurement.arrivals.trace))
    if measurement.loadgen == "mlperf":
        require_loadgen()
    for case in suite.cases:
        check_source(case.experiment.dataset)


def _time_left(done: int, cases: int, elapsed_s: float) -> str:
    left = f", about {elapsed_s / done * (cases - done) / 60:.0f} minutes left" if done else ""
    return f"case {done + 1} of {cases}{left}"


def _keep_finished(writer: ResultWriter, suite: Suite, folder: Path, run_id: str) -> dict[str, RowSamples]:
    """Keeps the rows of cases that the run has finished, and returns their samples."""
    drop_half_line(writer.path)
    rows, samples = [row for row in read_rows(writer.path) if row.run_id == run_id], dict[str, RowSamples]()
    if not rows:
        return {}  # what is there is of an earlier run, and is moved aside for the first row of this one
    if (folder / "samples.npz").is_file():
        samples = read_row_samples(folder / "samples.npz")
    needed = {
        f"{case.experiment.name}/{label}/{scenario}/{size}": case.experiment.name
        for case in suite.cases
        for label in _labels(case)
        for scenario, size in scenarios_of(suite, case)
    }
    there = {samples_key(row) for row in rows if row.processes == suite.measurement.processes}
    unfinished = {name for key, name in needed.items() if key not in there or key not in samples}
    kept = [row for row in rows if row.case.partition("/")[0] not in unfinished]
    writer.keep(kept)
    return {key: samples[key] for key in map(samples_key, kept)}


def _measure(
    suite: Suite, case: Case, folder: Path, run: Step, ceilings: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Measures a case in one process after the other and returns the device's ceilings.

    The first process searches the servers' rates and compiles for itself; each of the others begins at the lowest
    rates of those before it, and reads the programs that the first one kept.
    """
    name, rates = case.experiment.name, dict[str, float]()
    for process in range(suite.measurement.processes):
        if suite.measurement.processes > 1:
            console.print(f"{name}: process {process + 1} of {suite.measurement.processes}", markup=False)
        if len(read_part(suite, case, folder, process, _labels(case))) < len(scenarios_of(suite, case)):
            if is_writer():
                shutil.rmtree(process_folder(folder, name, process), ignore_errors=True)
                if process == 0:
                    shutil.rmtree(cache_folder(folder, name), ignore_errors=True)
            run({"step": "measure", "name": name, "process": process, "rates": rates, "ceilings": ceilings})
        facts = load_facts(folder, name, process)
        ceilings = facts.environment["ceilings"] if facts else ceilings
        for (scenario, _), records in read_part(suite, case, folder, process, _labels(case)).items():
            if scenario == "server":
                rates = {label: min(rate, rates.get(label, rate)) for label, rate in confirmed_rates(records).items()}
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
            rows = _rows(suite, case, prepared, measured, parts, known, of_run)
            writer.write(row for row, _ in rows)
            for row, records in rows:
                samples[samples_key(row)] = samples_of(records)
                _write_histograms(folder, row, records)
    return samples


def _rows(
    suite: Suite,
    case: Case,
    prepared: PreparedCase,
    measured: Sequence[Sequence[Measured]],
    parts: Sequence[Mapping[tuple[str, int], Sequence[Measured]]],
    facts: Sequence[ProcessFacts],
    of_run: Mapping[str, Any],
) -> list[tuple[Row, list[Measured]]]:
    """Returns one row a variant and the null model, of one scenario, each with the records that it is of."""
    rows, labels = list[tuple[Row, list[Measured]]](), _labels(case)
    for index, label in enumerate(labels):
        variant = next((variant for variant in prepared.variants if variant.label == label), None)
        masked = labels.index(variant.masked_label) if variant and variant.masked_label in labels else None
        records = Rowed(
            of_variant=[records[index] for records in measured],
            of_fp32=[records[0] for records in measured],
            of_masked=None if masked is None else [records[masked] for records in measured],
            of_all=[[records[index] for records in part.values()] for part in parts if part],
        )
        command = of_run["command"] | {"experiment_digest": experiment_digest(case, label)}
        row = make_row(
            case, variant, records, facts, {**of_run, "command": command}, prepared.training, suite.measurement
        )
        rows.append((row, at_lowest_rate(records.of_variant)))
    return rows


def _write_histograms(folder: Path, row: Row, records: Sequence[Measured]) -> None:
    """Writes the row's latencies as an HdrHistogram log, one interval a window."""
    stem = samples_key(row).replace("/", "-").replace(" ", "")
    windows = sorted(
        (
            (facts["started_at_s"], facts["duration_s"], latencies)
            for record in records
            for facts, latencies in zip(record.windows, record.latency_ms, strict=True)
        ),
        key=lambda window: window[0],
    )
    starts, durations, latencies = zip(*windows, strict=True)
    (folder / "histograms").mkdir(exist_ok=True)
    write_histogram_log(folder / "histograms" / f"{stem}.hlog", latencies, starts, durations, row_name(row))


def _labels(case: Case) -> list[str]:
    return [*(variant.label for variant in case.variants), NULL_LABEL]
