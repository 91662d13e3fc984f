"""What every model offers to training, evaluation, serving and the transforms.

Shapes: B batch, V catalogue, K items returned.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

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


class HeadSlice(NamedTuple):
    """The indices of one parameter's axis that belong to heads: `width` in a row for each, from `start` on."""

    path: str  # with "/"
    axis: int
    start: int
    width: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionHeads:
    """One attention layer whose heads can be removed: every parameter slice that a head owns.

    All attention layers of a model have the same number of heads.

    Attributes:
      name: path of the layer.
      field: Config field that holds the number of heads.
      count: that number.
      fixed: (Config field, value) of each size that would otherwise follow from the number of heads.
      matching: slices that decide what a head looks at.
      factors: groups of slices whose norms multiply in what a head adds: its values, its rows of the output's kernel.
    """

    name: str
    field: str
    count: int
    fixed: tuple[tuple[str, int], ...]
    matching: tuple[HeadSlice, ...]
    factors: tuple[tuple[HeadSlice, ...], ...]

    @property
    def slices(self) -> tuple[HeadSlice, ...]:
        """Returns everything that a head owns."""
        return (*self.matching, *(owned for group in self.factors for owned in group))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemovableLayers:
    """Layers in a row, each of which adds to what it reads: without one, the next reads what that one read.

    Attributes:
      field: Config field that holds a tuple of one width a layer, or the number of layers.
      count: number of layers.
      name: of a layer in reports, with {} for its number, as in "block_{}".
      paths: of a layer's parameters, with {} for its number.
    """

    field: str
    count: int
    name: str
    paths: tuple[str, ...]


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


def block_attention_heads(n_blocks: int, heads: int, head_dim: int) -> tuple[AttentionHeads, ...]:
    """Returns the attention of every transformer block `block_0`, `block_1` and so on."""

    def columns(layer: str) -> tuple[HeadSlice, ...]:
        return HeadSlice(f"{layer}/kernel", 1, 0, head_dim), HeadSlice(f"{layer}/bias", 0, 0, head_dim)

    return tuple(
        AttentionHeads(
            name=name,
            field="heads",
            count=heads,
            fixed=(("head_dim", head_dim),),
            matching=(*columns(f"{name}/query"), *columns(f"{name}/key")),
            factors=(columns(f"{name}/value"), (HeadSlice(f"{name}/out/kernel", 0, 0, head_dim),)),
        )
        for name in (f"block_{i}/attention" for i in range(n_blocks))
    )


def removable_blocks(n_blocks: int, field: str) -> tuple[RemovableLayers, ...]:
    """Returns the residual blocks `block_0`, `block_1` and so on, which a Config field counts or holds a width of."""
    return (RemovableLayers(field=field, count=n_blocks, name="block_{}", paths=("block_{}",)),)


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
