"""The optimizers of a training run, transforms included."""

import dataclasses
from collections.abc import Callable

import jax
import optax

from recjax.config import ModelConfig, Training
from recjax.training.row_updates import RowUpdate, lazy_adam, rowwise_adagrad, sgd
from recjax.transforms.protocol import Transform

ROW_UPDATES: dict[str, Callable[[], RowUpdate]] = {
    "sgd": sgd,
    "rowwise_adagrad": rowwise_adagrad,
    "lazy_adam": lazy_adam,
}


@dataclasses.dataclass(frozen=True)
class TableOptimizer:
    """How embedding tables are updated where their gradients are rows.

    Attributes:
      rule: what a row's gradient does to it.
      learning_rate: step from 0 -> rate.
      max_grad_norm: limit of the global norm of all gradients together, the tables' and the others'; 0 is off.
    """

    rule: RowUpdate
    learning_rate: Callable[[jax.Array], jax.Array | float]
    max_grad_norm: float = 0.0


def make_optimizer(
    training: Training, transform: Transform, model_config: ModelConfig, total_steps: int
) -> optax.GradientTransformation:
    """Returns AdamW on the configured schedule, with clipping before it and the transform's part after it.

    Where tables have an optimizer of their own, it does the clipping, because it alone sees all gradients.

    Args:
      training: learning rate in units of AdamW's step; `warmup_steps` rise linearly from 0, then constant
        or a cosine down to 0 at `total_steps`.
      transform: its `gradient` runs last, so a mask has the final word on every update.
      model_config: architecture that the transform's masks belong to.
      total_steps: planned steps; early stopping may end sooner.
    """
    clips = training.max_grad_norm and training.table_optimizer == "dense"
    clip = optax.clip_by_global_norm(training.max_grad_norm) if clips else optax.identity()
    schedule = _schedule(training, training.learning_rate, total_steps)
    adamw = optax.adamw(schedule, weight_decay=training.weight_decay)
    return optax.chain(clip, adamw, transform.gradient(model_config, total_steps))


def make_table_optimizer(training: Training, total_steps: int) -> TableOptimizer | None:
    """Returns the optimizer of embedding tables, on the schedule of the others; None where they are dense too."""
    if training.table_optimizer == "dense":
        return None
    peak = training.table_learning_rate or training.learning_rate
    rule = ROW_UPDATES[training.table_optimizer]()
    return TableOptimizer(rule, _schedule(training, peak, total_steps), training.max_grad_norm)


def _schedule(training: Training, peak: float, total_steps: int) -> optax.Schedule:
    warmup = training.warmup_steps
    if training.decay == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(total_steps, warmup + 1))
    return optax.linear_schedule(0.0 if warmup else peak, peak, warmup)
