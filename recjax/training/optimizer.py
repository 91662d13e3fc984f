"""The optimizer of a training run, transforms included."""

import optax

from recjax.config import ModelConfig, Training
from recjax.transforms.protocol import Transform


def make_optimizer(
    training: Training, transform: Transform, model_config: ModelConfig, total_steps: int
) -> optax.GradientTransformation:
    """Returns AdamW on the configured schedule, with clipping before it and the transform's part after it.

    Args:
      training: learning rate in units of AdamW's step; `warmup_steps` rise linearly from 0, then constant
        or a cosine down to 0 at `total_steps`.
      transform: its `gradient` runs last, so a mask has the final word on every update.
      model_config: architecture that the transform's masks belong to.
      total_steps: planned steps; early stopping may end sooner.
    """
    peak, warmup = training.learning_rate, training.warmup_steps
    if training.decay == "cosine":
        schedule = optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(total_steps, warmup + 1))
    else:
        schedule = optax.linear_schedule(0.0 if warmup else peak, peak, warmup)
    clip = optax.clip_by_global_norm(training.max_grad_norm) if training.max_grad_norm else optax.identity()
    adamw = optax.adamw(schedule, weight_decay=training.weight_decay)
    return optax.chain(clip, adamw, transform.gradient(model_config, total_steps))
