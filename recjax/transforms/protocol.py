"""What a transform is, and `chain`, which is one too.

A transform is a frozen, serialisable dataclass that may act at five moments; each hook is the identity
unless a transform says otherwise. Everything it needs arrives as an argument and nothing is mutated, so
a transform can be compared, printed, stored with a checkpoint and applied twice with the same result.
"""

import dataclasses
import enum
import functools
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optax
from numpy.typing import NDArray

from recjax.config import config, to_dict
from recjax.errors import UserError
from recjax.models.contract import Batch
from recjax.transforms.support import Support

Params = Mapping[
    str, Any
]  # nested dicts of arrays; a kernel or a table may be a form (recjax.nn.dots, recjax.nn.tables)
Variables = Mapping[str, Any]  # {"params": Params}
RowCounts = Callable[[], Mapping[str, NDArray[np.int32]]]  # counts when called (recjax.training.row_counts)


class Stage(enum.IntEnum):
    """When a transform acts on values; a chain must list its members in this order."""

    STRUCTURE = 1  # what parameters there are, before the first step
    MASKS = 2
    SHRINK = 3
    FACTORS = 4  # trained matrices become products of smaller ones
    PRECISION = 5  # rounding comes after shrink's fine-tuning, which wants float32 parameters
    TABLES = 6  # trained rows become integers
    FREEZE = 7


class Mode(enum.StrEnum):
    """What a module is built for: learning, scoring a split meanwhile, or answering from final variables."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    SERVE = "serve"


@dataclasses.dataclass(frozen=True)
class SoftTargets:
    """How a teacher's scores enter a loss: their weight in it, and the temperature that all scores are divided by."""

    weight: float
    temperature: float


