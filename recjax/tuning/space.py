"""What a tuning may choose: a chain of transforms, the sizes of batches, and the devices that share batches and layers.

The space is a tree: what is asked depends on what was answered. Optuna's trials answer; so does a plain dict.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from recjax.config import Experiment
from recjax.data.synthetic_dlrm import PAIRS_A_QUERY
from recjax.load.queries import QueryMix
from recjax.transforms.compress_embeddings import compress_embeddings, tables_of
from recjax.transforms.distill import distill
from recjax.transforms.layers import attention_products
from recjax.transforms.low_rank import low_rank
from recjax.transforms.precision import bf16
from recjax.transforms.protocol import Chain, Params, Transform, chain
from recjax.transforms.prune import prune
from recjax.transforms.quantize import quantize
from recjax.transforms.shrink import shrink

Choose = Callable[[str, Sequence[Any]], Any]  # (name, choices) -> one of them
Point = Mapping[str, Any]  # answers by name

LARGEST_BUCKET = 8192
MOST_BUCKETS = 8  # of a ladder; each is a program to compile
BUCKET_QUESTIONS = ("bucket_policy", "largest_bucket", "bucket_ratio")
SHARES = (0.25, 0.5, 0.75, 0.875)  # of hidden units that are removed, or of a student's that it lacks
FINE_TUNED = 1  # epochs of a smaller model
PLAIN: dict[str, Any] = {"structure": "as_trained", "precision": "float32", "tables": "float32", "devices": 1}
PRECISIONS: Mapping[str, Callable[..., Transform]] = {
    "bf16": lambda **_: bf16(),
    "int8": lambda **options: quantize(when="after", **options),
    "int8_static": lambda **options: quantize(when="after", activations="static", **options),
    "int8_weights": lambda logits, **_: quantize(when="after", weight_only=True, logits=logits),
    "int8_trained": lambda **options: quantize(**options),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to serve.

    Attributes:
      transform: the chain.
      buckets: compiled batch sizes, ascending; the last is the most samples that are answered at once.
      devices: that answer together.
      model_devices: of those, that share layers; groups of so many share a batch.
    """

    transform: Chain
    buckets: tuple[int, ...]
    devices: int = 1
    model_devices: int = 1

    @property
    def key(self) -> str:
        """Returns a text that is equal only for the same candidate."""
        transforms = [member.to_json() for member in self.transform.members]
        return json.dumps([transforms, self.buckets, self.devices, self.model_devices])

    @property
    def label(self) -> str:
        """Returns the candidate as it stands in tables."""
        on_devices = f", {self.devices} devices" if self.devices > 1 else ""
        layers = f", {self.model_devices} a layer" if self.model_devices > 1 else ""
        return f"{self.transform.label}, buckets {' '.join(map(str, self.buckets))}{on_devices}{layers}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Space:
    """What there is to choose for one model.

    Attributes:
      structures: names of what may be made smaller.
      tables: forms of embedding tables.
      attention: whether there are products of two activations to quantize.
      largest: sizes that the largest bucket may have.
      smallest: the least size that a ladder of buckets goes down to.
      devices: how many may answer together.
      splits: whether the model's sharding rules split a layer.
      experiment: as the config gives it, with its transforms.
    """

    structures: tuple[str, ...]
    tables: tuple[str, ...]
    attention: bool
    largest: tuple[int, ...]
    smallest: int
    devices: tuple[int, ...]
    splits: bool
    experiment: Experiment

    def candidate(self, choose: Choose) -> Candidate:
        """Returns the candidate that the answers make.

        Raises:
          UserError: a chain that is not legal.
        """
        transform, buckets = self._transform(choose), self._buckets(choose)
        devices = choose("devices", self.devices) if len(self.devices) > 1 else 1
        shares = tuple(n for n in self.devices if devices % n == 0)
        asks = self.splits and len(shares) > 1
        model_devices = choose(_shares_question(devices), shares) if asks else 1
        return Candidate(transform=transform, buckets=buckets, devices=devices, model_devices=model_devices)

    def baseline(self) -> Point:
        """Returns the point that stands for the config as it is, without transforms."""
        return PLAIN | {"bucket_policy": "config"}

    def first_points(self, full_batch: float) -> list[Point]:
        """Returns the points that are looked at before any is drawn, the cheap ones first.

        Args:
          full_batch: samples of fp32 that are answered in a good part of the latency limit.
        """
        small = self._buckets_up_to(full_batch)
        large = self._buckets_up_to(4 * full_batch)  # of models that are several times as fast
        int8 = {"precision": "int8", "int8_answers": True, "int8_products": False}
        tables = {"tables": "int8"} if "int8" in self.tables else {}
        student = {"structure": "student", "student_share": 0.75, "student_layers": "all", "student_embedding": 1.0}
        thin = student | {"student_share": 0.875, "student_layers": "one less"}
        points: list[Point] = (
            [{"structure": "config", "bucket_policy": "config", "devices": 1}] if self.experiment.transforms else []
        )
        points += [PLAIN | small, PLAIN | {"precision": "bf16"} | small, PLAIN | int8 | tables | small]
        if "shrink" in self.structures:
            points.append(PLAIN | int8 | {"structure": "shrink", "shrink_share": 0.5} | large)
        points.append(PLAIN | int8 | {"structure": "low_rank", "rank_share": 0.5} | small)
        if "student" in self.structures:
            points += [PLAIN | student | large, PLAIN | thin | large, PLAIN | int8 | tables | thin | large]
        if (most := self.devices[-1]) > 1:
            shares = (most, 1) if self.splits else (1,)
            points[1:1] = [PLAIN | small | {"devices": most, _shares_question(most): n} for n in shares]
        return points

    def _buckets_up_to(self, size: float) -> dict[str, Any]:
        largest = max((one for one in self.largest if one <= size), default=self.largest[0])
        return {"bucket_policy": "ladder", "largest_bucket": largest, "bucket_ratio": 2}

    def _transform(self, choose: Choose) -> Chain:
        structure = choose("structure", self.structures)
        if structure == "config":
            return chain(*self.experiment.transforms)
        members = self._structure(structure, choose)
        tables = choose("tables", self.tables)
        rounded = [] if tables == "float32" else [compress_embeddings(tables)]
        precision = choose("precision", ("float32", *PRECISIONS))
        if precision == "float32":
            return chain(*members, *rounded)
        options = {}
        if precision.startswith("int8"):
            options["logits"] = choose("int8_answers", (False, True))
        if precision.startswith("int8") and precision != "int8_weights" and self.attention:
            options["products"] = choose("int8_products", (False, True))
        made = PRECISIONS[precision](**options)
        # A chain lists its members by stage: bf16 stands before tables, the freeze after them.
        return chain(*members, made, *rounded) if precision == "bf16" else chain(*members, *rounded, made)

    def _structure(self, structure: str, choose: Choose) -> list[Transform]:
        match structure:
            case "shrink":
                return [shrink(choose("shrink_share", SHARES), finetune_epochs=FINE_TUNED)]
            case "prune_shrink":
                return [prune(choose("prune_share", SHARES)), shrink(finetune_epochs=FINE_TUNED)]
            case "fewer_heads":
                return [shrink(heads=0.5, finetune_epochs=FINE_TUNED)]
            case "fewer_layers":
                return [shrink(layers=1, finetune_epochs=FINE_TUNED)]
            case "low_rank":
                return [low_rank(budget=choose("rank_share", (0.25, 0.5, 0.75)), finetune_epochs=FINE_TUNED)]
            case "student":
                return [self._student(choose)]
        return []

    def _student(self, choose: Choose) -> Transform:
        """Returns a student with a share of the hidden units, and perhaps fewer layers and narrower tables."""
        model = self.experiment.model
        kept = 1 - choose("student_share", SHARES)
        dropped = 1 if choose("student_layers", ("all", "one less")) == "one less" else 0
        fields: dict[str, Any] = {}
        for name in dict.fromkeys(units.field for units in model.hidden_units()):
            widths = getattr(model, name)
            fields[name] = tuple(_width(width * kept) for width in widths[min(dropped, len(widths) - 1) :])
        if hasattr(model, "embedding_dim"):
            share = choose("student_embedding", (1.0, 0.5))
            if share < 1:
                fields["embedding_dim"] = _width(model.embedding_dim * share)
        return distill(**fields)

    def _buckets(self, choose: Choose) -> tuple[int, ...]:
        if choose("bucket_policy", ("config", "ladder")) == "config":
            return self.experiment.serving.buckets
        return ladder(choose("largest_bucket", self.largest), choose("bucket_ratio", (2, 4, 8)), smallest=self.smallest)


