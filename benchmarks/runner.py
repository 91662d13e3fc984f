"""Runs a suite: trains every case, applies its variants, measures them in turn, writes rows and report."""

import dataclasses
import datetime
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.environment import describe_environment
from benchmarks.measure import Contestant, measure_case
from benchmarks.report import print_table, write_report
from benchmarks.results import ResultWriter
from benchmarks.rows import RunFacts
from benchmarks.suite import Case, Suite
from recjax.config import Experiment
from recjax.evaluation import Data, make_evaluator, sanity_rows
from recjax.hardware.ceilings import measure_ceilings
from recjax.hardware.device import describe_device
from recjax.progress import console, stage
from recjax.serving.compiled import CompiledModel, compile_final_model
from recjax.training.checkpoint import bytes_on_disk
from recjax.training.fit import FitResult
from recjax.training.pipeline import finalize, load_data, train
from recjax.transforms.protocol import Chain, Params, chain

INTERRUPTED = 130  # the shell's code for Ctrl-C


def run_suite(suite: Suite, device: jax.Device, folder: Path) -> int:
    """Runs the suite, prints its table and returns the exit code; finished rows survive an interruption.

    Raises:
      CheckpointError: a final model cannot be written to `folder`.
    """
    started = time.perf_counter()
    now = datetime.datetime.now(datetime.UTC)
    console.print(f"suite {suite.name} on {describe_device([device])['kind']}, results in {folder}", markup=False)
    writer, samples, code = ResultWriter(folder), {}, 0
    try:
        with stage("measuring the device's ceilings", 1) as advance:
            ceilings = measure_ceilings(device)
            advance(", ".join(f"{k} {v / 1e9:,.0f} GFLOP/s" for k, v in ceilings.flops_per_s.items()))
        facts = RunFacts(
            run_id=f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}",
            suite=suite.name,
            device=device,
            ceilings=ceilings,
            environment=describe_environment(device) | {"seed": suite.measurement.seed},
        )
        for case in suite.cases:
            for rows, windows in measure_case(prepare_case(case, folder), suite.measurement, facts):
                writer.write(rows)
                samples |= windows
    except KeyboardInterrupt:
        code = INTERRUPTED
        console.print(f"interrupted; {len(writer.rows)} finished rows are kept")
    finally:
        np.savez_compressed(folder / "samples.npz", **{key: values.astype(np.float32) for key, values in samples.items()})
        if writer.rows:
            report = write_report(writer.rows, folder, samples)
            print_table(writer.rows, console)
            console.print(f"{len(writer.rows)} rows in {time.perf_counter() - started:.0f} s; open {report}", markup=False)
    return code


def prepare_case(case: Case, folder: Path) -> list[Contestant]:
    """Returns every variant of the case: trained, transformed, evaluated on the test part, compiled.

    The experiment is trained once; then every variant, fp32 included, starts from those parameters and gets
    the same fine-tuning epochs, with its transforms in force. So a variant is never better for having been
    trained longer.
    """
    experiment = case.experiment
    with stage(f"{experiment.name}: data and sanity models", 1) as advance:
        data = load_data(experiment)
        references = {name: dict(quality.metrics) for name, quality in sanity_rows(data, "test").items()}
        advance(data.protocol)
    for reference in case.references:
        references[reference.name] = dict(_train_reference(reference, data))
    base = _train(f"{experiment.name}: training", experiment, data, start=None)
    fine_tuned: dict[Any, tuple[FitResult, float]] = {}
    contestants = []
    for variant in case.variants:
        in_training = tuple(member for member in variant.members if member.trains)
        if in_training not in fine_tuned:
            started = time.perf_counter()
            tuned = dataclasses.replace(experiment, transforms=in_training)
            result = _train(f"{experiment.name}: {chain(*in_training).label}: fine-tuning", tuned, data, base.params)
            fine_tuned[in_training] = result, time.perf_counter() - started
        result, train_s = fine_tuned[in_training]
        final = dataclasses.replace(experiment, transforms=variant.members)
        contestants.append(_finish(case, final, variant, data, result, train_s, references, folder))
    columns = data.serving_samples()
    floor = CompiledModel(_answer_nothing, (), columns, experiment.serving.buckets)
    return [*contestants, Contestant(experiment=experiment, label="null", compiled=floor, columns=columns)]


def _answer_nothing(variables: Any, batch: Any) -> dict[str, jax.Array]:
    """The null model: takes the same requests, computes nothing. What it costs is the harness's own floor."""
    del variables
    return {"nothing": jnp.zeros(len(next(iter(batch.values()))))}


def _finish(
    case: Case,
    experiment: Experiment,
    variant: Chain,
    data: Data,
    result: FitResult,
    train_s: float,
    references: dict[str, dict[str, float]],
    folder: Path,
) -> Contestant:
    name = f"{experiment.name}: {variant.label}"
    started = time.perf_counter()
    n_steps = 2 + len(experiment.serving.buckets)
    with stage(f"{name}: finishing and compiling", n_steps) as advance:
        model = finalize(experiment, data, result.params)
        advance("finalized")
        train_s += time.perf_counter() - started
        quality = make_evaluator(model.score, data, "test")(model.variables)
        metric = data.selection_metric
        advance(f"{metric} {quality.metrics[metric]:.4f}")
        stored = folder / "models" / experiment.name / variant.label.replace(" ", "")
        stored.parent.mkdir(parents=True, exist_ok=True)
        model.save(stored, experiment, dataclasses.asdict(quality))
        columns = data.serving_samples()
        compiled = compile_final_model(model, columns, experiment.serving.buckets, experiment.serving.top_k)
        advance(f"{metric} {quality.metrics[metric]:.4f} on test")
    validated = result.best.validation[metric]
    return Contestant(
        experiment=experiment,
        label=variant.label,
        model=model,
        compiled=compiled,
        columns=columns,
        quality=quality,
        quality_metric=metric,
        references=references,
        validation_quality=validated,
        below_floor=f"validation {metric} {validated:.4f} is below the case's floor {case.validation_floor:g}"
        if validated < case.validation_floor
        else None,
        checkpoint_bytes=bytes_on_disk(stored),
        train_s=train_s,
    )


def _train_reference(reference: Experiment, data: Data) -> dict[str, float]:
    """Returns the test metrics of a model trained for its quality alone, on its own copy of the split."""
    result = _train(f"{reference.name}: training (reference)", reference, data, start=None)
    model = finalize(reference, data, result.params)
    return dict(make_evaluator(model.score, data, "test")(model.variables).metrics)


def _train(title: str, experiment: Experiment, data: Data, start: Params | None) -> FitResult:
    settings = experiment.training if start is None else experiment.finetuning
    with stage(title, settings.epochs) as advance:
        return train(experiment, data, start=start, on_epoch=_reporter(advance, data.selection_metric))


def _reporter(advance: Callable[[str], None], metric: str) -> Callable[..., None]:
    best = {"epoch": 0, "value": 0.0}

    def on_epoch(record: Any, epochs: int) -> None:
        del epochs
        if record.is_best:
            best.update(epoch=record.epoch, value=record.validation[metric])
        if record.epoch:
            advance(f"best validation {metric} {best['value']:.4f} in epoch {best['epoch']} of {record.epoch}")

    return on_epoch
