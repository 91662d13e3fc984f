"""What an experiment is: frozen, keyword-only dataclasses. `recjax.config_files` reads and overrides them.

Model configs live beside their models, transforms beside their code; this file knows neither.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import (
    Any,
    ClassVar,
    Literal,
    Protocol,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
    runtime_checkable,
)

import pydantic
from pydantic_core import core_schema

from recjax.errors import UserError, unknown_name

T = TypeVar("T")


def follows_from_others(*, default: int) -> Any:
    """Returns a Config field whose default says that the value follows from other fields.

    Such a field may be added when results of the config are already published: see `experiment_identity`.
    """
    return dataclasses.field(default=default, metadata={"follows_from_others": True})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(follows_from_others,))
def config(cls: type[T]) -> type[T]:
    """Returns `cls` as a frozen, keyword-only dataclass that says what is valid to a wrong key, type or choice.

    A choice is a field that is a Literal of names.
    """
    cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    valid = [field.name for field in fields]
    field_types = {field.name: field.type for field in fields}
    choices = {field.name: get_args(field.type) for field in fields if get_origin(field.type) is Literal}
    choices = {name: names for name, names in choices.items() if all(isinstance(n, str) for n in names)}
    construct = cls.__init__

    def construct_checked(self: Any, **values: Any) -> None:
        for key in values:
            if key not in valid:
                raise unknown_name(f"{cls.__name__} key", key, valid)
        for key, value in values.items():
            if key in choices:
                if value not in choices[key]:
                    raise unknown_name(f"{cls.__name__}.{key}", str(value), choices[key])
            elif not _is_of(field_types[key], value):
                raise UserError(f"{cls.__name__}.{key} is {value!r}; allowed: {type_name(field_types[key])}")
        construct(self, **values)

    cls.__init__ = construct_checked  # type: ignore[method-assign]
    # Within the type of another config's field: it was checked when it was made.
    cls.__get_pydantic_core_schema__ = lambda *_: core_schema.is_instance_schema(cls)  # type: ignore[attr-defined]
    return cls


def _is_of(field_type: Any, value: Any) -> bool:
    """Returns whether the value is of the field's type; an integer is a number, a switch is neither."""
    if isinstance(field_type, type) and field_type.__module__ not in ("builtins", "typing"):
        return isinstance(value, field_type)
    try:
        type_adapter(field_type).validate_python(value, strict=True)
    except pydantic.ValidationError:
        return False
    return True


@functools.cache
def type_adapter(field_type: Any) -> Any:
    """Returns pydantic's reader of values of the type."""
    try:
        return pydantic.TypeAdapter(field_type, config=pydantic.ConfigDict(arbitrary_types_allowed=True))
    except pydantic.PydanticUserError:  # a name that is not defined yet, or a type with a configuration of its own
        return pydantic.TypeAdapter(Any)


def type_name(field_type: Any) -> str:
    """Returns the type as messages call it."""
    return field_type.__name__ if isinstance(field_type, type) else str(field_type).replace("typing.", "")


def check(condition: bool, name: str, value: Any, allowed: str) -> None:
    """Raises UserError unless `condition`: the one form of a range check in `__post_init__`."""
    if not condition:
        raise UserError(f"{name} is {value!r}; allowed: {allowed}")


@config
class Dataset:
    """Which interactions, and how they are filtered and split."""

    source: str = "movielens-latest-small"  # a set of recjax.data.sources, or a path to user,item,rating[,time] text
    min_interactions: int = 5  # k of the k-core filter on users and items; 1 keeps everything
    split: Literal["leave_last_one_out", "random", "random_by_user", "temporal", "strong_generalisation"] = (
        "leave_last_one_out"
    )
    ratios: tuple[float, float, float] = (0.8, 0.1, 0.1)  # train, valid, test; not for leave_last_one_out
    seed: int = 0  # of the random splits and of sampled candidates
    sampled_candidates: int = 0  # unseen items ranked beside the held-out ones; 0 ranks the full catalogue
    positive_rating: float = 4.0  # labels of the labelled task: rating >= this
    time_features: bool = True  # of the labelled task: hour, weekday and quarter of an interaction, the item's age then
    max_history: int = 100  # items of a sequence; the newest are kept
    # How a next-item model's long training histories are cut: the same in every epoch, or drawn anew for each.
    windows: Literal["fixed", "drawn"] = "fixed"

    def __post_init__(self) -> None:
        check(self.min_interactions >= 1, "Dataset.min_interactions", self.min_interactions, ">= 1")
        check(
            abs(sum(self.ratios) - 1) < 1e-6 and min(self.ratios) > 0,
            "Dataset.ratios",
            self.ratios,
            "three positive numbers that sum to 1",
        )
        check(self.max_history >= 2, "Dataset.max_history", self.max_history, ">= 2")
        check(self.seed >= 0, "Dataset.seed", self.seed, ">= 0")
        check(self.sampled_candidates >= 0, "Dataset.sampled_candidates", self.sampled_candidates, ">= 0")


