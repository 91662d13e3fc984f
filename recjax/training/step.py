"""One training step: loss, gradient, update, compiled once with its state donated."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from recjax.models.contract import Batch
from recjax.transforms.protocol import Params


class TrainState(NamedTuple):
    """Everything that a step changes; random keys are derived from `step`, so none is stored."""

    step: jax.Array  # [] int32
    params: Params
    opt_state: Any


def init_params(module: Any, batch: Batch, seed: int) -> Params:
    """Returns freshly drawn float32 parameters for the module; the batch gives the input shapes."""
    key = jax.random.key(seed)
    if is_solved(module):
        return jax.jit(functools.partial(module.init, method="update"))(key, batch)["params"]
    return jax.jit(functools.partial(module.init, train=False, method="loss"))(key, batch)["params"]


def is_solved(module: Any) -> bool:
    """Returns whether the module computes new parameters from all the data, without gradients."""
    return hasattr(module, "update")


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the state before the first step; it owns copies, because steps donate it."""
    params = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.zeros([], jnp.int32), params, optimizer.init(params))


def make_train_step(
    module: Any, optimizer: optax.GradientTransformation, seed: int
) -> Callable[[TrainState, Batch], tuple[TrainState, jax.Array]]:
    """Returns the compiled `(state, batch) -> (state, loss)`; the state passed in is donated.

    A model that is solved takes its own new parameters; any other takes one step of the optimizer. Dropout keys use
    the `unsafe_rbg` generator: threefry's bits cost a fifth of a SASRec step on a CPU.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        key = jax.random.fold_in(jax.random.key(seed, impl="unsafe_rbg"), state.step)

        def loss_of(params: Params) -> jax.Array:
            known = {**batch, "step": state.step}
            return module.apply({"params": params}, known, train=True, method="loss", rngs={"dropout": key})

        loss, grads = jax.value_and_grad(loss_of)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        return TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state), loss

    def solve(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        params, loss = module.apply({"params": state.params}, batch, method="update")
        return TrainState(state.step + 1, params, state.opt_state), loss

    return jax.jit(solve if is_solved(module) else train_step, donate_argnums=0)
