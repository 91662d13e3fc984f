from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from recjax.nn.dense import Dense
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.embedding import Embedding
from recjax.transforms.products import count_products

COLUMNS = {"x": np.zeros((1, 3), np.float32)}


class Branches(nn.Module):
    """A dense layer, a product of its own, and one of either branch of a condition."""

    dots: Dots = FLOAT

    @nn.compact
    def __call__(self, x_B3: Array) -> Array:
        y_B5 = Dense(5, name="dense", dots=self.dots)(x_B3)
        y_B5 = y_B5 @ jnp.ones((5, 5))
        return jax.lax.cond(y_B5.sum() > 0, lambda y: (y @ jnp.ones((5, 7))).sum(), lambda y: y.sum(), y_B5)


class Loops(nn.Module):
    """Products in a scan, in a compiled function, in bfloat16, and of constants alone."""

    dots: Dots = FLOAT

    @nn.compact
    def __call__(self, x_B3: Array) -> Array:
        square = jnp.ones((3, 3))
        x_B3, _ = jax.lax.scan(lambda x, _: (jax.jit(jnp.matmul)(x, square), None), x_B3, None, length=4)
        x_B3 = jnp.einsum("bi,ij->bj", x_B3.astype(jnp.bfloat16), square.astype(jnp.bfloat16)).astype(jnp.float32)
        return x_B3 @ self.dots.einsum("ij,jk->ik", square, square, "constant")


class Catalogue(nn.Module):
    """Scores of six rows, in a module below the model."""

    dots: Dots = FLOAT

    @nn.compact
    def __call__(self, x_B3: Array) -> Array:
        return Embedding(6, 3, name="items").scores(x_B3)


def products_of(module: Any) -> dict[tuple[str, str], int]:
    variables = module.init(jax.random.key(0), jnp.zeros((1, 3)))
    return dict(count_products(module, lambda module, batch: module.apply(variables, batch["x"]), COLUMNS))


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (Branches(), {("dense", "float32"): 2 * 3 * 5, ("", "float32"): 2 * 5 * 5 + 2 * 5 * 7}),
        (Catalogue(), {("items", "float32"): 2 * 3 * 6}),
        (
            Loops(),
            {
                ("", "float32"): 4 * 2 * 3 * 3 + 2 * 3 * 3,
                ("", "bfloat16"): 2 * 3 * 3,
                ("constant", "float32"): 2 * 3 * 3 * 3,  # whole, although it serves every sample of a batch
            },
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_products_by_hand(module: Any, expected: dict[tuple[str, str], int]):
    assert products_of(module) == expected


def test_counting_changes_no_answer():
    module, x = Branches(), jnp.ones((2, 3))
    variables = module.init(jax.random.key(0), x)
    before = module.apply(variables, x)
    count_products(module, lambda module, batch: module.apply(variables, batch["x"]), COLUMNS)
    assert jnp.array_equal(module.apply(variables, x), before)
