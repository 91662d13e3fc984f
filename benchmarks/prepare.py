"""Makes the variants of a case: trained, transformed, evaluated and stored."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.prepared import PreparedCase, PreparedVariant, model_folder
from benchmarks.suite import Case
from benchmarks.train_speed import TrainSpeed, measure_train_speed
from recjax.config import Experiment, check, to_dict
from recjax.data.next_item import NextItemData
from recjax.data.top_n import TopNData
from recjax.evaluation import LOWER_IS_BETTER, Data, Quality, is_better, make_evaluator, sanity_rows, share_kept
from recjax.hardware.device import describe_training, support_platform
from recjax.parallel.start import is_writer
from recjax.progress import stage
from recjax.quality_interval import retained_interval
from recjax.training.checkpoint import bytes_on_disk
from recjax.training.fit import EpochRecord, FitResult
from recjax.training.memory import default_device
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

_OF_TRAIN_SPEED = ("train_samples_per_s", "train_speedup")


@dataclasses.dataclass(frozen=True)
class _FineTuned:
    """Parameters that were fine-tuned with some transforms in force."""

    result: FitResult
    seconds: float


@dataclasses.dataclass(frozen=True)
class _Finished:
    """A variant and what others are compared with or timed by."""

    prepared: PreparedVariant
    quality: Quality
    transform: Chain


def prepare_case(case: Case, folder: Path, train_window_s: float = 0.0) -> PreparedCase:
    """Returns every variant of the case, fp32 first; their models and what is known of them are stored.

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
    if case.from_start or not case.has_fine_tuning:
        fine_tuned[()] = _FineTuned(base, time.perf_counter() - started)
    finished: list[_Finished] = []
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
        finished.append(_finish(case, final, data, fine_tuned[in_training], references, finished, folder))
    variants = [one.prepared for one in finished]
    if train_window_s:
        variants = _with_train_speed(finished, experiment, data, base.params, train_window_s)
    training = describe_training(experiment.parallel)
    prepared = PreparedCase(experiment=experiment.name, training=training, variants=tuple(variants))
    if is_writer():
        prepared.save(folder)
    return prepared


def _finish(
    case: Case,
    experiment: Experiment,
    data: Data,
    tuned: _FineTuned,
    references: dict[str, dict[str, float]],
    earlier: list[_Finished],
    folder: Path,
) -> _Finished:
    """Returns the variant that `experiment` describes, finalized from fine-tuned parameters; `earlier[0]` is fp32."""
    label, metric = chain(*experiment.transforms).label, data.selection_metric
    stored = model_folder(folder, experiment.name, label)
    stored.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with stage(f"{experiment.name}: {label}: finishing", 2) as advance:
        model = finalize(experiment, data, tuned.result.params)
        train_s = tuned.seconds + time.perf_counter() - started
        advance("finalized")
        quality = make_evaluator(model.score, data, "test")(model.variables)
        validated = make_evaluator(model.score, data, "valid")(model.variables).metrics[metric]
        if is_writer():
            model.save(stored, experiment, quality)
        advance(f"test {metric} {quality.metrics[metric]:.4f}")
    float_params = jax.eval_shape(lambda: init_params(experiment.model.build(data.schema), one_batch(data, 1), 0))
    fp32 = earlier[0].quality if earlier else quality
    kept = share_kept(metric, quality.metrics[metric], fp32.metrics[metric])
    floor, interval = case.validation_floor, None
    misses_floor = floor is not None and is_better(metric, floor, validated)
    side = "above" if metric in LOWER_IS_BETTER else "below"
    reasons = dict.fromkeys(_OF_TRAIN_SPEED, "the suite times no training steps")
    if kept is None:
        reasons |= dict.fromkeys(["quality_retained", "quality_retained_ci95"], "fp32 scores 0: there is no ratio")
    else:
        interval = retained_interval(quality, fp32, metric, experiment.training.seed)
    sparsity = sparsity_report(float_params, model.variables["params"])
    row = {
        "model": type(experiment.model).__name__.removesuffix("Config"),
        "model_config": to_dict(model.config),
        "protocol": quality.protocol,
        "transforms": [member.to_json() for member in model.transform.members],
        "transform_report": model.report.details,
        "support": model.transform.support(support_platform(default_device())),
        "quality": dict(quality.metrics),
        "quality_metric": metric,
        "quality_reference": references,
        "quality_retained": kept,
        "quality_retained_ci95": interval,
        "validation_quality": validated,
        "parameter_bytes": model.parameter_bytes(),
        "dense_layer_bytes": model.dense_layer_bytes(),
        "table_bytes": model.table_bytes(),
        "masked_share": sparsity["masked_share"],
        "realised_share": sparsity["realised_share"],
        "checkpoint_bytes": bytes_on_disk(stored),
        "train_s": train_s,
        **dict.fromkeys(_OF_TRAIN_SPEED),
    }
    prepared = PreparedVariant(
        label=label,
        row=row,
        reasons=reasons,
        dot_dtype=model.transform.dot_dtype,
        masks=model.transform.masks,
        realises_masks=model.transform.realises_masks,
        masked_label=model.transform.only_masked().label,
        below_floor=f"validation {metric} {validated:.4f} is {side} the case's floor, {floor:g}"
        if misses_floor
        else None,
    )
    return _Finished(prepared, quality, model.transform)


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
    finished: list[_Finished], experiment: Experiment, data: Data, start: Params, window_s: float
) -> list[PreparedVariant]:
    """Returns the variants with the speed of their training steps; those that train as another does share it."""
    if is_solved(experiment.model.build(data.schema)):
        why = dict.fromkeys(_OF_TRAIN_SPEED, "the model is solved, not trained in steps")
        return [dataclasses.replace(one.prepared, reasons=one.prepared.reasons | why) for one in finished]
    members = [_in_training(one.transform) for one in finished]
    labels = [chain(*of_one).label for of_one in members]
    experiments = {
        label: dataclasses.replace(experiment, transforms=of_one) for label, of_one in zip(labels, members, strict=True)
    }
    with stage(f"{experiment.name}: training steps in turn", len(experiments) + 1) as advance:
        speeds = measure_train_speed(experiments, data, start, advance, window_s)
    return [_with_speed(one.prepared, speeds[label]) for one, label in zip(finished, labels, strict=True)]


def _with_speed(variant: PreparedVariant, speed: TrainSpeed) -> PreparedVariant:
    fields = {"train_samples_per_s": speed.samples_per_s, "train_speedup": speed.speedup}
    reasons = {name: why for name, why in variant.reasons.items() if name not in fields}
    return dataclasses.replace(variant, row=variant.row | fields, reasons=reasons)


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
