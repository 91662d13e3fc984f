import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array

from recjax.config import Experiment
from recjax.errors import UserError
from recjax.models.bert4rec import BERT4RecConfig
from recjax.models.hstu import HSTUConfig
from recjax.models.sasrec import SASRecConfig
from recjax.nn.dots import Dots
from recjax.training.pipeline import load_data
from recjax.transforms.layers import Layer, Selection, attention_products, check_patterns, dense_layers

PARAMS = {
    "gru": {"input": {"kernel": jnp.zeros((2, 6))}, "state_kernel": jnp.zeros((2, 6))},
    "mlp": {
        "dense_0": {"kernel": {"down": jnp.zeros((6, 1)), "up": jnp.zeros((1, 5))}, "bias": jnp.zeros(5)},
        "dense_1": {"kernel": {"values": jnp.zeros((5, 4)), "scale": jnp.zeros((1, 4))}},
    },
    "logit": {"kernel": jnp.zeros((4, 1))},
    "items": {"table": jnp.zeros((9, 3))},
}


@dataclasses.dataclass(frozen=True)
class WatchedDots(Dots):
    """Float products; notes the paths of those of two activations."""

    paths: list[str] = dataclasses.field(hash=False, compare=False, default_factory=list)

    def einsum(self, equation: str, lhs: Array, rhs: Array, path: str, key: Array | None = None) -> Array:
        self.paths.append(path)
        return super().einsum(equation, lhs, rhs, path, key)


class Config:
    def logit_layers(self) -> tuple[str, ...]:
        return ("mlp/.*",)


def test_dense_layers_are_float_matrices_and_their_factors():
    assert dense_layers(PARAMS) == {
        "gru/input/kernel": Layer("gru/input", (2, 6)),
        "gru/state_kernel": Layer("gru/state", (2, 6)),
        "logit/kernel": Layer("logit", (4, 1)),
        "mlp/dense_0/kernel/down": Layer("mlp/dense_0/down", (6, 1)),
        "mlp/dense_0/kernel/up": Layer("mlp/dense_0/up", (1, 5)),
    }


@pytest.mark.parametrize(
    ("path", "n_outputs", "logits", "states", "expected"),
    [
        ("gru/input", 6, False, False, True),
        ("gru/state", 6, False, False, False),
        ("gru/state", 6, False, True, True),
        ("logit", 1, False, False, False),  # a single output is an answer
        ("logit", 1, True, False, True),
        ("mlp/dense_0", 5, False, False, False),
        ("mlp/dense_0/up", 5, False, False, False),  # a factor of a layer that gives the answer
        ("mlp/dense_0/up", 5, True, False, True),
        ("other/dense_0/down", 1, False, False, True),  # a rank of 1 is no single output
    ],
)
def test_answers_and_states_are_taken_only_if_asked_for(
    path: str, n_outputs: int, logits: bool, states: bool, expected: bool
):
    assert Selection(logits=logits, states=states).takes(path, n_outputs, ("mlp/.*",)) == expected


def test_patterns_match_whole_paths():
    selection = Selection(include=("gru/.*", "other"), exclude=(".*/state",), states=True)
    assert selection.takes("gru/input", 6, ())
    assert selection.takes("other", 6, ())
    assert not selection.takes("gru/state", 6, ())
    assert not selection.takes("gru/input2/more/state", 6, ())
    assert not selection.takes("others", 6, ())


def test_a_pattern_of_layers_that_are_left_out_is_refused():
    for pattern in ("logit", ".*/state"):
        with pytest.raises(UserError, match=f"t pattern '{re.escape(pattern)}' matches only layers that are left out"):
            Selection(include=("gru/input", pattern)).choose("t", Config(), PARAMS)
    both = Selection(include=("gru/input", "logit", ".*/state"), logits=True, states=True).choose("t", Config(), PARAMS)
    assert both.keys() == {"gru/input/kernel", "gru/state_kernel", "logit/kernel"}


@pytest.mark.parametrize(
    "model_config", [SASRecConfig(), BERT4RecConfig(), HSTUConfig()], ids=lambda c: type(c).__name__
)
def test_the_paths_of_attentions_products_are_those_of_the_module(model_config: Any, sasrec_experiment: Experiment):
    watched = WatchedDots()
    data = load_data(dataclasses.replace(sasrec_experiment, model=model_config))
    batch = next(data.train_batches(2, 0, 1))
    module = model_config.build(data.schema).clone(dots=watched)
    jax.eval_shape(lambda batch: module.init(jax.random.key(0), batch), dict(batch))
    assert set(watched.paths) == set(attention_products(model_config)) != set()


def test_unusable_patterns_and_empty_selections_are_one_line():
    layers = "gru/input, gru/state, logit, mlp/dense_0/down, mlp/dense_0/up"
    for selection, message in (
        (Selection(include=("gru",)), f"t pattern 'gru' matches no layer of Config; its layers: {layers}"),
        (Selection(exclude=("mlp",)), f"t pattern 'mlp' matches no layer of Config; its layers: {layers}"),
        (Selection(include=("logit",)), "t cannot be applied: Config has no dense layer beside those that give the "),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            selection.choose("t", Config(), PARAMS)
    assert Selection().choose("t", Config(), PARAMS).keys() == {"gru/input/kernel"}
    with pytest.raises(UserError, match=r"t pattern '\[' is no regular expression: "):
        check_patterns("t", ("a", "["))