@config
class Training:
    """How parameters are fitted; the epoch is chosen on the validation split."""

    epochs: int = 50  # at most
    batch_size: int = 64  # samples a step
    learning_rate: float = 1e-3  # peak
    warmup_steps: int = 0  # linear, from 0
    decay: Literal["constant", "cosine"] = "constant"
    weight_decay: float = 0.0  # AdamW, decoupled
    max_grad_norm: float = 0.0  # clip by global norm; 0 is off
    # Of embedding tables. All but "dense" (as every other parameter) update only the rows that a batch looks up, and
    # apply no weight decay to tables (recjax.training.row_updates).
    table_optimizer: Literal["dense", "sgd", "rowwise_adagrad", "lazy_adam"] = "dense"
    table_learning_rate: float = 0.0  # peak of that table optimizer; 0 takes learning_rate
    validation_every: int = 1  # epochs
    patience: int = 0  # validations without gain before stopping; 0 never stops early
    seed: int = 0  # of initialisation, shuffling and dropout

    def __post_init__(self) -> None:
        check(self.epochs >= 1, "Training.epochs", self.epochs, ">= 1")
        check(self.batch_size >= 1, "Training.batch_size", self.batch_size, ">= 1")
        check(self.warmup_steps >= 0, "Training.warmup_steps", self.warmup_steps, ">= 0")
        check(0 <= self.weight_decay < math.inf, "Training.weight_decay", self.weight_decay, ">= 0 and finite")
        check(0 < self.learning_rate < math.inf, "Training.learning_rate", self.learning_rate, "> 0 and finite")
        check(self.validation_every >= 1, "Training.validation_every", self.validation_every, ">= 1")
        check(self.patience >= 0, "Training.patience", self.patience, ">= 0")
        check(0 <= self.max_grad_norm < math.inf, "Training.max_grad_norm", self.max_grad_norm, ">= 0 and finite")
        rate = self.table_learning_rate
        check(0 <= rate < math.inf, "Training.table_learning_rate", rate, ">= 0 and finite")
        check(self.seed >= 0, "Training.seed", self.seed, ">= 0")


@config
class Serving:
    """How requests are batched and what latency they must hold."""

    buckets: tuple[int, ...] = (1, 8, 64, 256)  # compiled batch sizes, ascending; a batch is padded to the next
    slo_ms: float = 20.0  # p99 limit of the server scenario; > 0
    top_k: int = 10  # items returned by a ranking model

    def __post_init__(self) -> None:
        ascending = len(self.buckets) > 0 and list(self.buckets) == sorted(set(self.buckets))
        check(ascending and self.buckets[0] >= 1, "Serving.buckets", self.buckets, "ascending positive sizes")
        check(0 < self.slo_ms < math.inf, "Serving.slo_ms", self.slo_ms, "> 0 and finite")
        check(self.top_k >= 1, "Serving.top_k", self.top_k, ">= 1")


@config
class Samples:
    """What one training sample of a model is, and what its batches carry beside it."""

    # An interaction; a user's or an item's whole row of them; or all of them in one batch, for a model that is solved.
    unit: Literal["interactions", "users", "items", "everything"] = "interactions"
    negatives: int = 0  # unseen items drawn for each interaction
    history: bool = False  # whether batches and requests carry the user's earlier items
    times: bool = False  # whether next-item batches carry the time of each item
    known_users_only: bool = False  # whether a user outside the training part means nothing to a model of whole rows
    context: tuple[Literal["interactions", "trust", "knowledge"], ...] = ()  # graphs that every batch carries whole

    def __post_init__(self) -> None:
        check(self.negatives >= 0, "Samples.negatives", self.negatives, ">= 0")


SINGLE_INTERACTIONS = Samples()