def check_teachable(label: str, model_config: Any) -> None:
    """Raises UserError for a model that soft targets cannot train: its training batches hold no requests to score."""
    unit = model_config.samples().unit
    if unit == "everything" or (unit != "interactions" and model_config.task == "rating"):
        raise UserError(
            f"{label} cannot teach {type(model_config).__name__.removesuffix('Config')}: soft targets are scores of "
            "requests, which its training batches do not hold; leave distillation out"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherModel:
    """A trained model to learn from in a fine-tuning, and how."""

    model_config: Any
    params: Params
    targets: SoftTargets


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validation:
    """What a model reaches on the validation part, by the metric that epochs are chosen by."""

    metric: str
    value: float
    lower_is_better: bool

    @property
    def cost(self) -> float:
        """Returns the value, negated if a higher one is better: the best model has the least."""
        return self.value if self.lower_is_better else -self.value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finalization:
    """What `finalize` may use beside the parameters.

    Attributes:
      build: makes the float module of a model config.
      batches: n -> at most n validation batches, for calibration.
      retrain: fine-tunes parameters of the given (smaller) config and returns the best; the argument after
        the config is the number of epochs, and the last one is a TeacherModel or None.
      validate: evaluates the float model of a config and parameters on the validation part.
      counts: how often an epoch of training looks each row of each table up, by the table's path.
      shapes: the shapes of the float parameters of a model config, as they are drawn.
    """

    build: Callable[[Any], Any]
    batches: Callable[[int], Sequence[Batch]]
    retrain: Callable[..., Params]
    validate: Callable[[Any, Params], Validation]
    counts: RowCounts
    shapes: Callable[[Any], Params]


@dataclasses.dataclass(frozen=True)
class LossScaling:
    """What the loss is multiplied by while gradients are taken, and whether it follows them (recjax.training)."""

    initial: float
    dynamic: bool


@dataclasses.dataclass(frozen=True)
class TransformReport:
    """What a transform did, as plain JSON values, for the result row."""

    details: dict[str, Any] = dataclasses.field(default_factory=dict)


class Transform:
    """The identity transform; a member overrides the hooks that it needs.

    Class attributes say how it behaves in a chain: `stage`, `trains`, true if it must be in force while
    parameters are fitted (a transform without it is applied to trained parameters as they are), and the others.
    """

    stage: Stage
    trains: bool = False
    from_scratch: bool = False  # whether trained parameters are of no use to it: its own must be trained from the start
    soft_targets: SoftTargets | None = None  # of a teacher, if it wants one: the experiment's model, trained before
    loss_scaling: LossScaling | None = None  # that its gradients need
    narrow_gradients: bool = False  # whether gradients are rounded to few bits, by scales of the whole batch
    empties_units: bool = False  # whether `shrink` finds something to remove after it
    skips_zeros: bool = False  # whether masked values are multiplied no more behind it
    dot_dtype: str | None = None  # the type that most dots run in, if the transform changes it

    @property
    def label(self) -> str:
        """Returns the transform as it stands in tables, as in `prune(0.5)`."""
        raise AssertionError(f"{type(self).__name__} must define label")

    def objection(self, members: Sequence["Transform"]) -> str | None:
        """Returns why the transform cannot be in a chain of these members, with the remedy; None if it can."""
        del members
        return None

    def rewrite(self, model_config: Any) -> Any:
        """Returns the architecture to build, before any parameter exists."""
        return model_config

    def start(self, model_config: Any, params: Params, seed: int, counts: RowCounts) -> Params:
        """Returns the parameters that training starts from, in the transform's own form.

        Args:
          model_config: of the architecture that `rewrite` gave.
          params: drawn, or trained before.
          seed: of what the transform draws.
          counts: how often an epoch of training looks each row of each table up; counted if called.

        Raises:
          UserError: the transform finds nothing to act on.
        """
        del model_config, seed, counts
        return params

    def intercept(self, module: Any, mode: Mode) -> Any:
        """Returns the module with its operations replaced."""
        del mode
        return module

    def gradient(self, model_config: Any, total_steps: int) -> optax.GradientTransformation:
        """Returns what runs last in the optimizer's chain; its state shards and checkpoints with the rest."""
        del model_config, total_steps
        return optax.identity()

    def settled_step(self, total_steps: int) -> int:
        """Returns the first step from which parameters satisfy the transform and may be chosen as best."""
        del total_steps
        return 0

    def finalize(
        self, model_config: Any, variables: Variables, context: Finalization
    ) -> tuple[Any, Variables, TransformReport]:
        """Returns the final architecture and variables, and what was done."""
        del context
        return model_config, variables, TransformReport()

    def support(self, platform: str) -> Support:
        """Returns whether the platform ("cpu", "cuda", "tpu") makes the transform pay by itself.

        "native": the device executes the cheaper form. "emulated": results are right, cost is not reduced
        by the device (masked zeros are still multiplied). "none": it cannot run there.
        """
        del platform
        return "native"

    def to_json(self) -> dict[str, Any]:
        """Returns the transform as plain JSON values, its name first."""
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()
        return {"transform": name, **to_dict(self)}


@config
class Chain(Transform):
    """Several transforms as one; made by `chain`, which checks that their order is legal."""

    members: tuple[Any, ...] = ()

    @property
    def label(self) -> str:
        """Returns the members' labels joined by " + "; "fp32" for none."""
        return " + ".join(member.label for member in self.members) or "fp32"

    @property
    def trains(self) -> bool:  # type: ignore[override]
        """Returns whether any member must be in force while parameters are fitted."""
        return any(member.trains for member in self.members)

    @property
    def from_scratch(self) -> bool:  # type: ignore[override]
        """Returns whether any member needs a training from the start."""
        return any(member.from_scratch for member in self.members)

    @property
    def soft_targets(self) -> SoftTargets | None:  # type: ignore[override]
        """Returns what the member that wants a teacher says of it, None if no member does."""
        return next((member.soft_targets for member in self.members if member.soft_targets), None)

    @property
    def loss_scaling(self) -> LossScaling | None:  # type: ignore[override]
        """Returns what the member that scales the loss says of it, None if no member does."""
        return next((member.loss_scaling for member in self.members if member.loss_scaling), None)

    @property
    def narrow_gradients(self) -> bool:  # type: ignore[override]
        """Returns whether any member rounds gradients to few bits."""
        return any(member.narrow_gradients for member in self.members)

    @property
    def dot_dtype(self) -> str:  # type: ignore[override]
        """Returns the type that most dots run in, by the last member that changes it."""
        return next((member.dot_dtype for member in reversed(self.members) if member.dot_dtype), "float32")

    @property
    def masks(self) -> bool:
        """Returns whether a member masks weights."""
        return any(member.stage == Stage.MASKS for member in self.members)

    @property
    def realises_masks(self) -> bool:
        """Returns whether masked weights are removed or skipped by a later member."""
        removes = any(m.empties_units for m in self.members) and any(m.stage == Stage.SHRINK for m in self.members)
        return self.masks and (removes or any(member.skips_zeros for member in self.members))

    def only_masked(self) -> "Chain":
        """Returns the chain without what removes or skips masked weights."""
        return Chain(members=tuple(m for m in self.members if not (m.stage == Stage.SHRINK or m.skips_zeros)))

    def rewrite(self, model_config: Any) -> Any:
        """Returns the architecture after every member."""
        return functools.reduce(lambda result, member: member.rewrite(result), self.members, model_config)

    def start(self, model_config: Any, params: Params, seed: int, counts: RowCounts) -> Params:
        """Returns the parameters after every member."""
        for number, member in enumerate(self.members):
            params = member.start(model_config, params, seed + number, counts)
        return params

    def intercept(self, module: Any, mode: Mode) -> Any:
        """Returns the module after every member."""
        return functools.reduce(lambda result, member: member.intercept(result, mode), self.members, module)

    def gradient(self, model_config: Any, total_steps: int) -> optax.GradientTransformation:
        """Returns the members' gradient transformations in order."""
        return optax.chain(optax.identity(), *(m.gradient(model_config, total_steps) for m in self.members))

    def settled_step(self, total_steps: int) -> int:
        """Returns the first step from which every member is satisfied."""
        return max((member.settled_step(total_steps) for member in self.members), default=0)

    def finalize(
        self, model_config: Any, variables: Variables, context: Finalization
    ) -> tuple[Any, Variables, TransformReport]:
        """Returns the result of every member in order; the report maps each label to its details."""
        details = {}
        for member in self.members:
            model_config, variables, report = member.finalize(model_config, variables, context)
            details[member.label] = report.details
        return model_config, variables, TransformReport(details)

    def support(self, platform: str) -> Support:
        """Returns the weakest of the members' words; masks whose zeros a member removes are emulated no more."""
        words = [m.support(platform) for m in self.members if not (self.realises_masks and m.stage == Stage.MASKS)]
        return next((word for word in ("none", "emulated") if word in words), "native")


def chain(*transforms: Transform) -> Chain:
    """Returns the transforms as one transform.

    Raises:
      UserError: the order is not that of `Stage`, two members share a stage (of the structure: a kind), or a member
        objects to another; the message names the offending pair and the order that works, or the remedy. Or a member
        is no transform.
    """
    members = [m for t in transforms for m in (t.members if isinstance(t, Chain) else (t,))]
    for member in members:
        if not isinstance(member, Transform):
            raise UserError(f"a chain has {member!r}; allowed: transforms, as in chain(prune(0.5), quantize(8))")
    for objection in filter(None, (member.objection(members) for member in members)):
        raise UserError(f"illegal chain: {objection}")
    slots: dict[tuple[Stage, str], Transform] = {}
    for member in members:
        if other := slots.get(_slot(member)):
            raise UserError(
                f"illegal chain: {member.label} cannot stand beside {other.label}: a chain holds one transform of that "
                "kind; leave one of them out"
            )
        slots[_slot(member)] = member
    for before, after in itertools.pairwise(members):
        if before.stage > after.stage:
            order = " -> ".join(member.label for member in sorted(members, key=lambda member: member.stage))
            raise UserError(f"illegal chain: {after.label} cannot follow {before.label}; the order that works: {order}")
    return Chain(members=tuple(members))


def _slot(member: Transform) -> tuple[Stage, str]:
    """Returns what a chain may hold one member of: a stage, or, of the structure, each kind of transform."""
    return member.stage, type(member).__name__ if member.stage == Stage.STRUCTURE else ""
