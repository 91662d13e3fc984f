"""One process that measures all variants of a case, scenario by scenario, and leaves what it found on disk."""

import dataclasses
import json
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from benchmarks.contestants import Contestant, load_contestants, serving_mesh
from benchmarks.environment import describe_environment
from benchmarks.measure import Place, closed_scenarios, measure_case
from benchmarks.measured import Measured, append_measured, read_measured
from benchmarks.row_fields import ProcessFacts
from benchmarks.suite import Case, Suite
from recjax.hardware.ceilings import Ceilings, measure_ceilings
from recjax.hardware.device import describe_device, peak_memory_bytes
from recjax.progress import stage
from recjax.whole_files import write_json

FACTS = "process.json"


def process_folder(folder: Path, experiment: str, process: int) -> Path:
    """Returns where a process leaves what it measured of an experiment."""
    return folder / "parts" / experiment / f"process-{process}"


def cache_folder(folder: Path, experiment: str) -> Path:
    """Returns where the processes that measure an experiment keep their programs."""
    return folder / "parts" / experiment / "programs"


def measure_part(
    suite: Suite,
    case: Case,
    folder: Path,
    device: jax.Device,
    process: int,
    rates: Mapping[str, float],
    ceilings: Mapping[str, Any] | None,
) -> None:
    """Measures a prepared case in this process; every finished scenario is on disk.

    Args:
      suite: that the case is of.
      case: prepared before.
      folder: of the run.
      device: that answers.
      process: number of this process.
      rates: of the server scenario by label, the lowest that the earlier processes confirmed.
      ceilings: of the device, None if they are to be measured here.
    """
    name, part = case.experiment.name, process_folder(folder, case.experiment.name, process)
    contestants = load_contestants(case, folder)
    limits = Ceilings(**ceilings) if ceilings else _measure_ceilings(device)
    mesh = serving_mesh(case.experiment)
    facts = facts_of(process, contestants, device, limits, suite.measurement.seed, mesh)
    save_facts(facts, part)
    place = Place(process=process, platform=device.platform, n_devices=mesh.size if mesh else 1, name=name)
    for records in measure_case(contestants, suite.measurement, case.experiment.serving, place, rates):
        append_measured(part, records)
        facts = dataclasses.replace(
            facts, peak_memory_bytes=peak_memory_bytes(device), peak_host_bytes=_peak_host_bytes()
        )
        save_facts(facts, part)


def facts_of(
    process: int,
    contestants: Sequence[Contestant],
    device: jax.Device,
    ceilings: Ceilings,
    seed: int,
    mesh: Mesh | None = None,
) -> ProcessFacts:
    """Returns what a process says of itself before its first window.

    Args:
      process: its number.
      contestants: that it measures.
      device: that answers.
      ceilings: of the device.
      seed: of the suite's draws.
      mesh: of all devices that answer together.
    """
    return ProcessFacts(
        process=process,
        device=describe_device([device], mesh),
        device_kind=device.device_kind,
        programs={
            one.label: {str(size): dict(program) for size, program in one.programs.items()} for one in contestants
        },
        environment=describe_environment(device, ceilings) | {"seed": seed},
        position_padding=contestants[0].position_padding,
    )


def save_facts(facts: ProcessFacts, part: Path) -> None:
    """Writes them into the folder of a process."""
    part.mkdir(parents=True, exist_ok=True)
    write_json(part / FACTS, dataclasses.asdict(facts))


def load_facts(folder: Path, experiment: str, process: int) -> ProcessFacts | None:
    """Returns what a process said of itself, None if it has not begun to measure."""
    file = process_folder(folder, experiment, process) / FACTS
    return ProcessFacts(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def scenarios_of(suite: Suite, case: Case) -> list[tuple[str, int]]:
    """Returns the scenarios of a case with their batch sizes, in the order in which they are measured."""
    serving = case.experiment.serving
    server = [("server", serving.buckets[-1])] if "server" in suite.measurement.scenarios else []
    return closed_scenarios(suite.measurement, serving) + server


def read_part(
    suite: Suite, case: Case, folder: Path, process: int, labels: Sequence[str]
) -> dict[tuple[str, int], list[Measured]]:
    """Returns what a process measured by scenario; those that it did not finish are missing."""
    part = process_folder(folder, case.experiment.name, process)
    found = {
        (scenario, size): read_measured(part, scenario, size, labels) for scenario, size in scenarios_of(suite, case)
    }
    return {key: records for key, records in found.items() if records is not None}


def confirmed_rates(records: Sequence[Measured]) -> dict[str, float]:
    """Returns the servers' rates that a process found or confirmed, by label."""
    return {record.label: record.windows[0]["offered_qps"] for record in records if record.search is not None}


def _measure_ceilings(device: jax.Device) -> Ceilings:
    with stage("measuring the device's ceilings", 1) as advance:
        ceilings = measure_ceilings(device)
        advance(", ".join(f"{dtype} {rate / 1e9:,.0f} GFLOP/s" for dtype, rate in ceilings.flops_per_s.items()))
    return ceilings


def _peak_host_bytes() -> int:
    """Returns the most memory that this process ever held; Linux counts in kB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
