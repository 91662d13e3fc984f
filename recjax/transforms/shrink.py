"""Physical removal of the hidden units that pruning emptied: smaller matrices, the same function."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from recjax.config import check, config
from recjax.transforms.paths import flatten, unflatten_like
from recjax.transforms.protocol import Finalization, Stage, Transform, TransformReport, Variables
from recjax.transforms.units import owned_slices, unit_norms


@config
class Shrink(Transform):
    """Deletes emptied hidden units, then fine-tunes the smaller model for a few epochs."""

    finetune_epochs: int = 2  # 0 leaves the values as they are
    multiple_of: int = 8  # widths are kept at multiples of this, which vector units like; >= 1

    stage = Stage.SHRINK

    def __post_init__(self) -> None:
        check(self.finetune_epochs >= 0, "shrink finetune_epochs", self.finetune_epochs, ">= 0")
        check(self.multiple_of >= 1, "shrink multiple_of", self.multiple_of, ">= 1")

    @property
    def label(self) -> str:
        """Returns "shrink"."""
        return "shrink"

    def finalize(
        self, model_config: Any, variables: Variables, context: Finalization
    ) -> tuple[Any, Variables, TransformReport]:
        """Returns the smaller config and variables; the report gives each layer's width before and after."""
        flat = flatten(variables["params"])
        widths: dict[str, list[int]] = {}
        smaller = model_config
        for layer in model_config.hidden_units():
            norms = np.asarray(unit_norms(layer, flat))
            n_kept = min(len(norms), max(self.multiple_of, _round_up(int((norms > 0).sum()), self.multiple_of)))
            kept = np.sort(np.argsort(-norms, kind="stable")[:n_kept])
            for path, axis in owned_slices(layer, flat):
                flat[path] = jnp.take(flat[path], kept, axis)
            sizes = list(getattr(smaller, layer.field))
            sizes[layer.index] = n_kept
            smaller = dataclasses.replace(smaller, **{layer.field: tuple(sizes)})
            widths[layer.name] = [len(norms), n_kept]
        params = unflatten_like(variables["params"], flat)
        if self.finetune_epochs:
            params = context.retrain(smaller, params, self.finetune_epochs)
        return smaller, {**variables, "params": params}, TransformReport({"widths": widths})


def shrink(*, finetune_epochs: int = 2, multiple_of: int = 8) -> Shrink:
    """Returns the transform that removes the hidden units a preceding `prune` emptied."""
    return Shrink(finetune_epochs=finetune_epochs, multiple_of=multiple_of)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
