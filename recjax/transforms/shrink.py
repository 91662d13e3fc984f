"""Physical removal of hidden units, attention heads and whole layers: smaller matrices, and fewer of them.

Sources: units by their norm, then fine-tuning, as Li et al. did with filters, Pruning Filters for Efficient ConvNets
(arXiv 1608.08710); heads: Michel et al. (recjax.transforms.units); layers one at a time, each time the one whose
removal hurts least: Peer et al., Greedy-layer Pruning (arXiv 2105.14839).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from recjax.config import check, config
from recjax.errors import UserError
from recjax.models.contract import RemovableLayers
from recjax.transforms.paths import FlatParams, flatten
from recjax.transforms.protocol import (
    Finalization,
    Params,
    RowCounts,
    SoftTargets,
    Stage,
    TeacherModel,
    Transform,
    TransformReport,
    Variables,
    check_teachable,
)
from recjax.transforms.units import head_importances, owned_slices, unit_norms, without_heads, without_layer

DEFAULT_TEMPERATURE = 2.0


@config
class Shrink(Transform):
    """Deletes whole layers, then attention heads, then hidden units, and fine-tunes what is left for a few epochs.

    Of units, those of smallest norm go: as many as `share` says or as pruning emptied, whichever are more.
    """

    share: float = 0.0  # of the units of every hidden layer, [0, 1); 0 removes only those that pruning emptied
    heads: float = 0.0  # share of the heads of every attention layer that is removed, [0, 1)
    layers: int = 0  # whole layers removed, chosen by the validation metric without each
    finetune_epochs: int = 2  # 0 leaves the values as they are
    multiple_of: int = 8  # widths are kept at multiples of this, which vector units like; >= 1
    distill: float = 0.0  # weight of the unshrunk model's scores in the fine-tuning's loss, [0, 1]; 0 is labels alone
    temperature: float = DEFAULT_TEMPERATURE  # that both models' scores are divided by then, > 0

    stage = Stage.SHRINK

    def __post_init__(self) -> None:
        check(0 <= self.share < 1, "shrink share", self.share, "[0, 1)")
        check(0 <= self.heads < 1, "shrink heads", self.heads, "[0, 1)")
        check(self.layers >= 0, "shrink layers", self.layers, ">= 0")
        check(self.finetune_epochs >= 0, "shrink finetune_epochs", self.finetune_epochs, ">= 0")
        check(self.multiple_of >= 1, "shrink multiple_of", self.multiple_of, ">= 1")
        check(0 <= self.distill <= 1, "shrink distill", self.distill, "[0, 1]")
        untaught = self.distill > 0 and self.finetune_epochs == 0
        check(not untaught, "shrink distill with finetune_epochs=0", self.distill, "0; or fine-tune for an epoch")
        check(self.temperature > 0, "shrink temperature", self.temperature, "> 0")
        cold = self.distill > 0 or self.temperature == DEFAULT_TEMPERATURE
        check(cold, "shrink temperature without distill", self.temperature, f"{DEFAULT_TEMPERATURE:g}, no matter")

    @property
    def label(self) -> str:
        """Returns "shrink" with what it removes beside emptied units, and the weight of soft targets."""
        notes = [
            f"{self.share:g}" if self.share else "",
            f"heads {self.heads:g}" if self.heads else "",
            f"layers {self.layers}" if self.layers else "",
            f"distill {self.distill:g}" if self.distill else "",
            f"temperature {self.temperature:g}" if self.temperature != DEFAULT_TEMPERATURE else "",
            f"multiples of {self.multiple_of}" if self.multiple_of != 8 else "",
        ]
        removed = ", ".join(filter(None, notes))
        return f"shrink({removed})" if removed else "shrink"

    def objection(self, members: Sequence[Transform]) -> str | None:
        """Returns why there is nothing to remove, or what would be lost; None if neither."""
        if any(member.empties_units for member in members):
            return None
        if not (self.share or self.heads or self.layers):
            return (
                "shrink() removes hidden units that pruning emptied, and nothing in it empties any; write "
                "chain(prune(0.5, structure='unit'), shrink(), ...), or say what to remove, as in shrink(0.5), "
                "shrink(heads=0.5) or shrink(layers=1)"
            )
        masks = next((member for member in members if member.stage == Stage.MASKS), None)
        if masks and self.finetune_epochs:
            return (
                f"the fine-tuning of {self.label} would fill the zeros of {masks.label} again; give it "
                "finetune_epochs=0, or prune with structure='unit'"
            )
        return None

    def rewrite(self, model_config: Any) -> Any:
        """Returns the Config as it is; raises UserError if the model lacks what is removed or cannot be taught."""
        name = type(model_config).__name__
        if (self.share or not (self.heads or self.layers)) and not model_config.hidden_units():
            raise UserError(f"{self.label} has no units to remove: {name} has no hidden layer; leave share out")
        if self.share or not (self.heads or self.layers):
            widths = {u.name: getattr(model_config, u.field)[u.index] for u in model_config.hidden_units()}
            # Without a share, pruning decides: it may have emptied any number.
            wanted = {n: n - _share_of(self.share, n) if self.share else 0 for n in widths.values()}
            if all(self._width(before, after) == before for before, after in wanted.items()):
                what = f"the share {self.share:g} of {self.label}" if self.share else self.label
                raise UserError(
                    f"{what} removes no unit of {name}, whose hidden widths are {widths}: they stay multiples of "
                    f"{self.multiple_of}; lower multiple_of{', or raise share' if self.share else ''}"
                )
        if self.heads:
            attention = model_config.attention_heads()
            if not attention:
                raise UserError(f"{self.label} has no heads to remove: {name} has no attention layer; leave heads out")
            count = attention[0].count
            if not _share_of(self.heads, count):
                remedy = f"give at least 1 / {count}" if count > 1 else "leave heads out"
                raise UserError(f"{self.label} removes none of {name}'s heads, {count} a layer; {remedy}")
        removable = sum(row.count - 1 for row in model_config.removable_layers())
        if self.layers > removable:
            raise UserError(
                f"{self.label} removes more layers than {name} can lose, which is {removable}: residual layers alone "
                "can be removed, and one stays; lower layers"
            )
        if self.distill:
            check_teachable(self.label, model_config)
        return model_config

    def start(self, model_config: Any, params: Params, seed: int, counts: RowCounts) -> Params:
        """Returns the parameters; raises UserError if another transform stores what units own in a form of its own."""
        del seed, counts
        flat = flatten(params)
        for layer in model_config.hidden_units():
            owned_slices(layer, flat)
        return params

    def finalize(
        self, model_config: Any, variables: Variables, context: Finalization
    ) -> tuple[Any, Variables, TransformReport]:
        """Returns the smaller config and variables.

        The report has each removed layer with the validation metric before and after, the number of heads before and
        after, and each hidden layer's width before and after.
        """
        details: dict[str, Any] = {}
        smaller, flat = model_config, flatten(variables["params"])
        if self.layers:
            smaller, flat, details["layers"] = self._remove_layers(smaller, flat, context)
        if self.heads:
            smaller, flat, details["heads"] = self._remove_heads(smaller, flat)
        smaller, flat, details["widths"] = self._remove_units(smaller, flat)
        params = unflatten_dict(flat, sep="/")
        if self.finetune_epochs:
            targets = SoftTargets(self.distill, self.temperature)
            teacher = TeacherModel(model_config=model_config, params=variables["params"], targets=targets)
            params = context.retrain(smaller, params, self.finetune_epochs, teacher if self.distill else None)
        return smaller, {**variables, "params": params}, TransformReport(details)

    def _remove_layers(
        self, model_config: Any, flat: FlatParams, context: Finalization
    ) -> tuple[Any, FlatParams, list[dict[str, Any]]]:
        """Returns the config, the parameters and what was removed; layers are named by their first numbers."""
        before = context.validate(model_config, unflatten_dict(flat, sep="/"))
        numbers = [list(range(row.count)) for row in model_config.removable_layers()]
        report = []
        for _ in range(self.layers):
            candidates = []
            for of_row, row in zip(numbers, model_config.removable_layers(), strict=True):
                for index in range(row.count if row.count > 1 else 0):
                    smaller, kept = _without_entry(model_config, row, index), without_layer(row, flat, index)
                    after = context.validate(smaller, unflatten_dict(kept, sep="/"))
                    candidates.append((after, of_row, row, index, smaller, kept))
            after, of_row, row, index, model_config, flat = min(candidates, key=lambda candidate: candidate[0].cost)
            removed = row.name.format(of_row.pop(index))
            report.append({"removed": removed, "validation": {after.metric: [before.value, after.value]}})
            before = after
        return model_config, flat, report

    def _remove_heads(self, model_config: Any, flat: FlatParams) -> tuple[Any, FlatParams, list[int]]:
        """Returns the config, the parameters and the number of heads before and after."""
        attention = model_config.attention_heads()
        first = attention[0]
        n_removed = _share_of(self.heads, first.count)
        for layer in attention:
            removed = np.argsort(head_importances(layer, flat), stable=True)[:n_removed]
            flat = without_heads(layer, flat, removed.tolist())
        n_kept = first.count - n_removed
        smaller = dataclasses.replace(model_config, **{first.field: n_kept, **dict(first.fixed)})
        return smaller, flat, [first.count, n_kept]

    def _width(self, before: int, wanted: int) -> int:
        """Returns the width after a layer of that width should keep `wanted` units: a multiple, if there is room."""
        return min(before, max(self.multiple_of, -(-wanted // self.multiple_of) * self.multiple_of))

    def _remove_units(self, model_config: Any, flat: FlatParams) -> tuple[Any, FlatParams, dict[str, list[int]]]:
        """Returns the config, the parameters and each hidden layer's width before and after."""
        flat, widths, smaller = dict(flat), {}, model_config
        for layer in model_config.hidden_units():
            norms = np.asarray(unit_norms(layer, flat))
            wanted = min(int((norms > 0).sum()), len(norms) - _share_of(self.share, len(norms)))
            n_kept = self._width(len(norms), wanted)
            kept = np.sort(np.argsort(-norms, stable=True)[:n_kept])
            for path, axis in owned_slices(layer, flat):
                flat[path] = jnp.take(flat[path], kept, axis)
            sizes = list(getattr(smaller, layer.field))
            sizes[layer.index] = n_kept
            smaller = dataclasses.replace(smaller, **{layer.field: tuple(sizes)})
            widths[layer.name] = [len(norms), n_kept]
        return smaller, flat, widths