def _shares_question(devices: int) -> str:
    return f"model_devices_of_{devices}"  # a question has the same choices whenever it is asked


def space_of(experiment: Experiment, params: Params, mix: QueryMix, n_devices: int) -> Space:
    """Returns what there is to choose for the experiment's model.

    Args:
      experiment: with the transforms of its own, if it has any.
      params: of its model; shapes are enough.
      mix: of the queries, whose smallest size is as small as a bucket need be.
      n_devices: that could answer together.
    """
    model = experiment.model
    of_units = ("shrink", "prune_shrink", "student") if model.hidden_units() else ()
    if model.samples().unit == "everything":
        of_units = ()  # a solved model takes no steps
    few = min(PAIRS_A_QUERY) if mix.sizes == "dlrm_v2" else mix.samples
    smallest = 1 << (few.bit_length() - 1)
    least = min(2 * smallest, LARGEST_BUCKET)
    most = max(8 * experiment.serving.buckets[-1], least)
    powers = [1 << power for power in range(LARGEST_BUCKET.bit_length())]
    return Space(
        structures=(
            "as_trained",
            *(("config",) if experiment.transforms else ()),
            *of_units,
            *(("fewer_heads",) if model.attention_heads() else ()),
            *(("fewer_layers",) if model.removable_layers() else ()),
            "low_rank",
        ),
        tables=("float32", "bf16", "int8", "int4") if tables_of(params) else ("float32",),
        attention=bool(attention_products(model)),
        largest=tuple(n for n in powers if max(least, 16) <= n <= most) or (least,),
        smallest=smallest,
        devices=tuple(n for n in range(1, n_devices + 1) if n_devices % n == 0),
        splits=any("model" in spec for _, spec in model.sharding_rules()),
        experiment=experiment,
    )


def ladder(largest: int, ratio: int, *, smallest: int) -> tuple[int, ...]:
    """Returns bucket sizes, each `ratio` times the one before: from `smallest` or above it to the largest.

    With more than MOST_BUCKETS the small ones are left out, but for the smallest.
    """
    sizes = [largest]
    while sizes[-1] // ratio >= smallest:
        sizes.append(sizes[-1] // ratio)
    if len(sizes) > MOST_BUCKETS:
        sizes = [*sizes[: MOST_BUCKETS - 1], sizes[-1]]
    return tuple(reversed(sizes))


def _width(width: float) -> int:
    return max(8, int(width) // 8 * 8)
