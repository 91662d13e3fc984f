"""Runs a suite: prepares and measures every case, writes rows as they come, and the report at the end."""

import datetime
import secrets
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from benchmarks.environment import describe_environment
from benchmarks.measure import measure_case
from benchmarks.prepare import prepare_case
from benchmarks.report import print_table, wide_console, write_report
from benchmarks.results import ResultWriter
from benchmarks.rows import RunFacts
from benchmarks.suite import Suite
from recjax.command_line import INTERRUPTED
from recjax.data.sources import check_source
from recjax.hardware.ceilings import measure_ceilings
from recjax.hardware.device import describe_device
from recjax.parallel.start import is_writer
from recjax.progress import console, stage


def run_suite(suite: Suite, device: jax.Device, folder: Path) -> int:
    """Runs the suite, prints its table and returns the exit code; finished rows survive an interruption.

    Raises:
      UserError: a data set that is not there, before anything is measured or an earlier run's rows replaced.
      CheckpointError: a final model cannot be written to `folder`.
    """
    for case in suite.cases:
        check_source(case.experiment.dataset)
    started, now = time.perf_counter(), datetime.datetime.now(datetime.UTC)
    console.print(f"suite {suite.name} on {describe_device([device])['kind']}; results go to {folder}", markup=False)
    console.print(suite.description, markup=False)
    writer, code = (ResultWriter(folder) if is_writer() else None), 0
    samples: dict[str, NDArray] = {}
    try:
        with stage("measuring the device's ceilings", 1) as advance:
            ceilings = measure_ceilings(device)
            advance(", ".join(f"{dtype} {rate / 1e9:,.0f} GFLOP/s" for dtype, rate in ceilings.flops_per_s.items()))
        facts = RunFacts(
            run_id=f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}",
            suite=suite.name,
            device=device,
            ceilings=ceilings,
            environment=describe_environment(device, ceilings) | {"seed": suite.measurement.seed},
        )
        for case in suite.cases:
            contestants = prepare_case(case, folder, suite.measurement.train_window_s)
            if writer is None:  # every process trains; the first one measures what serves, and writes
                continue
            for rows, latencies in measure_case(contestants, suite.measurement, facts):
                writer.write(rows)
                samples |= latencies
    except KeyboardInterrupt:
        code = INTERRUPTED
        kept = "no row was finished"
        if writer and writer.rows:
            kept = f"{len(writer.rows)} finished rows are kept in {writer.path}"
        console.print(f"interrupted; {kept}", markup=False)
    finally:
        if writer and writer.rows:
            arrays: dict[str, Any] = {key: latency_ms.astype(np.float32) for key, latency_ms in samples.items()}
            np.savez_compressed(folder / "samples.npz", **arrays)
            report = write_report(writer.rows, folder, samples)
            print_table(writer.rows, wide_console())
            console.print(
                f"{len(writer.rows)} rows in {time.perf_counter() - started:.0f} s; open {report}", markup=False
            )
    return code
