"""Kernels as products of two smaller ones, by truncated singular value decompositions.

Source: the truncated decomposition of trained layers is that of Denton et al., Exploiting Linear Structure Within
Convolutional Networks for Efficient Evaluation (arXiv 1404.0736), section 3.2; training from factors of drawn kernels
is the spectral initialization of Khodak et al., Initialization and Regularization of Factorized Neural Layers (arXiv
2105.01029), section 3.1. Both factors get the square root of the singular values.

Shapes: I inputs, O outputs, R rank, K = min(I, O).
"""

from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from recjax.config import check, config
from recjax.errors import UserError
from recjax.transforms.layers import Layer, Selection, check_patterns, dense_layers
from recjax.transforms.paths import flatten, set_path
from recjax.transforms.protocol import (
    Finalization,
    Params,
    RowCounts,
    Stage,
    Transform,
    TransformReport,
    Variables,
)
from recjax.transforms.support import Support


@config
class LowRank(Transform):
    """Replaces the kernels of dense layers by two factors, where those have fewer weights.

    Exactly one of `rank`, `energy` and `budget` says how small they are. Layers are named and selected as in
    `quantize`: those that give the answer and the recurrent ones are left whole unless asked for.
    """

    rank: int | None = None  # of every factored kernel, >= 1
    energy: float | None = None  # share of the sum of squared singular values that is kept, (0, 1]
    budget: float | None = None  # share of a kernel's weights that its factors have, (0, 1)
    when: Literal["after", "start"] = "after"  # of trained kernels, or before training, which then works on factors
    finetune_epochs: int = 0  # of the factors of trained kernels
    include: tuple[str, ...] = (".*",)  # layers to factor
    exclude: tuple[str, ...] = ()  # of those, layers that stay whole
    logits: bool = False  # whether layers that give the answer are factored too
    states: bool = False  # whether recurrent layers' product with their state is

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in ("rank", "energy", "budget") if getattr(self, name) is not None}
        check(len(sizes) == 1, "low_rank size", sizes, "exactly one of rank, energy and budget")
        check(self.rank is None or self.rank >= 1, "low_rank rank", self.rank, ">= 1")
        check(self.energy is None or 0 < self.energy <= 1, "low_rank energy", self.energy, "(0, 1]")
        check(self.budget is None or 0 < self.budget < 1, "low_rank budget", self.budget, "(0, 1)")
        # The singular values of drawn kernels say nothing of those that training will give.
        drawn = self.when == "start" and self.energy is not None
        check(not drawn, "low_rank energy with when='start'", self.energy, "None; give rank or budget")
        check(self.finetune_epochs >= 0, "low_rank finetune_epochs", self.finetune_epochs, ">= 0")
        tuned = self.when == "start" and self.finetune_epochs > 0
        check(not tuned, "low_rank finetune_epochs with when='start'", self.finetune_epochs, "0")
        check_patterns("low_rank", (*self.include, *self.exclude))

    @property
    def stage(self) -> Stage:  # type: ignore[override]
        """Returns when kernels become factors."""
        return Stage.FACTORS if self.when == "after" else Stage.STRUCTURE

    @property
    def trains(self) -> bool:  # type: ignore[override]
        """Returns whether training works on the factors."""
        return self.when == "start"

    @property
    def label(self) -> str:
        """Returns the size and, if not the default, when and which layers."""
        size = next(f"{n}={getattr(self, n):g}" for n in ("rank", "energy", "budget") if getattr(self, n) is not None)
        notes = [
            size,
            "start" if self.when == "start" else "",
            "some layers" if self.include != (".*",) or self.exclude else "",
            *(name for name in ("logits", "states") if getattr(self, name)),
        ]
        return f"low_rank({', '.join(note for note in notes if note)})"

    def support(self, platform: str) -> Support:
        """Returns "native": two small products are products like any other."""
        del platform
        return "native"

    def objection(self, members: Sequence[Transform]) -> str | None:
        """Returns why these masks and factors of trained kernels cannot be had together, None if they can."""
        masks = next((member for member in members if member.stage == Stage.MASKS), None)
        if masks is None or self.when == "start":  # training masks the factors themselves
            return None
        removed = masks.empties_units and any(member.stage == Stage.SHRINK for member in members)
        if not removed:
            return (
                f"{self.label} would fill the zeros of {masks.label} again; write "
                "chain(prune(0.5, structure='unit'), shrink(), low_rank(...)), or leave one of them out"
            )
        return None

    def start(self, model_config: Any, params: Params, seed: int, counts: RowCounts) -> Params:
        """Returns the parameters that training works on; raises UserError if there is nothing to factor."""
        del seed, counts
        chosen = self._chosen(model_config, params)
        return self._factored(params, chosen)[0] if self.when == "start" else params

    def finalize(
        self, model_config: Any, variables: Variables, context: Finalization
    ) -> tuple[Any, Variables, TransformReport]:
        """Returns the variables with factors; the report has each layer's rank, energy kept and bytes before and after.

        Layers whose factors would have no fewer weights are listed as left whole. Of factors that were trained, there
        is no kernel to compare with, and so no energy.
        """
        params = variables["params"]
        if self.when == "start":
            return model_config, variables, TransformReport({"layers": _trained_factors(params)})
        chosen = self._chosen(model_config, params)
        params, layers = self._factored(params, chosen)
        if self.finetune_epochs:
            params = context.retrain(model_config, params, self.finetune_epochs)
        whole = [layer.path for layer in chosen.values() if layer.path not in layers]
        return model_config, {**variables, "params": params}, TransformReport({"layers": layers, "left_whole": whole})

    def _chosen(self, model_config: Any, params: Params) -> dict[str, Layer]:
        selection = Selection(include=self.include, exclude=self.exclude, logits=self.logits, states=self.states)
        return selection.choose("low_rank", model_config, params)

    def _factored(self, params: Params, chosen: dict[str, Layer]) -> tuple[Params, dict[str, Any]]:
        """Returns the parameters with factors, and what was done to each layer, by path."""
        flat, layers = flatten(params), {}
        for parameter, layer in chosen.items():
            kernel_IO = np.asarray(flat[parameter], np.float64)
            left_IK, singular_K, right_KO = np.linalg.svd(kernel_IO, full_matrices=False)
            rank = self.rank_of(layer.shape, singular_K)
            if rank * sum(layer.shape) >= kernel_IO.size:
                continue
            root_R = np.sqrt(singular_K[:rank])
            down_IR, up_RO = left_IK[:, :rank] * root_R[None], root_R[:, None] * right_KO[:rank]
            form = {"down": jnp.asarray(down_IR, jnp.float32), "up": jnp.asarray(up_RO, jnp.float32)}
            params = set_path(params, parameter, form)
            layers[layer.path] = {
                "rank": rank,
                "energy": round(float(energy_kept(singular_K)[rank - 1]), 6),
                "bytes": [flat[parameter].nbytes, form["down"].nbytes + form["up"].nbytes],
            }
        if not layers:
            raise UserError(
                f"{self.label} saves no weights in any of {', '.join(layer.path for layer in chosen.values())}: "
                "factors of rank R have R x (inputs + outputs); lower the rank, energy or budget, or leave it out"
            )
        return params, layers

    def rank_of(self, shape: tuple[int, int], singular_K: NDArray) -> int:
        """Returns the rank of a kernel [I, O] with those singular values, in descending order."""
        if self.rank is not None:
            return min(self.rank, min(shape))
        if self.budget is not None:
            return max(1, int(self.budget * shape[0] * shape[1] / sum(shape)))
        assert self.energy is not None
        # Float32 kernels are exact to 1e-7, the square of which no rank has to keep.
        return int(np.argmax(energy_kept(singular_K) >= self.energy - 1e-12)) + 1