@config
class Parallel:
    """How training and serving are spread over devices; no part of what an experiment's results depend on."""

    # One device; jit over a mesh of devices (data, tensor and fully sharded data parallel, sharded tables); or pmap
    # (data parallel), which JAX keeps in maintenance.
    strategy: Literal["single", "pjit", "pmap"] = "single"
    data: int = -1  # devices that share a batch; -1 takes all that `model` leaves
    model: int = 1  # devices that share layers, as the model's sharding rules say
    fully_sharded: bool = False  # whether parameters and the optimizer's state are split along `data` too
    # Of embedding tables with row updates (Training.table_optimizer): how all of them lie on the devices, or a plan by
    # size, lookups and memory (recjax.parallel.table_plan).
    tables: Literal["planned", "replicated", "row_wise", "column_wise", "table_wise"] = "planned"
    hot_rows: int = 0  # of each row-wise table: its most popular rows, of which every device gets a copy

    def __post_init__(self) -> None:
        for name in ("data", "model"):
            size = getattr(self, name)
            check(size >= 1 or size == -1, f"Parallel.{name}", size, ">= 1, or -1 for all devices that are left")
        check(self.data != -1 or self.model != -1, "Parallel.data and Parallel.model", -1, "one of them -1")
        check(self.hot_rows >= 0, "Parallel.hot_rows", self.hot_rows, ">= 0")
        if self.strategy == "single":
            one = "-1 under strategy='single', which is one device; a mesh (--mesh) needs --parallel=pjit or pmap"
            check(self.data == -1, "Parallel.data", self.data, one)
        if self.strategy != "pjit":
            for name, default in (("model", 1), ("fully_sharded", False), ("tables", "planned"), ("hot_rows", 0)):
                value = getattr(self, name)
                check(value == default, f"Parallel.{name}", value, f"{default!r} under strategy={self.strategy!r}")


@runtime_checkable
class ModelConfig(Protocol):
    """What a model's own Config, which stands beside the model and extends this, can do beside holding sizes."""

    task: ClassVar[str]  # "next_item", "top_n", "rating" or "labelled": which data it learns from
    # Whether the loss is a mean over samples, each of which has its own part in it whatever else is in the batch.
    samples_apart: ClassVar[bool] = True

    def build(self, schema: Any) -> Any:
        """Returns the module (recjax.models.contract.Model) for data of that schema."""
        ...

    def samples(self) -> Samples:
        """Returns what the model learns from."""
        return SINGLE_INTERACTIONS

    def logit_layers(self) -> tuple[str, ...]:
        """Returns patterns of the dense layers that give the model's answer; `quantize` leaves them out unless asked.

        A layer of a single output is one of them, whatever its name.
        """
        return ()

    def sharding_rules(self) -> tuple[tuple[str, Any], ...]:
        """Returns (pattern, jax.sharding.PartitionSpec) pairs that say how parameters are split along "model".

        A pattern is a regular expression that is searched for in a parameter's path; the first one found counts, and a
        parameter that none covers cannot be put on several devices.
        """
        return ()

    def hidden_units(self) -> tuple[Any, ...]:
        """Returns the layers (recjax.models.contract.HiddenUnits) that `prune` may empty and `shrink` remove."""
        return ()

    def attention_heads(self) -> tuple[Any, ...]:
        """Returns the layers (recjax.models.contract.AttentionHeads) of whose heads `shrink` may remove some."""
        return ()

    def removable_layers(self) -> tuple[Any, ...]:
        """Returns the rows of layers (recjax.models.contract.RemovableLayers) that `shrink` may make shorter."""
        return ()


@config
class Experiment:
    """One model on one data set, with the transforms that are applied to it."""

    name: str  # unique in a suite; letters, digits, - and _
    dataset: Dataset
    model: ModelConfig
    training: Training
    finetuning: Training  # used instead of `training` when transforms start from trained parameters
    transforms: tuple[Any, ...] = ()  # recjax.transforms.protocol.Transform, in the order of `chain`
    serving: Serving = Serving()
    parallel: Parallel = Parallel()

    def __post_init__(self) -> None:
        legal = self.name != "" and self.name.replace("-", "").replace("_", "").isalnum()
        check(legal, "Experiment.name", self.name, "letters, digits, - and _")


def to_dict(node: Any) -> Any:
    """Returns a config as plain JSON values: dataclasses become dicts, tuples lists."""
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return {field.name: to_dict(getattr(node, field.name)) for field in dataclasses.fields(node)}
    if isinstance(node, list | tuple):
        return [to_dict(value) for value in node]
    return node


def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """Returns the `cls` that `to_dict` wrote; for configs whose fields are plain values and tuples.

    Raises:
      UserError: an unknown key or a value of another type.
    """
    fields: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise unknown_name(f"{cls.__name__} key", key, fields)
    try:
        return cls(**{key: pydantic.TypeAdapter(fields[key]).validate_python(value) for key, value in values.items()})
    except pydantic.ValidationError as error:
        raise UserError(f"{cls.__name__}: {error.errors()[0]['msg']}") from error
