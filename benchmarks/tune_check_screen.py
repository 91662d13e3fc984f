"""Which hand-made variants are fast here: all that keep the quality floor, timed; the fastest of them, trained."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

from benchmarks.prepare import prepare_case
from benchmarks.results import read_rows
from benchmarks.stored import append_stored, read_stored
from benchmarks.suite import Case, load_suite
from recjax.command_line import make_output_folder
from recjax.config import Experiment
from recjax.errors import UserError
from recjax.load.closed_loop import closed_loop, warm_up
from recjax.load.quiet_heap import quiet_heap
from recjax.load.system import ModelSystem
from recjax.load.window import Window
from recjax.progress import console, stage
from recjax.serving.compiled import compile_final_model
from recjax.serving.deployment import Deployment
from recjax.training.pipeline import dry_run, load_data
from recjax.tuning.remeasure import closed_loops_in_turn, rate_interval

SCREEN = "screen.jsonl"
WINDOW_S, MIN_QUERIES, SEED = 0.1, 3, 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Screened:
    """A hand-made variant: its stored quality, and its speed here in full batches with drawn weights."""

    label: str
    quality_retained: float | None
    keeps_floor: bool
    batch_size: int
    samples_per_s: float | None  # None for one that does not keep the floor: it was not timed
    low: float | None
    high: float | None
    is_trained: bool  # whether it was among the fastest


def prepare(deployment: Deployment, rows: Path, n_best: int, models: Path, out: Path) -> None:
    """Writes the screened variants, and trains the fastest beside fp32.

    Raises:
      UserError: the suite has not the deployment's experiment, or no rows of it.
    """
    case = case_of(deployment)
    retained = stored_retained(rows, case.experiment)
    make_output_folder(out)
    floor = deployment.limits.quality_floor
    kept = [v for v in case.variants if (retained.get(v.label) or 0.0) >= floor]
    experiment, data = case.experiment, load_data(case.experiment)
    columns, size = data.serving_samples(), case.experiment.serving.buckets[-1]
    systems = []
    with stage(f"{experiment.name}: compiling hand-made variants", len(kept)) as advance:
        for variant in kept:
            model = dry_run(dataclasses.replace(experiment, transforms=variant.members), data)
            compiled = compile_final_model(model, columns, (size,), experiment.serving.top_k)
            systems.append(ModelSystem(compiled, columns))
            warm_up(systems[-1])
            advance(variant.label)

    def full_batches(system: ModelSystem, seed: int) -> Window:
        return closed_loop(system, size, WINDOW_S, MIN_QUERIES, seed)

    with quiet_heap():
        windows = closed_loops_in_turn([functools.partial(full_batches, system) for system in systems], SEED)
    rates = {variant.label: rate_interval(of_one) for variant, of_one in zip(kept, windows, strict=True)}
    fastest = sorted((label for label in rates if label != "fp32"), key=lambda label: -rates[label].value)[:n_best]
    (out / SCREEN).unlink(missing_ok=True)
    for variant in case.variants:
        rate = rates.get(variant.label)
        append_stored(
            out / SCREEN,
            Screened(
                label=variant.label,
                quality_retained=retained.get(variant.label),
                keeps_floor=rate is not None,
                batch_size=size,
                samples_per_s=None if rate is None else rate.value,
                low=None if rate is None else rate.low,
                high=None if rate is None else rate.high,
                is_trained=variant.label in fastest,
            ),
        )
    for label in fastest:
        console.print(f"{label}: {rates[label].value:,.0f} samples/s with drawn weights", markup=False)
    chosen = tuple(v for v in case.variants if v.label == "fp32" or v.label in fastest)
    prepare_case(dataclasses.replace(case, variants=chosen), models)


def case_of(deployment: Deployment) -> Case:
    """Returns the suite's case of the deployment's experiment, which must be the very same but for its transforms."""
    experiment = dataclasses.replace(deployment.experiment(), transforms=())
    for case in load_suite("transforms", []).cases:
        if case.experiment == experiment:
            return case
    raise UserError(
        f"the transforms suite has no case of the experiment of {deployment.name}; tune one of its experiments, with "
        "its changes by --set, as model.top_mlp=1024,1024,512 and serving.buckets=1,64,1024 of dlrm_dcnv2"
    )


def stored_retained(rows: Path, experiment: Experiment) -> Mapping[str, float | None]:
    """Returns the share of fp32's test quality that each variant kept, by its label; raises UserError for no rows."""
    if not rows.is_file():
        raise UserError(f"no {rows}; make it with python -m benchmarks.run --suite=transforms")
    prefix = f"{experiment.name}/"
    found = {row.variant: row.quality_retained for row in read_rows(rows) if row.case.startswith(prefix)}
    if not found:
        raise UserError(f"{rows} has no row of {experiment.name}; give another file with --rows")
    return found


def read_screened(out: Path) -> list[Screened]:
    """Returns the screened variants; raises UserError if there are none."""
    file = out / SCREEN
    if not file.is_file():
        raise UserError(f"no {file}; run benchmarks.tune_check --step=prepare first")
    return read_stored(file, Screened, "benchmarks.tune_check --step=prepare")
