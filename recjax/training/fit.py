"""The training loop: epochs, validation, early stopping, checkpoints."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from recjax.config import Parallel, Training
from recjax.data.batches import STEPS_IN_FLIGHT, prefetch_to_device
from recjax.errors import TrainingDivergedError, UserError
from recjax.evaluation import Data, is_better, make_evaluator
from recjax.parallel.table_plan import TablePlan
from recjax.training.checkpoint import Checkpoints
from recjax.training.devices import TrainingDevices
from recjax.training.distillation import Teacher
from recjax.training.first_step import SINGLE, RowCounts, ToTrain, first_step, total_steps
from recjax.training.step import TrainState
from recjax.transforms.protocol import Mode, Params, Transform


@dataclasses.dataclass(frozen=True)
class EpochRecord:
    """What one epoch gave; `validation` is empty for an epoch that was not validated."""

    epoch: int  # from 1; 0 is the start of a fine-tuning, before any step
    step: int  # steps taken so far
    train_loss: float | None  # mean over the epoch's steps; None for epoch 0
    validation: dict[str, float]
    is_best: bool


@dataclasses.dataclass(frozen=True)
class FitResult:
    """The parameters of the best validated epoch, and what every epoch gave.

    Attributes:
      spread: the parameters as they lie on the training's devices; in a run of several processes a part on each.
      history: the epochs.
      devices: that trained.
    """

    spread: Params
    history: tuple[EpochRecord, ...]
    devices: TrainingDevices

    @functools.cached_property
    def params(self) -> Params:
        """Returns the parameters as arrays of this process: of several, each brings all of them to its first device."""
        return self.devices.here(self.spread)

    @property
    def best(self) -> EpochRecord:
        """Returns the record of the epoch that `params` are from."""
        return [record for record in self.history if record.is_best][-1]


def fit(
    model_config: Any,
    params: Params,
    data: Data,
    training: Training,
    transform: Transform,
    *,
    teacher: Teacher | None = None,
    parallel: Parallel = SINGLE,
    counts: RowCounts | None = None,
    donates_params: bool = False,
    validate_start: bool = False,
    checkpoints: Checkpoints | None = None,
    on_epoch: Callable[[EpochRecord, int], None] = lambda record, epochs: None,
    on_plan: Callable[[TablePlan], None] = lambda plan: None,
) -> FitResult:
    """Returns the parameters with the best validation metric among epochs that satisfy the transform.

    The test part is never touched. With `checkpoints`, every validated epoch is saved, while the next one trains, and
    a run that finds a checkpoint of itself goes on from it, with the same batches, keys and losses as an unbroken run.

    Args:
      model_config: the architecture that `params` belong to.
      params: where to start; not modified, but see `donates_params`.
      data: the task's data.
      training: epochs, batch size, optimizer, patience.
      transform: in force in every step and in validation.
      teacher: whose scores the loss takes as soft targets; None has labels alone.
      parallel: over which devices; losses are the same on any number of them, but for the order of sums.
      counts: gives how often each table row is looked up, for the tables' plan.
      donates_params: whether `params` are deleted as soon as the state has its copies.
      validate_start: whether the start itself, as epoch 0, may be the best (if it satisfies the transform).
      checkpoints: where to save and resume; None keeps nothing.
      on_epoch: called with each epoch's record and the planned number of epochs.
      on_plan: called with the plan of embedding tables that are split over devices, before anything is trained.

    Raises:
      TrainingDivergedError: the loss is NaN or infinite.
      CheckpointError: a checkpoint cannot be written or read, or is of another experiment.
    """
    settled = transform.settled_step(total_steps(data, training))
    history: list[EpochRecord] = []
    best_params: Params = {}

    def resume(like: TrainState) -> TrainState | None:
        """Returns the state of the newest checkpoint, and takes the rest of it."""
        nonlocal best_params
        saved = checkpoints.restore({"state": like, "best": like.params}) if checkpoints else None
        if saved is None:
            return None
        tree, records = saved
        best_params = tree["best"]
        history.extend(EpochRecord(**record) for record in records)
        return tree["state"]

    to_train = ToTrain(
        model_config=model_config,
        params=params,
        data=data,
        training=training,
        transform=transform,
        teacher=teacher,
        parallel=parallel,
        counts=counts,
    )
    begun, state = first_step(to_train, saves=bool(checkpoints), donates_params=donates_params, resume=resume)
    if begun.planned.plan:
        on_plan(begun.planned.plan)
    devices, context = begun.devices, begun.beside.get("context", {})
    complete, score = devices.score(transform.intercept(model_config.build(data.schema), Mode.EVALUATE))
    evaluate = make_evaluator(score, data, "valid", devices.evaluation)
    metric, worst = data.selection_metric, math.inf if is_better(data.selection_metric, 0.0, 1.0) else -math.inf

    if not history:
        best_params = devices.best_params(state)

    def finish_epoch(epoch: int, train_loss: float | None) -> None:
        nonlocal best_params
        validated = epoch % training.validation_every == 0 or epoch == training.epochs
        values = dict(evaluate(complete(state, context)).metrics) if validated else {}
        if validated and math.isnan(values[metric]):
            raise UserError(f"validation {metric} is NaN: the validation part needs positive and negative labels")
        so_far = next((r.validation[metric] for r in reversed(history) if r.is_best), worst)
        step = devices.step_number(state)
        is_best = validated and step >= settled and is_better(metric, values[metric], so_far)
        if is_best:
            best_params = {}  # gone before there are others: memory never holds two
            best_params = devices.best_params(state)
        history.append(EpochRecord(epoch, step, train_loss, values, is_best))
        if save and validated:
            records = [dataclasses.asdict(record) for record in history]
            save(epoch, {"state": devices.whole(state), "best": best_params}, records)
        on_epoch(history[-1], training.epochs)

    with checkpoints.saver() if checkpoints else contextlib.nullcontext() as save:
        if validate_start and not history:
            finish_epoch(0, None)
        for epoch in range(history[-1].epoch + 1 if history else 1, training.epochs + 1):
            if _patience_is_over(history, training):
                break
            losses = []
            batches = data.train_batches(training.batch_size, training.seed, epoch)
            for batch in prefetch_to_device(batches, send=devices.put_batch):
                state, loss = begun.take(state, batch)
                losses.append(loss)
                jax.block_until_ready(losses[-STEPS_IN_FLIGHT:][0])
            train_loss = float(np.mean(jax.device_get(losses)))
            if not math.isfinite(train_loss):
                raise TrainingDivergedError(
                    f"the training loss is {train_loss} in epoch {epoch}; lower learning_rate or set max_grad_norm"
                )
            finish_epoch(epoch, train_loss)
    if not any(record.is_best for record in history):
        raise UserError(
            f"{transform.label} is settled from step {settled} on and training ended at step "
            f"{devices.step_number(state)}, because gradients of a scaled loss overflowed; train for more epochs, or "
            "let the transform end earlier"
        )
    return FitResult(best_params, tuple(history), devices)


def _patience_is_over(history: list[EpochRecord], training: Training) -> bool:
    """Returns whether `patience` validations have passed since the best one; never before there is a best."""
    best = [i for i, record in enumerate(history) if record.is_best]
    if not best or not training.patience:
        return False
    return sum(bool(record.validation) for record in history[best[-1] + 1 :]) >= training.patience
