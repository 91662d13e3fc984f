"""From an experiment to a final model: data, training, transforms."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from recjax.config import Experiment, Training
from recjax.data.labelled import labelled_data
from recjax.data.next_item import next_item_data
from recjax.data.rating import rating_data
from recjax.data.sources import load_candidates, load_interactions, load_labelled_stream
from recjax.data.top_n import top_n_data
from recjax.errors import UserError
from recjax.evaluation import Data, is_better, make_evaluator
from recjax.parallel.table_plan import TablePlan
from recjax.training.checkpoint import Checkpoints, experiment_identity
from recjax.training.distillation import Teacher
from recjax.training.final_model import FinalModel
from recjax.training.first_step import RowCounts, ToTrain, plan_that_fits
from recjax.training.fit import EpochRecord, FitResult, fit
from recjax.training.fixed import join_fixed, split_fixed
from recjax.training.memory_check import check_draw, surely_fits
from recjax.training.mesh_devices import drawn_on_mesh
from recjax.training.row_counts import count_rows
from recjax.training.step import init_params, is_solved
from recjax.transforms.protocol import (
    Chain,
    Finalization,
    Params,
    Stage,
    TeacherModel,
    Transform,
    TransformReport,
    Validation,
    Variables,
    chain,
)

OnEpoch = Callable[[EpochRecord, int], None]
OnPlan = Callable[[TablePlan], None]
CALIBRATION_BATCH = 64


def load_data(experiment: Experiment) -> Data:
    """Returns the experiment's data set, filtered and split for its model's task.

    Raises:
      UserError: the source, the split or the task's data cannot be had; one line says why.
    """
    dataset, samples = experiment.dataset, experiment.model.samples()
    if experiment.model.task == "labelled" and (stream := load_labelled_stream(dataset)):
        if samples.history:
            raise UserError(f"the model reads histories and {dataset.source} has no users; use a set of interactions")
        return stream
    if experiment.model.task == "candidates":
        return load_candidates(dataset)
    interactions = load_interactions(dataset)
    match experiment.model.task:
        case "next_item":
            return next_item_data(interactions, dataset, samples)
        case "top_n":
            return top_n_data(interactions, dataset, samples)
        case "rating":
            return rating_data(interactions, dataset, samples)
    return labelled_data(interactions, dataset, samples)


def spread_over_processes(experiment: Experiment, data: Data) -> Experiment:
    """Returns the experiment over the devices of all processes, if there are several and it does not say how.

    Each process would train the same model for itself otherwise. So it does still where the model is solved, which has
    no step to share.
    """
    is_said = experiment.parallel.strategy != "single"
    if jax.process_count() == 1 or is_said or is_solved(experiment.model.build(data.schema)):
        return experiment
    return dataclasses.replace(experiment, parallel=dataclasses.replace(experiment.parallel, strategy="pjit"))


def train(
    experiment: Experiment,
    data: Data,
    *,
    start: Params | None = None,
    taught_by: Params | None = None,
    folder: Path | None = None,
    on_epoch: OnEpoch = lambda record, epochs: None,
    on_plan: OnPlan = lambda plan: None,
) -> FitResult:
    """Returns the best parameters of the experiment's model with its transforms in force.

    Args:
      experiment: what to train.
      data: from `load_data`.
      start: trained float parameters to fine-tune, with `experiment.finetuning`; None draws fresh ones and
        uses `experiment.training`.
      taught_by: trained float parameters of the experiment's own model, the teacher of a chain that wants one; None
        trains it first.
      folder: where checkpoints go, and where a broken run is found again; None keeps none.
      on_epoch: called after every epoch.
      on_plan: called with the plan of embedding tables that are split over devices.

    Raises:
      TrainingDivergedError: the loss is no finite number.
      UserError: the model cannot have a transform or the table optimizer, or validation is NaN.
      CheckpointError: the folder cannot be written or read, or holds another experiment's run.
    """
    transform = chain(*experiment.transforms)

    def check(model_config: Any, drawn: Params) -> None:
        if surely_fits(drawn):
            return
        if any(type(member).start is not Transform.start for member in transform.members):
            return check_parameters_fit(model_config, drawn, data)  # training may start from other shapes
        to_train = ToTrain(
            model_config=model_config,
            params=drawn,
            data=data,
            training=experiment.training,
            transform=transform,
            parallel=experiment.parallel,
        )
        plan_that_fits(to_train, saves=folder is not None, keeps_drawn=bool(transform.members))

    setup = set_up(experiment, data, start=start, taught_by=taught_by, check=check, on_epoch=on_epoch)
    checkpoints = Checkpoints(folder, experiment_identity(experiment)) if folder else None
    return fit(
        setup.model_config,
        setup.params,
        data,
        setup.settings,
        transform,
        teacher=setup.teacher,
        parallel=experiment.parallel,
        counts=setup.counts if experiment.parallel.hot_rows else None,
        donates_params=start is None and not transform.members,
        validate_start=start is not None,
        checkpoints=checkpoints,
        on_epoch=on_epoch,
        on_plan=on_plan,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """What a training begins with; the fields are arguments of `fit`."""

    model_config: Any
    params: Params
    settings: Training
    teacher: Teacher | None
    counts: RowCounts


def set_up(
    experiment: Experiment,
    data: Data,
    *,
    start: Params | None = None,
    taught_by: Params | None = None,
    check: Callable[[Any, Params], None] | None = None,
    on_epoch: OnEpoch = lambda record, epochs: None,
) -> Setup:
    """Returns what `train` begins with; its arguments and errors are those of `train`.

    `check` is called with the model's config and the shapes of its parameters before any are drawn, and may raise; None
    sees whether they fit into memory.
    """
    transform = chain(*experiment.transforms)
    model_config = transform.rewrite(experiment.model)
    settings = experiment.training if start is None else experiment.finetuning
    if start is None:
        look = functools.partial(check_parameters_fit, data=data) if check is None else check
        start = _draw(experiment, model_config.build(data.schema), data, functools.partial(look, model_config))
    module, drawn = model_config.build(data.schema), start
    counts = functools.cache(lambda: count_rows(module, drawn, data, settings))  # an epoch of batches
    start = transform.start(model_config, drawn, settings.seed, counts)
    teacher = None
    if transform.soft_targets:
        if taught_by is None:
            taught_by = train(dataclasses.replace(experiment, transforms=()), data, on_epoch=on_epoch).params
        teacher = Teacher(experiment.model.build(data.schema), taught_by, transform.soft_targets)
    return Setup(model_config=model_config, params=start, settings=settings, teacher=teacher, counts=counts)


def _draw(experiment: Experiment, module: Any, data: Data, check: Callable[[Params], None]) -> Params:
    """Returns the parameters before any training; on a mesh, of which no device need have room for all."""
    training, parallel = experiment.training, experiment.parallel
    if parallel.strategy == "pjit" and not experiment.transforms and not is_solved(module):
        rows = training.table_optimizer != "dense"
        return drawn_on_mesh(module, one_batch(data, 1), training.seed, parallel, row_updates=rows, check=check)
    return init_params(module, one_batch(data, 1), training.seed, check=check)


def finalize(
    experiment: Experiment,
    data: Data,
    params: Params,
    *,
    fine_tunes: bool = True,
    on_epoch: OnEpoch = lambda record, epochs: None,
) -> FinalModel:
    """Returns the model after every transform's last word: masks folded, units removed, weights frozen.

    Args:
      experiment: what `params` were trained under.
      data: for fine-tuning after a shrink, and validation batches for calibration.
      params: from `train`, or trained float parameters if no transform trains.
      fine_tunes: whether transforms may train again, as after a shrink; if not, values stay as they are.
      on_epoch: called after every epoch of such a fine-tuning.

    Raises:
      UserError: a transform cannot do its part on this model.
    """
    transform = chain(*experiment.transforms)
    rewritten = transform.rewrite(experiment.model)

    def retrain(model_config: Any, params: Params, epochs: int, taught_by: TeacherModel | None = None) -> Params:
        if not fine_tunes:
            return params
        settings = dataclasses.replace(experiment.finetuning, epochs=epochs, patience=0)
        remaining = chain(*(member for member in transform.members if member.stage > Stage.SHRINK))
        teacher = None
        if taught_by:
            teacher = Teacher(taught_by.model_config.build(data.schema), taught_by.params, taught_by.targets)
        return fit(
            model_config,
            params,
            data,
            settings,
            remaining,
            teacher=teacher,
            validate_start=True,
            on_epoch=on_epoch,
        ).params

    def final(model_config: Any, transform: Chain, variables: Variables, report: TransformReport) -> FinalModel:
        model = FinalModel(
            config=model_config, schema=data.schema, transform=transform, variables=variables, report=report
        )
        return model.with_precomputed(dict(data.context))

    def validate(model_config: Any, params: Params) -> Validation:
        model, metric = final(model_config, chain(), {"params": params}, TransformReport()), data.selection_metric
        value = make_evaluator(model.score, data, "valid")(model.variables).metrics[metric]
        return Validation(metric=metric, value=value, lower_is_better=is_better(metric, 0.0, 1.0))

    context = Finalization(
        build=lambda model_config: model_config.build(data.schema),
        batches=lambda n: list(itertools.islice(data.eval_batches("valid", CALIBRATION_BATCH), n)),
        retrain=retrain,
        validate=validate,
        counts=functools.cache(lambda: count_rows(rewritten.build(data.schema), params, data, experiment.training)),
        shapes=lambda model_config: jax.eval_shape(
            lambda: init_params(model_config.build(data.schema), one_batch(data, 1), seed=0)
        ),
    )
    model_config, variables, report = transform.finalize(rewritten, {"params": params}, context)
    return final(model_config, transform, variables, report)


def dry_run(experiment: Experiment, data: Data, params: Params | None = None) -> FinalModel:
    """Returns the final model as it would be after training, with its shapes and types, but without any training.

    Masks reach their final sparsity in one step of zeros, and nothing is fine-tuned.

    Args:
      experiment: whose model and transforms are taken.
      data: from `load_data`.
      params: trained float parameters of the experiment's own model; None draws them. A transform that trains from
        scratch gets drawn ones.

    Raises:
      UserError: the model cannot have a transform.
    """
    transform = chain(*experiment.transforms)
    setup = set_up(experiment, data, start=None if transform.from_scratch else params, taught_by={})  # by nobody
    masking = transform.gradient(setup.model_config, total_steps=1)
    learned, fixed = split_fixed(setup.params)
    updates, _ = masking.update(jax.tree.map(jnp.zeros_like, learned), masking.init(learned), learned)
    masked = join_fixed(optax.apply_updates(learned, updates), fixed)
    return finalize(experiment, data, masked, fine_tunes=False)


def check_parameters_fit(model_config: Any, drawn: Params, data: Data) -> None:
    """Raises UserError if parameters of those shapes do not fit into memory."""

    def shapes_of(model_config: Any) -> Params:
        return jax.eval_shape(lambda: init_params(model_config.build(data.schema), one_batch(data, 1), seed=0))

    check_draw(model_config, drawn, shapes_of)


def one_batch(data: Data, batch_size: int) -> dict[str, Any]:
    """Returns the first training batch, with its context where there is one."""
    batch = next(iter(data.train_batches(batch_size, 0, 1)))
    return batch | {"context": dict(data.context)} if data.context else batch
