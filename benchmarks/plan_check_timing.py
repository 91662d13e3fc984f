"""Programs as `recjax plan` plans them, predicted from this device's measured ceilings, and timed in turn.

The programs are those of a mesh of one device. The ceilings are measured before and after the programs run; of each
the higher counts, as a disturbance can only lower it.
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from benchmarks.plan_check_page import print_rows
from benchmarks.results import keep_earlier_run
from benchmarks.stored import append_stored
from benchmarks.timing import in_turn
from recjax.command_line import make_output_folder
from recjax.config import Experiment, Parallel
from recjax.evaluation import Data
from recjax.hardware.ceilings import Ceilings, measure_ceilings
from recjax.hardware.device import describe_device
from recjax.hardware.estimate import estimate
from recjax.hardware.facts import Chip
from recjax.hardware.program_costs import ProgramCosts, program_costs
from recjax.hardware.programs import PlannedProgram, serving_program, training_program
from recjax.hardware.software import describe_software
from recjax.parallel.mesh import make_mesh
from recjax.progress import console, stage
from recjax.training.first_step import plan_step, total_steps
from recjax.training.mesh_devices import MeshDevices
from recjax.training.pipeline import Setup, finalize, load_data, set_up
from recjax.training.step import is_solved
from recjax.transforms.protocol import chain

BATCHES = 8  # that a program is given in turn
UNCOUNTED = "this device keeps no count of its memory"
HIDDEN = "an earlier program of this process held more of the device's memory at once"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanCheckRow:
    """One program of an experiment on one device; a figure that cannot be had is None, and `reasons` says why.

    Attributes:
      experiment: its name.
      config: path of its file.
      overrides: of its values.
      program: "train" or "serve".
      samples: of one run.
      predicted_ms: at the roofline of the measured ceilings.
      bound_by: which resource that is.
      estimate: the fields of recjax.hardware.estimate.Estimate.
      costs: the fields of recjax.hardware.program_costs.ProgramCosts.
      latency_ms: of every run.
      median_ms: of those.
      over_predicted: median_ms / predicted_ms.
      predicted_memory_bytes: by the compiler.
      measured_memory_bytes: held at most by the device, above what it held before.
      ceilings: measured, the fields of recjax.hardware.ceilings.Ceilings.
      reasons: of each figure that is None.
      environment: device, versions, flags, git state, and the load of the machine before the run.
    """

    experiment: str
    config: str
    overrides: list[str]
    program: str
    samples: int
    predicted_ms: float | None
    bound_by: str | None
    estimate: dict[str, Any]
    costs: dict[str, Any]
    latency_ms: list[float]
    median_ms: float
    over_predicted: float | None
    predicted_memory_bytes: int
    measured_memory_bytes: int | None
    ceilings: dict[str, Any]
    reasons: dict[str, str]
    environment: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadyProgram:
    """A program that was compiled and has run once."""

    experiment: str
    config: str
    program: str
    samples: int
    costs: ProgramCosts
    call: Callable[[], Any]
    measured_memory_bytes: int | None
    no_memory: str | None  # why that is None


def run_checks(
    experiments: Mapping[str, Experiment],
    overrides: Mapping[str, tuple[str, ...]],
    device: jax.Device,
    rounds: int,
    folder: Path,
) -> list[PlanCheckRow]:
    """Returns a row for each program of each experiment, having printed and written them.

    Args:
      experiments: by the path of their file.
      overrides: that they were made with, by the same path.
      device: that runs the programs.
      rounds: of all programs in turn.
      folder: where plan_check.jsonl goes.

    Raises:
      UserError: the folder cannot be made, or an experiment's data or programs cannot be had.
    """
    make_output_folder(folder)
    kind = describe_device([device])["kind"]
    # What else the machine does slows the programs, and the ceilings too: who reads the rows must know.
    load = {"load_1_min": round(os.getloadavg()[0], 1), "processors": os.cpu_count()}
    environment = {"device": kind, "load": load} | describe_software()
    with stage(f"ceilings of {kind}", 2) as advance:
        first = measure_ceilings(device)
        advance()
        ready = [program for path, experiment in experiments.items() for program in _prepare(path, experiment, device)]
        calls = {f"{one.config} {one.program}": one.call for one in ready}
        latency_ms = in_turn(calls, 0.0, rounds, rounds)
        ceilings = higher(first, measure_ceilings(device))
        advance(f"{len(ready)} programs ran {rounds} times each between the two measurements")
    chip = chip_here(kind, device.platform, ceilings, _memory_bytes(device))
    rows = [
        check_row(one, latency_ms[f"{one.config} {one.program}"], list(overrides[one.config]), chip, environment)
        for one in ready
    ]
    keep_earlier_run(folder, "plan_check.jsonl")
    for row in rows:
        append_stored(folder / "plan_check.jsonl", row)
    print_rows(rows)
    console.print(f"rows are in {folder / 'plan_check.jsonl'}", markup=False)
    return rows


def higher(first: Ceilings, second: Ceilings) -> Ceilings:
    """Returns of each ceiling the higher."""
    flops = {name: max(rate, second.flops_per_s[name]) for name, rate in first.flops_per_s.items()}
    return Ceilings(flops, max(first.bytes_per_s, second.bytes_per_s))


def chip_here(kind: str, platform: str, ceilings: Ceilings, memory_bytes: int) -> Chip:
    """Returns the device of this machine as `estimate` takes a chip; rates are measured, and said to be.

    Args:
      kind: its name.
      platform: "cpu", "gpu" or "tpu".
      ceilings: measured.
      memory_bytes: that programs may use.
    """
    measured = "recjax.hardware.ceilings.measure_ceilings, on this device"
    return Chip(
        name=kind,
        platform=platform,
        device_kinds=(kind,),
        devices_per_chip=1,
        peak_flops_per_s=ceilings.flops_per_s,
        float32_product="float32",
        hbm_bytes=memory_bytes,
        usable_hbm_bytes=memory_bytes,
        hbm_bytes_per_s=ceilings.bytes_per_s,
        links=0,
        link_bytes_per_s=0.0,
        max_chips=1,
        sources={"peak_flops_per_s": measured, "hbm_bytes_per_s": measured},
    )


def check_row(
    ready: ReadyProgram, latency_ms: list[float], overrides: list[str], chip: Chip, environment: Mapping[str, Any]
) -> PlanCheckRow:
    """Returns a program's prediction beside its times."""
    best, median_ms = estimate(ready.costs, chip, (1,), ready.samples), float(np.median(latency_ms))
    predicted_ms = None if best.step_s is None else best.step_s * 1e3
    reasons = {"measured_memory_bytes": ready.no_memory} if ready.no_memory else {}
    if not predicted_ms:
        why = best.reasons.get("step_s", "the program has no products and moves nothing")
        reasons |= dict.fromkeys(["predicted_ms", "over_predicted", "bound_by"], why)
    return PlanCheckRow(
        experiment=ready.experiment,
        config=ready.config,
        overrides=overrides,
        program=ready.program,
        samples=ready.samples,
        predicted_ms=predicted_ms,
        bound_by=best.bound_by,
        estimate=dataclasses.asdict(best),
        costs=dataclasses.asdict(ready.costs),
        latency_ms=[round(value, 4) for value in latency_ms],
        median_ms=median_ms,
        over_predicted=median_ms / predicted_ms if predicted_ms else None,
        predicted_memory_bytes=ready.costs.memory_bytes,
        measured_memory_bytes=ready.measured_memory_bytes,
        ceilings={"flops_per_s": dict(chip.peak_flops_per_s), "bytes_per_s": chip.hbm_bytes_per_s},
        reasons=reasons,
        environment=dict(environment),
    )


