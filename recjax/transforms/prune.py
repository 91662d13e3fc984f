"""Magnitude pruning on a polynomial schedule, its masks in the optimizer's state.

Source: Zhu and Gupta, To prune, or not to prune (arXiv 1710.01878), equation 1. The masks travel with the
optimizer's state, as in JaxPruner, so they shard, checkpoint and resume for free.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from recjax.config import check, config
from recjax.errors import UserError
from recjax.models.contract import HiddenUnits
from recjax.transforms.paths import FlatParams, flatten, unflatten_like
from recjax.transforms.protocol import Finalization, Params, Stage, Transform, TransformReport, Variables
from recjax.transforms.support import Support
from recjax.transforms.units import owned_slices, unit_norms


class PruneState(NamedTuple):
    """Optimizer state: the steps taken and a mask (True keeps) for every parameter that pruning touches."""

    step: Array
    masks: dict[str, Array]


@config
class Prune(Transform):
    """Zeroes the smallest hidden units ("unit") or weights ("element") of every hidden layer."""

    sparsity: float  # share removed at the end, (0, 1)
    structure: Literal["unit", "element"] = "unit"  # only emptied units can be removed by shrink()
    begin: float = 0.0  # share of the training steps before the first zero
    end: float = 0.5  # share of the training steps at which `sparsity` is reached
    update_every: int = 10  # steps between two updates of the masks
    power: int = 3  # of the schedule: sparsity (1 - (1 - progress)^power)

    stage = Stage.MASKS
    trains = True

    def __post_init__(self) -> None:
        check(0 < self.sparsity < 1, "prune sparsity", self.sparsity, "(0, 1)")
        check(self.structure in ("unit", "element"), "prune structure", self.structure, "'unit', 'element'")
        check(0 <= self.begin <= self.end <= 1, "prune begin and end", (self.begin, self.end), "0 <= begin <= end <= 1")
        check(self.update_every >= 1, "prune update_every", self.update_every, ">= 1")
        check(self.power >= 1, "prune power", self.power, ">= 1")

    @property
    def label(self) -> str:
        """Returns the share removed and, if not the default, the structure."""
        return f"prune({self.sparsity:g})" if self.structure == "unit" else f"prune({self.sparsity:g}, element)"

    @property
    def empties_units(self) -> bool:  # type: ignore[override]
        """Returns whether whole units become zero, which is what shrink() can remove."""
        return self.structure == "unit"

    def support(self, platform: str) -> Support:
        """Returns "emulated": no device skips the zeros of a masked dense layer."""
        del platform
        return "emulated"

    def settled_step(self, total_steps: int) -> int:
        """Returns the number of steps after which the masks have their final sparsity."""
        return self._last_update(total_steps) + 1

    def _last_update(self, total_steps: int) -> int:
        """Returns the step (from 0) whose update takes the masks to their final sparsity; there is always one."""
        return min(round(self.end * total_steps), total_steps - 1)

    def sparsity_at(self, step: Array, total_steps: int) -> Float[Array, ""]:
        """Returns the share to remove at `step`: 0 before `begin`, `sparsity` from `end` on."""
        first, last = self.begin * total_steps, self._last_update(total_steps)
        progress = jnp.where(step >= last, 1.0, jnp.clip((step - first) / max(last - first, 1), 0, 1))
        return self.sparsity * (1 - (1 - progress) ** self.power)

    def gradient(self, model_config: Any, total_steps: int) -> optax.GradientTransformation:
        """Returns the transformation that updates masks on schedule and turns masked weights to exactly zero."""
        layers = model_config.hidden_units()
        if not layers:
            raise UserError(f"{self.label} has nothing to prune: {type(model_config).__name__} has no hidden layer")
        last = self._last_update(total_steps)
        compute = _unit_masks if self.structure == "unit" else _element_masks

        def init(params: Params) -> PruneState:
            flat = flatten(params)
            paths = {path for layer in layers for path, _ in owned_slices(layer, flat)}
            return PruneState(jnp.zeros([], int), {path: jnp.ones(flat[path].shape, bool) for path in sorted(paths)})

        def update(updates: Params, state: PruneState, params: Params) -> tuple[Params, PruneState]:
            flat, flat_updates = flatten(params), flatten(updates)
            proposed = {path: flat[path] + flat_updates[path] for path in state.masks}
            masks = jax.lax.cond(
                ((state.step % self.update_every == 0) & (state.step < last)) | (state.step == last),
                lambda: compute(layers, proposed, self.sparsity_at(state.step, total_steps)),
                lambda: state.masks,
            )
            for path, mask in masks.items():
                flat_updates[path] = jnp.where(mask, flat_updates[path], -flat[path])  # x + (-x) is exactly 0
            return unflatten_like(updates, flat_updates), PruneState(state.step + 1, masks)

        return optax.GradientTransformation(init, update)

    def finalize(
        self, model_config: Any, variables: Variables, context: Finalization
    ) -> tuple[Any, Variables, TransformReport]:
        """Returns the variables unchanged (masked values are zeros already) and the share of zeros per layer."""
        del context
        flat = flatten(variables["params"])
        zeros = {
            layer.name: round(
                float(jnp.mean(jnp.concatenate([(flat[path] == 0).ravel() for path, _ in owned_slices(layer, flat)]))), 4
            )
            for layer in model_config.hidden_units()
        }
        return model_config, variables, TransformReport({"zero_share": zeros})


def prune(
    sparsity: float,
    *,
    structure: Literal["unit", "element"] = "unit",
    begin: float = 0.0,
    end: float = 0.5,
    update_every: int = 10,
    power: int = 3,
) -> Prune:
    """Returns the transform that prunes `sparsity` of the hidden units (or weights) during training."""
    return Prune(sparsity=sparsity, structure=structure, begin=begin, end=end, update_every=update_every, power=power)


def _keep_largest(magnitudes: Array, share_removed: Array) -> Bool[Array, "..."]:
    """Returns True for all but the floor(share x size) smallest; ties keep the earlier index."""
    n_removed = jnp.floor(share_removed * magnitudes.size + 1e-4).astype(int)
    order = jnp.argsort(magnitudes.ravel(), descending=True, stable=True)
    rank = jnp.zeros(magnitudes.size, int).at[order].set(jnp.arange(magnitudes.size))
    return (rank < magnitudes.size - n_removed).reshape(magnitudes.shape)


def _unit_masks(layers: Sequence[HiddenUnits], flat: FlatParams, share_removed: Array) -> dict[str, Array]:
    masks = {path: jnp.ones(values.shape, bool) for path, values in flat.items()}
    for layer in layers:
        keep = _keep_largest(unit_norms(layer, flat), share_removed)
        for path, axis in owned_slices(layer, flat):
            masks[path] &= jnp.expand_dims(keep, [i for i in range(flat[path].ndim) if i != axis])
    return masks


def _element_masks(layers: Sequence[HiddenUnits], flat: FlatParams, share_removed: Array) -> dict[str, Array]:
    del layers
    return {
        path: _keep_largest(jnp.abs(values), share_removed) if values.ndim > 1 else jnp.ones(values.shape, bool)
        for path, values in flat.items()
    }
