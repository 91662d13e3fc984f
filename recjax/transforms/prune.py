"""Pruning of hidden units, single weights and N of every M weights on a schedule, its masks in the optimizer's state.

Sources: the schedule is equation 1 of Zhu and Gupta, To prune, or not to prune (arXiv 1710.01878); that N:M masks get
there by keeping ever fewer of M weights is the structure decay of Kao et al. (arXiv 2209.07617); the movement of
weights is that of Sanh et al. (arXiv 2005.07683). The masks travel with the optimizer's state, as in JaxPruner, so they
shard, checkpoint and resume for free.
"""

import re
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from recjax.config import check, config
from recjax.errors import UserError
from recjax.models.contract import HiddenUnits
from recjax.transforms.layers import Selection, check_matches, check_patterns, matches
from recjax.transforms.masks import keep_highest, keep_n_of_m, n_removed, random_scores
from recjax.transforms.paths import FlatParams, flatten, unflatten_like
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
from recjax.transforms.units import owned_slices, spread_over_slices, unit_means


class PruneState(NamedTuple):
    """Optimizer state: the steps taken, a mask (True keeps) and, if the criterion is no function of values, scores."""

    step: Array
    masks: dict[str, Array]  # of every parameter that pruning touches, by path
    scores: dict[str, Array]  # "movement": of those parameters; "random": of weights by path, of units by layer