def held_at_most(before: Mapping[str, int] | None, after: Mapping[str, int] | None) -> tuple[int | None, str | None]:
    """Returns the bytes that a device held at most above what it held before, or None and why.

    Args:
      before: the device's `memory_stats()` before anything of a program was there.
      after: and after it ran. The peak is that of the whole process: if it has not risen, it is not this program's.
    """
    if not before or not after or "peak_bytes_in_use" not in after:
        return None, UNCOUNTED
    if after["peak_bytes_in_use"] <= before["peak_bytes_in_use"]:
        return None, HIDDEN
    return after["peak_bytes_in_use"] - before["bytes_in_use"], None


def _prepare(path: str, experiment: Experiment, device: jax.Device) -> list[ReadyProgram]:
    """Returns the experiment's programs, a training step and an answer; a model that is solved has no step."""
    data, mesh = load_data(experiment), make_mesh({"data": 1}, [device])
    setup = set_up(experiment, data)
    serving = serving_program(experiment, data, mesh)
    made: dict[str, tuple[PlannedProgram, Callable]] = {
        "serve": (serving, functools.partial(_answers, experiment, data, setup, serving))
    }
    if not is_solved(setup.model_config.build(data.schema)):
        step = functools.partial(_steps, experiment, data, setup, mesh)
        made = {"train": (training_program(experiment, data, mesh), step), **made}
    ready = []
    for name, (planned, calls_of) in made.items():
        traced = planned.function.trace(*planned.arguments)
        compiled = traced.lower().compile()
        before = device.memory_stats()
        call = calls_of(compiled)
        jax.block_until_ready(call())
        held, why_not = held_at_most(before, device.memory_stats())
        ready.append(
            ReadyProgram(
                experiment=experiment.name,
                config=path,
                program=name,
                samples=planned.samples,
                costs=program_costs(traced, compiled, 1),
                call=call,
                measured_memory_bytes=held,
                no_memory=why_not,
            )
        )
    return ready


