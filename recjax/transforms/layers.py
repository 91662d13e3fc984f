"""The layers that a transform of kernels acts on: by path, without those that give the model's answer.

Patterns are regular expressions that must match the whole path of a product, as in "top_mlp/dense_0".

Shapes: I inputs, O outputs.
"""

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from recjax.errors import UserError
from recjax.transforms.paths import flatten, kernel_of


@dataclasses.dataclass(frozen=True)
class Layer:
    """The product that a kernel is read by.

    Attributes:
      path: as in "top_mlp/dense_0" or "user_branch/state"; a factor's ends with "/down" or "/up".
      shape: [I, O] of the kernel.
    """

    path: str
    shape: tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """Which layers a transform takes."""

    include: Sequence[str] = (".*",)
    exclude: Sequence[str] = ()
    logits: bool = False  # whether layers that give the answer are taken
    states: bool = False  # whether recurrent layers' product with their state is

    def takes(self, path: str, n_outputs: int, logit_layers: Sequence[str]) -> bool:
        """Returns whether the layer is taken; one with a single output gives an answer, whatever its name.

        Args:
          path: of the product.
          n_outputs: its width.
          logit_layers: the model's patterns of the layers that give its answer.
        """
        if path.endswith("/state") and not self.states:
            return False
        single = n_outputs == 1 and not path.endswith("/down")  # a factor of rank 1 answers nothing
        is_logit = single or matches(logit_layers, re.sub(r"/(down|up)$", "", path))
        return (self.logits or not is_logit) and matches(self.include, path) and not matches(self.exclude, path)

    def choose(
        self, name: str, model_config: Any, params: Mapping[str, Any], products: Collection[str] = ()
    ) -> dict[str, Layer]:
        """Returns the layers that are taken, by the path of their parameter.

        Args:
          name: of the transform, for errors.
          model_config: says which layers give the answer.
          params: with float kernels.
          products: paths that patterns may name, and take, beside those of layers.

        Raises:
          UserError: a pattern matches no layer, or no layer is taken.
        """
        layers = dense_layers(params)
        paths = [layer.path for layer in layers.values()]
        if paths:  # of a model without any, the error below says more
            check_matches(name, (*self.include, *self.exclude), (*paths, *products), model_config)
        logit_layers = model_config.logit_layers()
        chosen = {
            parameter: layer
            for parameter, layer in layers.items()
            if self.takes(layer.path, layer.shape[1], logit_layers)
        }
        taken = [path for path in products if matches(self.include, path) and not matches(self.exclude, path)]
        if chosen or taken:
            check_takes(name, self.include, (*(layer.path for layer in chosen.values()), *taken))
        else:
            remedy = f"widen include, or set {name}(logits=True)" if not self.logits else "widen include"
            raise UserError(
                f"{name} cannot be applied: {type(model_config).__name__} has no dense layer beside those that give "
                f"the answer or are left out; {remedy}"
            )
        return chosen


def dense_layers(params: Mapping[str, Any]) -> dict[str, Layer]:
    """Returns every layer with a kernel that is stored as a matrix, or as factors, by the path of its parameter."""
    return {
        parameter: Layer(path, leaf.shape)
        for parameter, leaf in flatten(params).items()
        if (path := kernel_of(parameter)) is not None and leaf.ndim == 2
    }


def check_patterns(name: str, patterns: Iterable[str]) -> None:
    """Raises UserError if a pattern is no regular expression."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"{name} pattern {pattern!r} is no regular expression: {error}") from error


def check_matches(name: str, patterns: Iterable[str], paths: Collection[str], model_config: Any) -> None:
    """Raises UserError if a pattern matches none of the layers' paths."""
    for pattern in patterns:
        if not any(re.fullmatch(pattern, path) for path in paths):
            allowed = ", ".join(paths) or "none"
            raise UserError(
                f"{name} pattern {pattern!r} matches no layer of {type(model_config).__name__}; its layers: {allowed}"
            )


def check_takes(name: str, patterns: Iterable[str], taken: Collection[str]) -> None:
    """Raises UserError if a pattern matches layers, but none of those that are taken."""
    for pattern in patterns:
        if not any(re.fullmatch(pattern, path) for path in taken):
            raise UserError(
                f"{name} pattern {pattern!r} matches only layers that are left out: by include and exclude, or because "
                "they give the answer (logits=True takes them) or read a recurrent layer's state (states=True); change "
                "that, or drop the pattern"
            )


def attention_products(model_config: Any) -> tuple[str, ...]:
    """Returns the paths of the products of two activations: queries with keys, and their weights with values."""
    return tuple(f"{layer.name}/{part}" for layer in model_config.attention_heads() for part in ("scores", "values"))


def matches(patterns: Sequence[str], path: str) -> bool:
    """Returns whether any pattern matches the whole path."""
    return any(re.fullmatch(pattern, path) for pattern in patterns)
