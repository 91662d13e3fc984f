"""One training step: loss, gradient, update."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from recjax.models.contract import Batch
from recjax.replicas import batch_mean
from recjax.training.distillation import Teacher, ask_teacher, soft_loss
from recjax.training.fixed import join_fixed, split_fixed
from recjax.training.loss_scale import LossScale, first_scale, skip_overflow, value_and_grad
from recjax.transforms.protocol import LossScaling, Params


class TrainState(NamedTuple):
    """Everything that a step changes; random keys are derived from `step`, so none is stored."""

    step: Any  # [] int32
    params: Any  # nested dicts, or recjax.training.table_store.ShardedParams
    opt_state: Any
    loss_scale: LossScale | None = None


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, jax.Array]]


def init_params(
    module: Any,
    batch: Batch,
    seed: int,
    shardings: Any = None,
    check: Callable[[Params], None] = lambda shapes: None,
) -> Params:
    """Returns freshly drawn float32 parameters for the module; the batch gives the input shapes.

    With `shardings`, one for each parameter, every device draws its part alone. The values are the same, to rounding.
    `check` is called with the shapes of the parameters before anything is drawn, and may raise.
    """
    out = {"params": shardings} if shardings else None
    fixed = {"method": "update"} if is_solved(module) else {"train": False, "method": "loss"}
    draw, key = jax.jit(functools.partial(module.init, **fixed), out_shardings=out), jax.random.key(seed)
    check(draw.eval_shape(key, batch)["params"])  # traced once: the draw takes the same program
    return draw(key, batch)["params"]


def is_solved(module: Any) -> bool:
    """Returns whether the module computes new parameters from all the data, without gradients."""
    return hasattr(module, "update")


def init_state(
    params: Params, optimizer: optax.GradientTransformation, scaling: LossScaling | None = None
) -> TrainState:
    """Returns the state before the first step; it owns copies, because steps donate it."""
    params = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.zeros([], jnp.int32), params, optimizer.init(split_fixed(params)[0]), first_scale(scaling))


def make_loss(module: Any, teacher: Teacher | None) -> Callable[[Params, Batch, jax.Array, jax.Array], jax.Array]:
    """Returns `(params, batch, step, key) -> loss`; a teacher's soft targets have their weight in it."""

    def loss_of(params: Params, batch: Batch, step: jax.Array, key: jax.Array) -> jax.Array:
        known = {**batch, "step": step}
        loss = module.apply({"params": params}, known, train=True, method="loss", rngs={"dropout": key})
        if teacher is None:
            return loss
        weight, temperature = teacher.targets.weight, teacher.targets.temperature
        return (1 - weight) * loss + weight * soft_loss(module, params, batch, temperature)

    return loss_of


def one_device_key(seed: int, step: jax.Array) -> jax.Array:
    """Returns the key of a step's draws on one device.

    Its generator is `unsafe_rbg`: threefry's bits cost a fifth of a SASRec step on a CPU.
    """
    return jax.random.fold_in(jax.random.key(seed, impl="unsafe_rbg"), step)


def many_devices_key(seed: int, step: jax.Array) -> jax.Array:
    """Returns the key of a step's draws on a mesh: each device can draw its part alone, which `unsafe_rbg` cannot."""
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), step)


@dataclasses.dataclass(frozen=True)
class StepDevices:
    """How a step is compiled for the devices that take it.

    Attributes:
      draws: (seed, step) -> the key of that step's draws.
      compile: of a step; the compiled one donates its state.
    """

    draws: Callable[[int, jax.Array], jax.Array]
    compile: Callable[[TrainStep], TrainStep]


ONE_DEVICE = StepDevices(one_device_key, functools.partial(jax.jit, donate_argnums=0))


def make_train_step(
    module: Any,
    optimizer: optax.GradientTransformation,
    seed: int,
    teacher: Teacher | None = None,
    devices: StepDevices = ONE_DEVICE,
) -> TrainStep:
    """Returns the compiled `(state, batch) -> (state, loss)`; the state passed in is donated.

    A model that is solved takes its own new parameters; any other takes one step of the optimizer.
    """
    loss_of = make_loss(module, teacher)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        key = devices.draws(seed, state.step)
        batch = ask_teacher(teacher, batch, jax.random.fold_in(key, 1)) if teacher else batch
        learned, fixed = split_fixed(state.params)

        def loss_at(learned: Params) -> jax.Array:
            return loss_of(join_fixed(learned, fixed), batch, state.step, key)

        loss, grads = value_and_grad(loss_at, state.loss_scale)(learned)
        grads = batch_mean(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, learned)
        params = join_fixed(optax.apply_updates(learned, updates), fixed)
        after = TrainState(state.step + 1, params, opt_state, state.loss_scale)
        return skip_overflow(state, after, grads), loss

    def solve(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        params, loss = module.apply({"params": state.params}, batch, method="update")
        return state._replace(step=state.step + 1, params=params), loss

    return devices.compile(solve if is_solved(module) else train_step)