def _steps(experiment: Experiment, data: Data, setup: Setup, mesh: Mesh, compiled: Any) -> Callable[[], Any]:
    """Returns a call that takes the next training step and gives its loss; batches are on the device already."""
    settings, transform = setup.settings, chain(*experiment.transforms)
    beside: dict[str, Any] = {"context": dict(data.context)} if data.context else {}
    beside |= {"teacher": setup.teacher.params} if setup.teacher else {}
    batches = list(itertools.islice(data.train_batches(settings.batch_size, settings.seed, 1), BATCHES))
    step = plan_step(
        setup.model_config,
        setup.params,
        data.schema,
        {**batches[0], **beside},
        settings,
        transform,
        total_steps=total_steps(data, settings),
        teacher=setup.teacher,
        parallel=Parallel(strategy="pjit", data=1, model=1),
        jax_devices=list(mesh.devices.flat),
    )
    assert isinstance(step.devices, MeshDevices)
    state, constants = step.devices.first_state(step.init, setup.params), step.devices.put_whole(beside)
    turns = itertools.cycle([step.devices.put_batch(batch) for batch in batches])

    def call() -> Any:
        nonlocal state
        state, loss = compiled(state, {**next(turns), **constants})
        return loss

    return call


def _answers(
    experiment: Experiment, data: Data, setup: Setup, planned: PlannedProgram, compiled: Any
) -> Callable[[], Any]:
    """Returns a call that answers the next batch of requests, which are on the device already."""
    variables_like, requests_like = planned.arguments
    model = finalize(experiment, data, setup.params, fine_tunes=False)
    variables = jax.tree.map(lambda leaf, like: jax.device_put(leaf, like.sharding), model.variables, variables_like)
    columns, rng = data.serving_samples(), np.random.default_rng(0)
    n = len(next(iter(columns.values())))

    def batch() -> dict[str, jax.Array]:
        rows = rng.integers(0, n, planned.samples)
        return {
            name: jax.device_put(columns[name][rows].astype(like.dtype), like.sharding)
            for name, like in requests_like.items()
        }

    turns = itertools.cycle([batch() for _ in range(BATCHES)])
    return lambda: compiled(variables, next(turns))


def _memory_bytes(device: jax.Device) -> int:
    """Returns the memory that programs may use: what the device says, or the host's."""
    statistics = device.memory_stats()
    if statistics and "bytes_limit" in statistics:
        return int(statistics["bytes_limit"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