def low_rank(
    *, rank: int | None = None, energy: float | None = None, budget: float | None = None, **options: Any
) -> LowRank:
    """Returns the transform that stores kernels as two factors; exactly one size is given, options as in LowRank."""
    return LowRank(rank=rank, energy=energy, budget=budget, **options)


def energy_kept(singular_K: NDArray) -> NDArray:
    """Returns the share [K] of the sum of squares that the first 1, 2, ... singular values have.

    Example:
      >>> energy_kept(np.array([3.0, 2.0, 1.0]))
      array([0.64285714, 0.92857143, 1.        ])
    """
    squares_K = singular_K**2
    total = squares_K.sum()
    return np.cumsum(squares_K) / total if total else np.ones(len(singular_K))


def _trained_factors(params: Params) -> dict[str, Any]:
    """Returns the rank and the bytes, of a whole kernel and of the factors, by layer."""
    flat, layers = flatten(params), {}
    for parameter, layer in dense_layers(params).items():
        if not layer.path.endswith("/down"):
            continue
        down_IR, up_RO = flat[parameter], flat[parameter.removesuffix("down") + "up"]
        whole = down_IR.shape[0] * up_RO.shape[1] * down_IR.dtype.itemsize
        layers[layer.path.removesuffix("/down")] = {
            "rank": down_IR.shape[1],
            "bytes": [whole, down_IR.nbytes + up_RO.nbytes],
        }
    return layers
