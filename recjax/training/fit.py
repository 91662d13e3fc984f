"""The training loop: epochs, validation, early stopping, checkpoints."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recjax.config import Training
from recjax.data.batches import prefetch_to_device
from recjax.errors import TrainingDivergedError, UserError
from recjax.evaluation import Data, is_better, make_evaluator
from recjax.models.contract import Batch, precomputed
from recjax.training.checkpoint import Checkpoints
from recjax.training.distillation import Teacher
from recjax.training.optimizer import make_optimizer, make_table_optimizer
from recjax.training.sparse_step import init_sparse_state, make_sparse_train_step
from recjax.training.step import TrainState, init_state, make_train_step
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
    """The parameters of the best validated epoch, and what every epoch gave."""

    params: Params
    history: tuple[EpochRecord, ...]

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
    validate_start: bool = False,
    checkpoints: Checkpoints | None = None,
    on_epoch: Callable[[EpochRecord, int], None] = lambda record, epochs: None,
) -> FitResult:
    """Returns the parameters with the best validation metric among epochs that satisfy the transform.

    The test part is never touched. With `checkpoints`, every validated epoch is saved and a run that finds
    a checkpoint of itself goes on from it, with the same batches, keys and losses as an unbroken run.

    Args:
      model_config: the architecture that `params` belong to.
      params: where to start; not modified.
      data: the task's data.
      training: epochs, batch size, optimizer, patience.
      transform: in force in every step and in validation.
      teacher: whose scores the loss takes as soft targets; None has labels alone.
      validate_start: whether the start itself, as epoch 0, may be the best (if it satisfies the transform).
      checkpoints: where to save and resume; None keeps nothing.
      on_epoch: called with each epoch's record and the planned number of epochs.

    Raises:
      TrainingDivergedError: the loss is NaN or infinite.
      CheckpointError: a checkpoint cannot be written or read, or is of another experiment.
    """
    settled = transform.settled_step(_total_steps(data, training))
    state, train_step, beside = first_step(model_config, params, data, training, transform, teacher)
    scorer = transform.intercept(model_config.build(data.schema), Mode.EVALUATE)
    context = beside.get("context", {})
    evaluate = make_evaluator(_score_with(scorer), data, "valid")
    # The graph is an argument: XLA would fold a constant one into the program, for seconds.
    complete = jax.jit(lambda params, context: {"params": params} | precomputed(scorer, {"params": params}, context))
    metric, worst = data.selection_metric, math.inf if is_better(data.selection_metric, 0.0, 1.0) else -math.inf

    best_params = jax.tree.map(jnp.copy, params)
    history: list[EpochRecord] = []
    if checkpoints and (saved := checkpoints.restore({"state": state, "best": best_params})):
        tree, records = saved
        state, best_params = tree["state"], tree["best"]
        history = [EpochRecord(**record) for record in records]

    def finish_epoch(epoch: int, train_loss: float | None) -> None:
        nonlocal best_params
        validated = epoch % training.validation_every == 0 or epoch == training.epochs
        values = dict(evaluate(complete(state.params, context)).metrics) if validated else {}
        if validated and math.isnan(values[metric]):
            raise UserError(f"validation {metric} is NaN: the validation part needs positive and negative labels")
        so_far = next((r.validation[metric] for r in reversed(history) if r.is_best), worst)
        is_best = validated and int(state.step) >= settled and is_better(metric, values[metric], so_far)
        if is_best:
            best_params = jax.tree.map(jnp.copy, state.params)
        history.append(EpochRecord(epoch, int(state.step), train_loss, values, is_best))
        if checkpoints and validated:
            records = [dataclasses.asdict(record) for record in history]
            checkpoints.save(epoch, {"state": state, "best": best_params}, records)
        on_epoch(history[-1], training.epochs)

    if validate_start and not history:
        finish_epoch(0, None)
    for epoch in range(history[-1].epoch + 1 if history else 1, training.epochs + 1):
        if _patience_is_over(history, training):
            break
        losses = []
        for batch in prefetch_to_device(data.train_batches(training.batch_size, training.seed, epoch)):
            state, loss = train_step(state, {**batch, **beside})
            losses.append(loss)
        train_loss = float(np.mean(jax.device_get(losses)))
        if not math.isfinite(train_loss):
            raise TrainingDivergedError(
                f"the training loss is {train_loss} in epoch {epoch}; lower learning_rate or set max_grad_norm"
            )
        finish_epoch(epoch, train_loss)
    if not any(record.is_best for record in history):
        raise UserError(
            f"{transform.label} is settled from step {settled} on and training ended at step {int(state.step)}, "
            "because gradients of a scaled loss overflowed; train for more epochs, or let the transform end earlier"
        )
    return FitResult(best_params, tuple(history))


def first_step(
    model_config: Any,
    params: Params,
    data: Data,
    training: Training,
    transform: Transform,
    teacher: Teacher | None = None,
) -> tuple[TrainState, Callable[[TrainState, Batch], tuple[TrainState, jax.Array]], dict[str, Any]]:
    """Returns the state before the first step, the step, and what every batch must hold beside the data's own.

    The arguments are those of `fit`; the step donates the state.

    Raises:
      UserError: the table optimizer cannot be had with this transform or model.
    """
    total_steps = _total_steps(data, training)
    optimizer = make_optimizer(training, transform, model_config, total_steps)
    tables = make_table_optimizer(training, total_steps)
    trained = transform.intercept(model_config.build(data.schema), Mode.TRAIN)
    context = jax.device_put(dict(data.context))
    beside = ({"context": context} if context else {}) | ({"teacher": teacher.params} if teacher else {})
    if tables is None:
        state = init_state(params, optimizer, transform.loss_scaling)
        return state, make_train_step(trained, optimizer, training.seed, teacher), beside
    if transform.loss_scaling:
        raise UserError(
            f"{transform.label} scales the loss, which training.table_optimizer={training.table_optimizer!r} "
            "cannot; set it to 'dense', or compute in bfloat16, whose gradients need no scaling"
        )
    state = init_sparse_state(params, optimizer, tables)
    return state, make_sparse_train_step(trained, optimizer, tables, training.seed, teacher), beside


def _total_steps(data: Data, training: Training) -> int:
    return math.ceil(data.n_train / training.batch_size) * training.epochs


def _score_with(scorer: Any) -> Callable[..., jax.Array]:
    """Returns the module as a function of {"params"} and, where it has them, {"precomputed"}."""

    def score(variables: Any, batch: Batch) -> jax.Array:
        shared = {"precomputed": variables["precomputed"]} if "precomputed" in variables else {}
        return scorer.apply({"params": variables["params"]}, {**batch, **shared})

    return score


def _patience_is_over(history: list[EpochRecord], training: Training) -> bool:
    """Returns whether `patience` validations have passed since the best one; never before there is a best."""
    best = [i for i, record in enumerate(history) if record.is_best]
    if not best or not training.patience:
        return False
    return sum(bool(record.validation) for record in history[best[-1] + 1 :]) >= training.patience