@config
class Prune(Transform):
    """Turns hidden units or weights to exactly zero, more and more of them until `end`.

    Structures:
      "unit": whole hidden units, which shrink() can remove: everything that a unit owns.
      "element": single weights of the kernels of dense and recurrent layers, or of a kernel's factors.
      "2:4", "4:8" or any other "N:M": at most N of every M consecutive weights along a kernel's input axis are kept,
        on the way to `end` ever fewer of M; of inputs that M does not divide, the rest is a short group, of which the
        same share is kept, rounded up.
    Biases are pruned as part of a unit alone, and embedding tables by compress_embeddings("prune_rows").

    Criteria:
      "magnitude": absolute values; of a unit, the root mean square of what it owns. A mask is made anew of the values
        that the optimizer proposes: for a masked weight that is its update alone, by which it may come back.
      "movement": the sum over all steps of a weight times its update, high where the weight moves away from zero; of a
        unit, the mean. Sanh et al. sum -weight x gradient: to plain SGD that is the same up to the learning rate. Adam
        divides each gradient by its own size, so that directions count more than sizes; momentum, the learning rate's
        schedule and weight decay count too. A masked weight is zero, and its score stands still.
      "random": an order that `seed` alone decides, the baseline of any other. What is zero stays zero.
    """

    sparsity: float | None = None  # share removed at the end, (0, 1); of "N:M" it is 1 - N / M and may be left out
    structure: str = "unit"  # "unit", "element" or "N:M"
    scope: Literal["layer", "global"] = "layer"  # what is ranked together; "global" keeps one at least of every layer
    criterion: Literal["magnitude", "random", "movement"] = "magnitude"
    schedule: Literal["one_shot", "linear", "cubic", "polynomial"] = "cubic"  # "one_shot" removes nothing before `end`
    begin: float = 0.0  # share of the training steps before the first zero
    end: float = 0.5  # share of the training steps at which `sparsity` is reached
    update_every: int = 10  # steps between two updates of the masks
    power: int = 3  # of the "polynomial" schedule: sparsity (1 - (1 - progress)^power)
    # Layers to prune: by their path, as in "top_mlp/dense_0", or for units by their name, as in r"top_mlp\[0\]".
    include: tuple[str, ...] = (".*",)
    exclude: tuple[str, ...] = ()  # of those, layers that are not pruned
    logits: bool = False  # whether weights of layers that give the answer are pruned too
    seed: int = 0  # of the random order

    stage = Stage.MASKS
    trains = True

    def __post_init__(self) -> None:
        n_of_m = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", self.structure)
        known = self.structure in ("unit", "element") or (n_of_m and int(n_of_m[1]) < int(n_of_m[2]))
        check(bool(known), "prune structure", self.structure, "'unit', 'element', or 'N:M' with 1 <= N < M")
        if self._n_of_m:
            share, same = self.share, self.sparsity is None or abs(self.sparsity - self.share) < 1e-6
            check(same, f"prune sparsity of {self.structure}", self.sparsity, f"{share:g}, which may be left out")
            check(self.scope == "layer", f"prune scope of {self.structure}", self.scope, "'layer'")
        else:
            given = self.sparsity is not None and 0 < self.sparsity < 1
            check(given, "prune sparsity", self.sparsity, "(0, 1); only structure='N:M' needs none")
        check(0 <= self.begin <= self.end <= 1, "prune begin and end", (self.begin, self.end), "0 <= begin <= end <= 1")
        check(self.update_every >= 1, "prune update_every", self.update_every, ">= 1")
        check(self.power >= 1, "prune power", self.power, ">= 1")
        used = self.schedule == "polynomial" or self.power == 3
        check(used, f"prune power of schedule {self.schedule!r}", self.power, "3; or set schedule='polynomial'")
        by_chance = self.criterion == "random" or self.seed <= 0
        check(by_chance, f"prune seed of criterion {self.criterion!r}", self.seed, "0; or set criterion='random'")
        gradual = self.schedule != "one_shot" or self.begin == 0
        check(gradual, "prune begin of schedule 'one_shot'", self.begin, "0; it removes nothing before end")
        of_units = self.structure == "unit" and self.logits
        check(not of_units, "prune logits of structure 'unit'", self.logits, "False; answers are no hidden units")
        check(self.seed >= 0, "prune seed", self.seed, ">= 0")
        check_patterns("prune", (*self.include, *self.exclude))

    @property
    def _n_of_m(self) -> tuple[int, int] | None:
        """Returns N and M, None for another structure."""
        n, colon, m = self.structure.partition(":")
        return (int(n), int(m)) if colon else None

    @property
    def share(self) -> float:
        """Returns the share that is removed at the end."""
        if self._n_of_m:
            n, m = self._n_of_m
            return 1 - n / m
        assert self.sparsity is not None
        return self.sparsity

    @property
    def label(self) -> str:
        """Returns the share removed, or N:M, and what differs from the default."""
        notes = [
            # Models are stored in folders of that name, and a colon is no part of a name everywhere.
            self.structure.replace(":", " of ") if self._n_of_m else f"{self.share:g}",
            "element" if self.structure == "element" else "",
            "global" if self.scope == "global" else "",
            self.criterion if self.criterion != "magnitude" else "",
            {"cubic": "", "polynomial": f"power {self.power}"}.get(self.schedule, self.schedule),
            f"from {self.begin:g}" if self.begin else "",
            f"until {self.end:g}" if self.end != 0.5 else "",
            f"every {self.update_every}" if self.update_every != 10 else "",
            f"seed {self.seed}" if self.seed else "",
            "some layers" if self.include != (".*",) or self.exclude else "",
            "logits" if self.logits else "",
        ]
        return f"prune({', '.join(note for note in notes if note)})"

    @property
    def empties_units(self) -> bool:  # type: ignore[override]
        """Returns whether whole units become zero, which is what shrink() can remove."""
        return self.structure == "unit"

    def support(self, platform: str) -> Support:
        """Returns "emulated": no device skips the zeros of a masked dense layer."""
        del platform  # not even those of 2:4 on GPUs whose tensor cores could: XLA has no product that uses them
        return "emulated"

    def settled_step(self, total_steps: int) -> int:
        """Returns the number of steps after which the masks have their final sparsity."""
        return self._last_update(total_steps) + 1

    def _last_update(self, total_steps: int) -> int:
        """Returns the step (from 0) whose update takes the masks to their final sparsity; there is always one."""
        return min(round(self.end * total_steps), total_steps - 1)

    def sparsity_at(self, step: Array, total_steps: int) -> Float[Array, ""]:
        """Returns the share to remove at `step`: 0 before `begin`, all of it from `end` on."""
        first, last = self.begin * total_steps, self._last_update(total_steps)
        progress = jnp.where(step >= last, 1.0, jnp.clip((step - first) / max(last - first, 1), 0, 1))
        if self.schedule == "one_shot":
            return self.share * jnp.floor(progress)
        return self.share * (1 - (1 - progress) ** {"linear": 1, "cubic": 3, "polynomial": self.power}[self.schedule])

    def rewrite(self, model_config: Any) -> Any:
        """Returns the architecture; raises UserError if it has no hidden units to prune, or not those named."""
        if self.structure == "unit":
            self._units(model_config)
        return model_config

    def start(self, model_config: Any, params: Params, seed: int, counts: RowCounts) -> Params:
        """Returns the parameters; raises UserError if there is no kernel to prune, or a pattern matches none."""
        del seed, counts
        if self.structure != "unit":
            self._kernels(model_config, params)
        return params

    def gradient(self, model_config: Any, total_steps: int) -> optax.GradientTransformation:
        """Returns the transformation that updates masks on schedule and turns masked weights to exactly zero."""
        units = self._units(model_config) if self.structure == "unit" else ()
        last = self._last_update(total_steps)

        def init(params: Params) -> PruneState:
            flat = flatten(params)
            if units:
                paths = sorted({path for layer in units for path, _ in owned_slices(layer, flat)})
                ranked = {layer.name: unit_means(layer, flat).shape for layer in units}
            else:
                paths = sorted(self._kernels(model_config, params))
                ranked = {path: flat[path].shape for path in paths}
            scores = {}
            if self.criterion == "random":
                scores = {name: random_scores(self.seed, name, shape) for name, shape in ranked.items()}
            elif self.criterion == "movement":
                scores = {path: jnp.zeros(flat[path].shape) for path in paths}
            return PruneState(jnp.zeros([], int), {path: jnp.ones(flat[path].shape, bool) for path in paths}, scores)

        def update(updates: Params, state: PruneState, params: Params) -> tuple[Params, PruneState]:
            flat, flat_updates = flatten(params), flatten(updates)
            proposed = {path: flat[path] + flat_updates[path] for path in state.masks}
            scores = state.scores
            if self.criterion == "movement":
                scores = {path: score + flat[path] * flat_updates[path] for path, score in scores.items()}
            masks = jax.lax.cond(
                ((state.step % self.update_every == 0) & (state.step < last)) | (state.step == last),
                lambda: self._masks(units, proposed, scores, self.sparsity_at(state.step, total_steps)),
                lambda: state.masks,
            )
            for path, mask in masks.items():
                flat_updates[path] = jnp.where(mask, flat_updates[path], -flat[path])  # x + (-x) is exactly 0
            return unflatten_like(updates, flat_updates), PruneState(state.step + 1, masks, scores)

        return optax.GradientTransformation(init, update)

    def finalize(
        self, model_config: Any, variables: Variables, context: Finalization
    ) -> tuple[Any, Variables, TransformReport]:
        """Returns the variables unchanged, as masked values are zeros already, and the zeros of every layer.

        Whether a device skips any of them is for later transforms to decide (recjax.transforms.sparsity).
        """
        del context
        params = variables["params"]
        flat = flatten(params)
        if self.structure == "unit":
            owned = {u.name: [path for path, _ in owned_slices(u, flat)] for u in self._units(model_config)}
        else:
            owned = {layer: [path] for path, layer in self._kernels(model_config, params).items()}
        zeros = {path: int(jnp.sum(flat[path] == 0)) for paths in owned.values() for path in paths}
        zero_share = {
            name: round(sum(zeros[path] for path in paths) / sum(flat[path].size for path in paths), 4)
            for name, paths in owned.items()
        }
        total = sum(flat[path].size for path in zeros)  # layers of units share the kernels between them
        details = {"zero_share": zero_share, "kept_values": total - sum(zeros.values()), "total_values": total}
        return model_config, variables, TransformReport(details)

    def _units(self, model_config: Any) -> tuple[HiddenUnits, ...]:
        """Returns the layers whose units are pruned."""
        layers = model_config.hidden_units()
        if not layers:
            raise UserError(
                f"{self.label} has nothing to prune: {type(model_config).__name__} has no hidden layer; "
                "prune weights, as in prune(0.5, structure='element')"
            )
        check_matches("prune", (*self.include, *self.exclude), [layer.name for layer in layers], model_config)
        taken = tuple(u for u in layers if matches(self.include, u.name) and not matches(self.exclude, u.name))
        if not taken:
            raise UserError(f"{self.label} has nothing to prune: every hidden layer is left out; widen include")
        return taken

    def _kernels(self, model_config: Any, params: Params) -> dict[str, str]:
        """Returns the path of every layer whose weights are pruned, by that of its kernel."""
        selection = Selection(include=self.include, exclude=self.exclude, logits=self.logits, states=True)
        return {kernel: layer.path for kernel, layer in selection.choose("prune", model_config, params).items()}

    def _masks(
        self,
        units: tuple[HiddenUnits, ...],
        proposed: FlatParams,
        scores: dict[str, Array],
        share_removed: Float[Array, ""],
    ) -> dict[str, Array]:
        """Returns the masks of all parameters, of the values that the optimizer proposes or of the state's scores."""
        if units and self.criterion == "magnitude":
            squares = {path: jnp.square(values) for path, values in proposed.items()}
            scores = {layer.name: jnp.sqrt(unit_means(layer, squares)) for layer in units}
        elif self.criterion == "magnitude":
            scores = {path: jnp.abs(values) for path, values in proposed.items()}
        elif units and self.criterion == "movement":
            scores = {layer.name: unit_means(layer, scores) for layer in units}
        if self._n_of_m:
            _, m = self._n_of_m
            kept = m - n_removed(share_removed, m)
            return {path: keep_n_of_m(values, kept, m) for path, values in scores.items()}
        together = [scores] if self.scope == "global" else [{name: values} for name, values in scores.items()]
        keep = {name: mask for ranked in together for name, mask in keep_highest(ranked, share_removed).items()}
        return spread_over_slices(units, keep, proposed) if units else keep


def prune(sparsity: float | None = None, **options: Any) -> Prune:
    """Returns the transform that prunes that share of the hidden units, or of weights, during training.

    Args:
      sparsity: the share; a structure "N:M" has its own.
      options: as in Prune.

    Raises:
      UserError: a value that is not allowed.
    """
    return Prune(sparsity=sparsity, **options)
