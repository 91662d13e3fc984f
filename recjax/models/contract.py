"""What every model offers to training, evaluation, serving and the transforms.

Shapes: B batch, V catalogue, K items returned.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from jaxtyping import Array, Float

from recjax.config import ModelConfig
from recjax.nn.dots import Dots

Batch = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HiddenUnits:
    """One hidden layer whose units can be removed: every parameter slice that a unit owns.

    Removing unit u deletes index u of each slice's axis; if all of a unit's slices are zero, the network
    computes the same function without it, because what reads the unit multiplies it by 0.

    Attributes:
      field: Config field that holds a tuple of widths.
      index: position of this layer's width in that tuple.
      slices: (parameter path with "/", axis) of each parameter that has one index per unit.
    """

    field: str
    index: int
    slices: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        """Returns the layer's name in reports, as in `top_mlp[1]`."""
        return f"{self.field}[{self.index}]"


def mlp_hidden_units(widths: Sequence[int], field: str, module: str, following: str) -> tuple[HiddenUnits, ...]:
    """Returns the hidden layers of an MLP, for `prune` and `shrink`.

    Args:
      widths: of the hidden layers.
      field: Config field that holds them.
      module: path of the MLP in the parameters.
      following: path of the dense layer that reads the last of them, and nothing beside them.
    """
    consumers = [f"{module}/dense_{index + 1}" for index in range(len(widths) - 1)] + [following]
    return tuple(
        HiddenUnits(
            field=field,
            index=index,
            slices=(
                (f"{module}/dense_{index}/kernel", 1),
                (f"{module}/dense_{index}/bias", 0),
                (f"{consumer}/kernel", 0),
            ),
        )
        for index, consumer in enumerate(consumers)
    )


def block_hidden_units(n_blocks: int) -> tuple[HiddenUnits, ...]:
    """Returns the MLP of every transformer block `block_0`, `block_1` and so on, whose widths are `mlp_dims`."""
    return tuple(
        HiddenUnits(
            field="mlp_dims",
            index=i,
            slices=(
                (f"block_{i}/mlp/dense_0/kernel", 1),
                (f"block_{i}/mlp/dense_0/bias", 0),
                (f"block_{i}/mlp/dense_1/kernel", 0),
            ),
        )
        for i in range(n_blocks)
    )


class Model(Protocol):
    """A Flax Linen module; `dots` is where quantized training and serving enter.

    In training, `batch["context"]` holds the data's graphs and item counts, and `batch["step"]` [] int32 the number of
    steps taken so far where `train` is true. Outside it, `batch["precomputed"]` holds what `precompute` returned, if
    the model has that method.
    """

    config: ModelConfig
    dots: Dots

    def __call__(self, batch: Batch) -> Float[Array, "B V"] | Float[Array, "B"]:
        """Returns float32 scores of all items (next-item and top-n models), logits (binary) or ratings."""
        ...

    def loss(self, batch: Batch, *, train: bool) -> Float[Array, ""]:
        """Returns the mean training loss of the batch; `train` turns dropout on.

        A model whose samples are "everything" has `update` instead.
        """
        ...

    def update(self, batch: Batch) -> tuple[Mapping[str, Any], Float[Array, ""]]:
        """Returns new parameters, solved from all interactions and the present ones, and their training loss.

        Only of models whose samples are "everything".
        """
        ...

    def precompute(self, context: Mapping[str, Array]) -> Mapping[str, Array]:
        """Returns what all requests share, once parameters are final: propagated vectors, an item tower's output.

        Optional: a model without it needs nothing beside its parameters.
        """
        ...

    def serve(self, batch: Batch, *, top_k: int) -> Mapping[str, Array]:
        """Returns what a service would answer: top-k item ids and scores, probabilities, or ratings."""
        ...


def precomputed(module: Any, variables: Mapping[str, Any], context: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {"precomputed": ...} as batches carry it outside training; {} for a module without `precompute`."""
    if not hasattr(module, "precompute"):
        return {}
    return {"precomputed": module.apply(variables, context, method="precompute")}
