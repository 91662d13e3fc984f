"""Recurrent layers: GRU and LSTM over a sequence that starts at its first position and is padded at its end.

The input projection of all steps is one matmul before the scan; only the product with the state is done step by
step. Nothing needs a padding mask, because a position's state depends on itself and what is before it.

Shapes: B batch, L sequence length, D input width, H units, G gates times H.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from recjax.nn.dense import Dense, key_for, stored_weight
from recjax.nn.dots import FLOAT, Dots, multiply

GATES = {"gru": 3, "lstm": 4}


class Recurrent(nn.Module):
    """A GRU or LSTM layer from a state of zeros.

    Source: Cho et al. (EMNLP 2014) for the GRU, with the reset gate applied after the product with the state, which
    makes that one matmul; Hochreiter and Schmidhuber (1997) with the forget gate of Gers et al. (2000), whose bias
    starts at 1, for the LSTM.
    """

    units: int
    cell: Literal["gru", "lstm"] = "gru"
    dtype: Any = jnp.float32
    dots: Dots = FLOAT

    @nn.compact
    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L H"]:
        """Returns the state after each position."""
        B, H, gates = x_BLD.shape[0], self.units, GATES[self.cell]
        dense = Dense(gates * H, dtype=self.dtype, dots=self.dots, name="input")
        input_LBG = dense(x_BLD).swapaxes(0, 1)
        kernel_HG = stored_weight(self, "state_kernel", _orthogonal_gates, (H, gates * H))
        key = key_for(self, self.dots)
        keys_L = None if key is None else jax.random.split(key, input_LBG.shape[0])
        zeros_BH = jnp.zeros((B, H), self.dtype)

        def recurrent(state_BH: Array, key: Array | None) -> Array:
            return multiply(self.dots, state_BH, kernel_HG, "/".join((*self.path, "state")), key)

        if self.cell == "gru":
            bias_H = self.param("state_bias", nn.initializers.zeros, (H,)).astype(self.dtype)

            def gru(state_BH: Array, step: tuple[Array, Array | None]) -> tuple[Array, Array]:
                input_BG, key = step
                state_BH = gru_step(state_BH, input_BG, recurrent(state_BH, key), bias_H)
                return state_BH, state_BH

            _, states_LBH = jax.lax.scan(gru, zeros_BH, (input_LBG, keys_L))
        else:

            def lstm(carry: tuple[Array, Array], step: tuple[Array, Array | None]) -> tuple[tuple[Array, Array], Array]:
                input_BG, key = step
                carry = lstm_step(carry, input_BG + recurrent(carry[0], key))
                return carry, carry[0]

            _, states_LBH = jax.lax.scan(lstm, (zeros_BH, zeros_BH), (input_LBG, keys_L))
        return states_LBH.swapaxes(0, 1)


def gru_step(
    state_BH: Float[Array, "B H"], input_BG: Float[Array, "B G"], recurrent_BG: Float[Array, "B G"], bias_H: Array
) -> Float[Array, "B H"]:
    """Returns the GRU's next state.

    Formula: r, z = sigmoid(input + recurrent), c = tanh(input + r (recurrent + bias)), h' = (1 - z) c + z h, with the
    gates in the order r, z, c.
    """
    input_r, input_z, input_c = jnp.split(input_BG, 3, axis=1)
    recurrent_r, recurrent_z, recurrent_c = jnp.split(recurrent_BG, 3, axis=1)
    reset_BH = jax.nn.sigmoid(input_r + recurrent_r)
    update_BH = jax.nn.sigmoid(input_z + recurrent_z)
    candidate_BH = jnp.tanh(input_c + reset_BH * (recurrent_c + bias_H[None]))
    return (1 - update_BH) * candidate_BH + update_BH * state_BH


def lstm_step(carry: tuple[Array, Array], gates_BG: Float[Array, "B G"]) -> tuple[Array, Array]:
    """Returns the LSTM's next (h, c).

    Formula: i, f, o = sigmoid(gates), f's with 1 added before; c' = f c + i tanh(g), h' = o tanh(c'), with the gates
    in the order i, f, g, o.
    """
    in_BH, forget_BH, new_BH, out_BH = jnp.split(gates_BG, 4, axis=1)
    cell_BH = jax.nn.sigmoid(forget_BH + 1) * carry[1] + jax.nn.sigmoid(in_BH) * jnp.tanh(new_BH)
    return jax.nn.sigmoid(out_BH) * jnp.tanh(cell_BH), cell_BH


def last_state(states_BLH: Float[Array, "B L H"], lengths_B: Int[Array, "B"]) -> Float[Array, "B H"]:
    """Returns the state after each sequence's last position; zeros, as before the first step, for an empty one."""
    last_BH = jnp.take_along_axis(states_BLH, jnp.maximum(lengths_B - 1, 0)[:, None, None], 1)[:, 0]
    return jnp.where((lengths_B > 0)[:, None], last_BH, 0)


def _orthogonal_gates(key: Array, shape: tuple[int, int]) -> Array:
    """Returns one orthogonal [H, H] matrix a gate, side by side: states neither vanish nor explode at the start."""
    units, width = shape
    orthogonal = nn.initializers.orthogonal()
    return jnp.concatenate([orthogonal(k, (units, units)) for k in jax.random.split(key, width // units)], 1)
