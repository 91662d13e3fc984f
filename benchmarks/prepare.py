"""Makes the contestants of a case: trained, transformed, evaluated, stored and compiled."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from benchmarks.measure import Contestant, TrainedVariant
from benchmarks.statistics import retained_interval
from benchmarks.suite import Case
from benchmarks.train_speed import TrainSpeed, measure_train_speed
from recjax.config import Experiment, check
from recjax.data.next_item import NextItemData
from recjax.data.top_n import TopNData
from recjax.evaluation import LOWER_IS_BETTER, Data, is_better, make_evaluator, sanity_rows, share_kept
from recjax.parallel.mesh import make_mesh
from recjax.parallel.start import is_writer
from recjax.progress import stage
from recjax.serving.compiled import CompiledModel, compile_final_model
from recjax.training.checkpoint import bytes_on_disk
from recjax.training.fit import EpochRecord, FitResult
from recjax.training.pipeline import (
    check_parameters_fit,
    finalize,
    load_data,
    one_batch,
    set_up,
    spread_over_processes,
    train,
)
from recjax.training.step import init_params, is_solved
from recjax.transforms.protocol import Chain, Params, chain
from recjax.transforms.sparsity import sparsity_report


@dataclasses.dataclass(frozen=True)
class _FineTuned:
    """Parameters that were fine-tuned with some transforms in force."""

    result: FitResult
    seconds: float


def prepare_case(case: Case, folder: Path, train_window_s: float = 0.0) -> list[Contestant]:
    """Returns every variant of the case, fp32 first, and the null model last.

    The experiment is trained once; then every variant, fp32 included, starts from those parameters and gets
    the same fine-tuning epochs, with its transforms in force. So no variant is better for having been
    trained longer (but for the epochs that a shrink asks for). Variants that differ only in what happens
    after training share their fine-tuning; where fp32 is the only variant, nothing is compared and it has none.
    A variant whose members need parameters of their own from the start is trained as the experiment was, and not
    fine-tuned, as all are in a case that says so; its teacher, if it wants one, is the experiment's trained model.

    Args:
      case: what to prepare.
      folder: of the run; final models go to models/EXPERIMENT/VARIANT below it.
      train_window_s: seconds of timed training steps for each variant that trains in its own way; 0 times none.

    Raises:
      UserError: more items to return than there are, or a variant that the model cannot have; before any training.
      CheckpointError: a final model cannot be written.
    """
    experiment = case.experiment
    with stage(f"{experiment.name}: data and sanity models", 1) as advance:
        data = load_data(experiment)
        experiment = spread_over_processes(experiment, data)
        if isinstance(data, NextItemData | TopNData):
            allowed = f"at most the {data.schema.n_items:,} items of {data.name}"
            check(experiment.serving.top_k <= data.schema.n_items, "serving.top_k", experiment.serving.top_k, allowed)
        references = {name: dict(quality.metrics) for name, quality in sanity_rows(data, "test").items()}
        advance(data.protocol)
    _check_variants(experiment, case.variants, data)
    for reference in case.references:
        references[reference.name] = _reference_quality(reference, data)

    started = time.perf_counter()
    base = _train(f"{experiment.name}: training", experiment, data, start=None)
    fine_tuned: dict[tuple[Any, ...], _FineTuned] = {}
    if len(case.variants) == 1 or case.from_start:
        fine_tuned[()] = _FineTuned(base, time.perf_counter() - started)
    contestants: list[Contestant] = []
    for variant in case.variants:
        in_training = _in_training(variant)
        if in_training not in fine_tuned:
            started = time.perf_counter()
            label, anew = chain(*in_training).label, case.from_start or chain(*in_training).from_scratch
            title = f"{experiment.name}: {label}: {'training' if anew else 'fine-tuning'}"
            with_transforms = dataclasses.replace(experiment, transforms=in_training)
            result = _train(title, with_transforms, data, None if anew else base.params, base.params)
            fine_tuned[in_training] = _FineTuned(result, time.perf_counter() - started)
        final = dataclasses.replace(experiment, transforms=variant.members)
        contestants.append(_finish(case, final, data, fine_tuned[in_training], references, contestants, folder))
    if train_window_s:
        contestants = _with_train_speed(contestants, experiment, data, base.params, train_window_s)

    columns = data.serving_samples()
    floor = CompiledModel(_answer_nothing, (), columns, experiment.serving.buckets, serving_mesh(experiment))
    return [*contestants, Contestant(experiment=experiment, label="null", compiled=floor, columns=columns)]


def _finish(
    case: Case,
    experiment: Experiment,
    data: Data,
    tuned: _FineTuned,
    references: dict[str, dict[str, float]],
    earlier: list[Contestant],
    folder: Path,
) -> Contestant:
    """Returns the variant that `experiment` describes, finalized from fine-tuned parameters; `earlier[0]` is fp32."""
    label, metric = chain(*experiment.transforms).label, data.selection_metric
    stored = folder / "models" / experiment.name / label.replace(" ", "")
    stored.parent.mkdir(parents=True, exist_ok=True)
    columns, started = data.serving_samples(), time.perf_counter()
    with stage(f"{experiment.name}: {label}: finishing and compiling", 3) as advance:
        model = finalize(experiment, data, tuned.result.params)
        train_s = tuned.seconds + time.perf_counter() - started
        advance("finalized")
        quality = make_evaluator(model.score, data, "test")(model.variables)
        validated = make_evaluator(model.score, data, "valid")(model.variables).metrics[metric]
        advance("evaluated")
        if is_writer():
            model.save(stored, experiment, quality)
        serving = experiment.serving
        compiled = compile_final_model(model, columns, serving.buckets, serving.top_k, serving_mesh(experiment))
        advance(f"test {metric} {quality.metrics[metric]:.4f}")
    float_params = jax.eval_shape(lambda: init_params(experiment.model.build(data.schema), one_batch(data, 1), 0))
    fp32 = earlier[0].trained.quality if earlier and earlier[0].trained else quality
    kept = share_kept(metric, quality.metrics[metric], fp32.metrics[metric])
    floor = case.validation_floor
    misses_floor = floor is not None and is_better(metric, floor, validated)
    side = "above" if metric in LOWER_IS_BETTER else "below"
    shortfall = f"validation {metric} {validated:.4f} is {side} the case's floor, {floor:g}" if misses_floor else None
    trained = TrainedVariant(
        model=model,
        quality=quality,
        quality_metric=metric,
        quality_retained=kept,
        references=references,
        quality_retained_ci95=retained_interval(quality, fp32, metric, experiment.training.seed)
        if kept is not None
        else None,
        validation_quality=validated,
        below_floor=shortfall,
        checkpoint_bytes=bytes_on_disk(stored),
        sparsity=sparsity_report(float_params, model.variables["params"]),
        train_s=train_s,
        train_speed=None,
        no_train_speed="the suite times no training steps",
    )
    return Contestant(experiment=experiment, label=label, compiled=compiled, columns=columns, trained=trained)


def serving_mesh(experiment: Experiment) -> Mesh | None:
    """Returns the mesh that the experiment's model is served on; None where one device serves.

    That is so without `pjit`, and in a run of several processes, whose requests all come to the first one.
    """
    parallel = experiment.parallel
    if parallel.strategy != "pjit" or jax.process_count() > 1:
        return None
    return make_mesh({"data": parallel.data, "model": parallel.model})


def _check_variants(experiment: Experiment, variants: Sequence[Chain], data: Data) -> None:
    """Raises UserError if the model cannot have a variant; on drawn parameters, in the place of trained ones."""
    fits = functools.partial(check_parameters_fit, experiment.model, data=data)
    drawn = init_params(experiment.model.build(data.schema), one_batch(data, 1), experiment.training.seed, check=fits)
    with stage(f"{experiment.name}: checking variants", len(variants)) as advance:
        for variant in variants:
            with_transforms = dataclasses.replace(experiment, transforms=variant.members)
            set_up(with_transforms, data, start=None if variant.from_scratch else drawn, taught_by=drawn)
            advance(f"the model can have all {len(variants)}")


def _in_training(variant: Chain) -> tuple[Any, ...]:
    """Returns the members that must be in force while parameters are fitted."""
    return tuple(member for member in variant.members if member.trains)


def _with_train_speed(
    contestants: list[Contestant], experiment: Experiment, data: Data, start: Params, window_s: float
) -> list[Contestant]:
    """Returns the contestants with the speed of their training steps; those that train as another does share it."""
    if is_solved(experiment.model.build(data.schema)):
        return [_with_speed(one, None, "the model is solved, not trained in steps") for one in contestants]
    label_of = [chain(*_in_training(one.trained.model.transform)).label for one in contestants if one.trained]
    experiments = {
        label: dataclasses.replace(experiment, transforms=_in_training(one.trained.model.transform))
        for one, label in zip(contestants, label_of, strict=True)
        if one.trained
    }
    with stage(f"{experiment.name}: training steps in turn", len(experiments) + 1) as advance:
        speeds = measure_train_speed(experiments, data, start, advance, window_s)
    return [_with_speed(one, speeds[label], "") for one, label in zip(contestants, label_of, strict=True)]


def _with_speed(contestant: Contestant, speed: TrainSpeed | None, reason: str) -> Contestant:
    if contestant.trained is None:
        return contestant
    trained = dataclasses.replace(contestant.trained, train_speed=speed, no_train_speed=reason)
    return dataclasses.replace(contestant, trained=trained)


def _answer_nothing(variables: Any, batch: Any) -> dict[str, jax.Array]:
    """The null model: reads one number of each input, so that none is optimised away; the harness's own floor."""
    del variables
    touched = sum(column.ravel()[0].astype(jnp.float32) for column in batch.values())
    return {"nothing": jnp.full(len(next(iter(batch.values()))), touched)}


def _reference_quality(reference: Experiment, data: Data) -> dict[str, float]:
    result = _train(f"{reference.name}: training (reference)", reference, data, start=None)
    model = finalize(reference, data, result.params)
    return dict(make_evaluator(model.score, data, "test")(model.variables).metrics)


def _train(
    title: str, experiment: Experiment, data: Data, start: Params | None, taught_by: Params | None = None
) -> FitResult:
    settings = experiment.training if start is None else experiment.finetuning
    with stage(title, settings.epochs) as advance:
        reporter = _reporter(advance, data.selection_metric)
        return train(experiment, data, start=start, taught_by=taught_by, on_epoch=reporter)


def _reporter(advance: Callable[[str], None], metric: str) -> Callable[[EpochRecord, int], None]:
    """Returns an `on_epoch` that shows the best validated epoch so far."""
    best = "no eligible epoch yet"

    def on_epoch(record: EpochRecord, epochs: int) -> None:
        nonlocal best
        del epochs
        if record.is_best:
            best = f"best validation {metric} {record.validation[metric]:.4f} in epoch {record.epoch}"
        if record.epoch:
            advance(f"{best} of {record.epoch}")

    return on_epoch
