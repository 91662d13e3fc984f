"""Losses multiplied by a large number, so that float16 gradients do not round to zero.

Source: Micikevicius et al., Mixed Precision Training (arXiv 1710.03740), section 3.2; the number that follows the
gradients is that of NVIDIA's guide to mixed precision training: halved, and the step skipped, where a gradient is not
finite, doubled after 2,000 steps in a row that were.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from recjax.transforms.protocol import LossScaling, Params

DOUBLED_AFTER = 2_000  # steps without a gradient that is not finite


class LossScale(NamedTuple):
    """What the loss is multiplied by, and its gradients divided by."""

    value: Array  # [] float32
    clean_steps: Array | None  # [] int32, since it last changed; None where it never does


def first_scale(scaling: LossScaling | None) -> LossScale | None:
    """Returns the scale before the first step; None where the loss is not scaled."""
    if scaling is None:
        return None
    return LossScale(jnp.float32(scaling.initial), jnp.zeros([], jnp.int32) if scaling.dynamic else None)


def next_scale(scale: LossScale, finite: Bool[Array, ""]) -> LossScale:
    """Returns the scale of the next step, after one whose gradients were all finite, or not."""
    assert scale.clean_steps is not None
    clean_steps = jnp.where(finite, scale.clean_steps + 1, 0)
    doubled = clean_steps == DOUBLED_AFTER
    grown = jnp.where(doubled, scale.value * 2, scale.value)
    return LossScale(jnp.where(finite, grown, jnp.maximum(scale.value / 2, 1.0)), jnp.where(doubled, 0, clean_steps))


def value_and_grad(
    loss_of: Callable[[Params], Array], scale: LossScale | None
) -> Callable[[Params], tuple[Array, Params]]:
    """Returns a function of parameters that gives the loss and its gradients, had through the scaled loss."""
    if scale is None:
        return jax.value_and_grad(loss_of)

    def scaled(params: Params) -> tuple[Array, Array]:
        loss = loss_of(params)
        return loss * scale.value, loss

    def unscaled(params: Params) -> tuple[Array, Params]:
        grads, loss = jax.grad(scaled, has_aux=True)(params)
        return loss, jax.tree.map(lambda grad: grad / scale.value, grads)

    return unscaled


def skip_overflow(before: Any, after: Any, grads: Params) -> Any:
    """Returns the TrainState `after` a step, or the one `before` it, with a smaller scale, if a gradient is not finite.

    A skipped step is not counted: it does not move schedules and masks on.
    """
    scale = before.loss_scale
    if scale is None or scale.clean_steps is None:
        return after
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(grad)) for grad in jax.tree.leaves(grads)]))
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, before)
    return kept._replace(loss_scale=next_scale(scale, finite))