def shrink(
    share: float = 0.0,
    *,
    heads: float = 0.0,
    layers: int = 0,
    finetune_epochs: int = 2,
    multiple_of: int = 8,
    distill: float = 0.0,
    temperature: float = DEFAULT_TEMPERATURE,
) -> Shrink:
    """Returns the transform that removes units, heads and layers: what a preceding `prune` emptied, and what is asked.

    Args:
      share: of the units of every hidden layer.
      heads: share of the heads of every attention layer.
      layers: number of whole layers.
      finetune_epochs: epochs after the removal, of which the best is kept, the start included.
      multiple_of: what widths stay multiples of.
      distill: weight of soft targets of the unshrunk model in the fine-tuning.
      temperature: of soft targets.
    """
    return Shrink(
        share=share,
        heads=heads,
        layers=layers,
        finetune_epochs=finetune_epochs,
        multiple_of=multiple_of,
        distill=distill,
        temperature=temperature,
    )


def _share_of(share: float, count: int) -> int:
    """Returns how many of `count` a share below 1 is, rounded down."""
    return int(share * count + 1e-9)


def _without_entry(model_config: Any, layers: RemovableLayers, index: int) -> Any:
    """Returns the config of the model without the layer of that number."""
    value = getattr(model_config, layers.field)
    shorter = value - 1 if isinstance(value, int) else value[:index] + value[index + 1 :]
    return dataclasses.replace(model_config, **{layers.field: shorter})
