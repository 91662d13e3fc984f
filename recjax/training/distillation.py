"""The loss of a student against its teacher's scores, by task.

Shapes: B batch, V catalogue.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recjax.losses import masked_mean
from recjax.models.contract import Batch
from recjax.transforms.protocol import Params, SoftTargets


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained model that another one learns from.

    Attributes:
      module: of the teacher.
      params: float parameters; the teacher does not change.
      targets: weight and temperature of its scores.
    """

    module: Any
    params: Params
    targets: SoftTargets


def ask_teacher(teacher: Teacher, batch: Batch, key: Array) -> Batch:
    """Returns the training batch with `asked`, a batch of requests, and `taught`, the teacher's scores of it.

    The batch holds the `teacher`'s parameters: as constants XLA would fold them into the program. A next-item model is
    asked after one random position of each history, another one in every step, so that all positions are taught at the
    price of one. Call it outside the student's loss, which may be given rows of the student's tables.
    """
    asked = batch
    if teacher.module.config.task == "next_item":
        asked = {**batch, "lengths": _random_prefixes(batch["lengths"], key)}
    return {**batch, "asked": asked, "taught": teacher.module.apply({"params": batch["teacher"]}, asked)}


def soft_loss(student: Any, params: Params, batch: Batch, temperature: float) -> Float[Array, ""]:
    """Returns the student's loss against the scores in a batch of `ask_teacher`; both models score without dropout."""
    task = student.config.task
    real_B = batch["lengths"] > 0 if task == "next_item" else batch["weight"] > 0
    answered = student.apply({"params": params}, batch["asked"])
    return soft_target_loss(batch["taught"], answered, real_B, task, temperature)


def soft_target_loss(taught: Array, answered: Array, real_B: Array, task: str, temperature: float) -> Float[Array, ""]:
    """Returns the mean over real samples of what separates the student's answer from the teacher's.

    Of scores of a catalogue [B, V]: T^2 KL(softmax(taught / T) | softmax(answered / T)). Of logits [B]: the same of
    Bernoulli distributions. Of ratings [B]: the squared difference. All are 0 where both agree.
    """
    if task == "rating":
        return masked_mean((taught - answered) ** 2, real_B)
    taught, answered = taught / temperature, answered / temperature
    if task == "labelled":
        share_B = jax.nn.sigmoid(taught)
        divergence_B = share_B * (jax.nn.log_sigmoid(taught) - jax.nn.log_sigmoid(answered))
        divergence_B += (1 - share_B) * (jax.nn.log_sigmoid(-taught) - jax.nn.log_sigmoid(-answered))
    else:
        log_taught_BV, log_answered_BV = jax.nn.log_softmax(taught), jax.nn.log_softmax(answered)
        divergence_B = jnp.sum(jnp.exp(log_taught_BV) * (log_taught_BV - log_answered_BV), axis=1)
    return temperature**2 * masked_mean(divergence_B, real_B)


def _random_prefixes(lengths_B: Array, key: Array) -> Array:
    """Returns a length between 1 and each history's own; 1 for an empty one, whose loss counts nothing."""
    drawn_B = jax.random.uniform(key, lengths_B.shape) * lengths_B
    return jnp.clip(drawn_B.astype(lengths_B.dtype) + 1, 1, jnp.maximum(lengths_B, 1))
