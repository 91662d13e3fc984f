"""A tiny model whose gradients are too small for float16, or too large."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recjax.nn.dense import Dense
from recjax.nn.dots import FLOAT, Dots
from recjax.training.loss_scale import DOUBLED_AFTER, LossScale, first_scale, next_scale
from recjax.training.step import TrainState, init_state, make_train_step
from recjax.transforms.mixed_precision import PolicyDots, mixed_precision
from recjax.transforms.protocol import LossScaling

X_BI = np.array([[1.0, 2.0], [3.0, -1.0]], np.float32)


class Tiny(nn.Module):
    """A dense layer whose outputs' mean, times a weight, is the loss: its gradient is weight x the inputs' mean."""

    weight: float
    dots: Dots = FLOAT

    @nn.compact
    def loss(self, batch: Any, *, train: bool) -> jax.Array:
        return self.weight * jnp.mean(Dense(2, dots=self.dots, name="layer")(batch["x"]))


def step_once(weight: float, scaling: LossScaling | None) -> tuple[TrainState, TrainState, float]:
    """Returns the state before and after one step of SGD with rate 1 in float16 products, and the loss."""
    dots = PolicyDots(inner=FLOAT, rule=mixed_precision("float16"), logits=())
    optimizer = optax.sgd(1.0)
    params = {"layer": {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}}
    before = init_state(params, optimizer, scaling)
    step = make_train_step(Tiny(weight=weight, dots=dots), optimizer, 0)
    after, loss = step(init_state(params, optimizer, scaling), {"x": X_BI})
    return before, after, float(loss)


def expected_kernel(weight: float) -> np.ndarray:
    return -weight * np.tile(X_BI.mean(0).reshape(-1, 1), (1, 2)) / 2  # a mean over two outputs


TOO_SMALL = 2.0**-26  # a quarter of it, as each product's gradient is, is below half of float16's smallest number


def test_gradients_that_underflow_are_lost_without_a_scale_and_had_with_one():
    _, without, _ = step_once(TOO_SMALL, None)
    np.testing.assert_array_equal(without.params["layer"]["kernel"], 0)
    for dynamic in (True, False):
        _, scaled, loss = step_once(TOO_SMALL, LossScaling(2.0**15, dynamic=dynamic))
        np.testing.assert_allclose(scaled.params["layer"]["kernel"], expected_kernel(TOO_SMALL), rtol=1e-3)
        assert loss == 0  # of zeros, and no scale in it
        assert int(scaled.step) == 1


def test_a_step_that_overflows_is_skipped_and_halves_the_scale():
    before, after, loss = step_once(1.0, LossScaling(2.0**20, dynamic=True))  # 2^18 is above float16's 65,504
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
    assert int(after.step) == 0
    assert float(after.loss_scale.value) == 2.0**19
    assert loss == 0
    _, after, _ = step_once(1.0, LossScaling(2.0**10, dynamic=True))
    np.testing.assert_allclose(after.params["layer"]["kernel"], expected_kernel(1.0), rtol=1e-3)
    assert (int(after.step), int(after.loss_scale.clean_steps)) == (1, 1)


def test_a_fixed_scale_stays_and_skips_nothing():
    _, after, _ = step_once(1.0, LossScaling(2.0**20, dynamic=False))
    assert not np.isfinite(after.params["layer"]["kernel"]).all()
    assert float(after.loss_scale.value) == 2.0**20


@pytest.mark.parametrize(
    ("value", "clean_steps", "finite", "expected"),
    [
        (8.0, 0, True, (8.0, 1)),
        (8.0, DOUBLED_AFTER - 1, True, (16.0, 0)),
        (8.0, DOUBLED_AFTER - 1, False, (4.0, 0)),
        (1.0, 5, False, (1.0, 0)),  # a scale below 1 would lose what it is there to keep
    ],
)
def test_the_next_scale_by_hand(value: float, clean_steps: int, finite: bool, expected: tuple[float, int]):
    scale = next_scale(LossScale(jnp.float32(value), jnp.int32(clean_steps)), jnp.asarray(finite))
    assert (float(scale.value), int(scale.clean_steps)) == expected


def test_without_scaling_a_state_holds_nothing_of_it():
    assert first_scale(None) is None
    state = init_state({"a": jnp.zeros(2)}, optax.sgd(1.0))
    assert len(jax.tree.leaves(state)) == 2  # the step and the parameter
