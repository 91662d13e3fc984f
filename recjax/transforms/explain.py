"""What a chain of transforms does to a model, layer by layer: what is stored, bytes and operations, before and after.

Nothing is trained: the chain runs on drawn (or given) parameters, so that shapes, types and bytes are those of the
model that it will make, and the operations are counted in the program that answers.
"""

import dataclasses
import io
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
from numpy.typing import NDArray
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from recjax.config import Experiment, to_dict
from recjax.models.contract import Batch
from recjax.progress import stage
from recjax.transforms.paths import kernel_of
from recjax.transforms.products import count_products
from recjax.transforms.protocol import Params, Transform, chain

OTHER = "other"  # the line of biases, norms and whatever else is neither a kernel nor a table
MODEL = "(model)"  # the line of products that stand in the model itself, in none of its layers
NOTHING = "–"
WIDTH = 100  # columns of the table where there is no terminal
BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
SCALES = ("affine", "input_scale", "scale", "unit")  # parts of a form that need no more words
FLOP_UNITS = ("flop", "kflop", "Mflop", "Gflop", "Tflop")
DRAWN = "parameters are drawn, not trained: what goes by their values (energy, calibration) will differ"
GIVEN = "parameters are those given; nothing was trained further"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What a layer is and takes.

    Attributes:
      stored: its arrays in words; "" if it has none.
      bytes: of these arrays.
      flops: of its products in one sample's forward pass; a multiply-add counts two.
      product: the types of their operands, as in "float32" or "int8"; "" if it has none.
    """

    stored: str = ""
    bytes: int = 0
    flops: int = 0
    product: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """A kernel, a table, a product of activations, or all other parameters, before and after the transforms.

    Attributes:
      path: as in "top_mlp/dense_0", "items" or "block_0/attention/scores".
      before: None if it was not there.
      after: None if it was removed.
      said: what each transform reports of it.
    """

    path: str
    before: Cost | None
    after: Cost | None
    said: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanation:
    """Every layer of a model before and after a chain of transforms; prints as a table.

    Attributes:
      experiment: its name.
      label: of the chain.
      values: where the parameters' values come from.
      layers: in the order of the forward pass.
      said: what the transforms report of no single layer.
    """

    experiment: str
    label: str
    values: str
    layers: tuple[Layer, ...]
    said: tuple[str, ...] = ()

    @property
    def before(self) -> Cost:
        """Returns the sums before the transforms."""
        return _sum(layer.before for layer in self.layers)

    @property
    def after(self) -> Cost:
        """Returns the sums after the transforms."""
        return _sum(layer.after for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Returns the explanation as plain JSON values, sums included."""
        return {**to_dict(self), "before": to_dict(self.before), "after": to_dict(self.after)}

    def __rich__(self) -> Group:
        table = Table("layer", "stored", "bytes", "flops/sample", "product")
        for layer in self.layers:
            before, after = layer.before or Cost(), layer.after or Cost(stored="removed")
            stored = "\n".join(filter(None, (_change(before.stored, after.stored), "; ".join(layer.said))))
            _add_row(table, layer.path, stored, before, after)
        table.add_section()
        before, after = self.before, self.after
        shares = f"{_share(before.bytes, after.bytes)} of bytes, {_share(before.flops, after.flops)} of flops"
        _add_row(table, "total", shares, before, after)
        return Group(
            Text(f"{self.experiment}: {self.label}"), table, *(Text(line) for line in self.said), Text(self.values)
        )

    def __str__(self) -> str:
        text = io.StringIO()
        Console(file=text, width=WIDTH, color_system=None).print(self)
        return text.getvalue().rstrip("\n")


def explain(transform: Transform, experiment: Experiment, *, params: Params | None = None) -> Explanation:
    """Prints, and returns, what the transform does to each layer of the experiment's model.

    Args:
      transform: one, or a `chain`.
      experiment: its model, data set and settings; its own transforms are left aside.
      params: trained float parameters of that model, for what goes by values, as a rank by energy; None draws them.

    Raises:
      UserError: the data cannot be had, or the model cannot have the transform.
    """
    # A layer above this one; imported when called, because it imports transforms itself.
    from recjax.training.pipeline import dry_run, load_data

    wanted, models, costs = chain(transform), [], []
    with stage(f"{experiment.name}: explaining {wanted.label}", 3) as advance:
        data = load_data(experiment)
        advance()
        for members in ((), wanted.members):
            models.append(dry_run(dataclasses.replace(experiment, transforms=members), data, params))
            costs.append(_costs(models[-1], data.serving_samples()))
            advance()
    (float_model, final_model), (before, after) = models, costs
    names = sorted(dict.fromkeys([*before, *after]), key=lambda name: name == OTHER)  # which comes last
    said, rest = _said(final_model.report.details, names, _units(float_model.config))
    explanation = Explanation(
        experiment=experiment.name,
        label=wanted.label,
        values=DRAWN if params is None or wanted.from_scratch else GIVEN,
        layers=tuple(
            Layer(path=name, before=before.get(name), after=after.get(name), said=said[name]) for name in names
        ),
        said=rest,
    )
    Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False).print(explanation)
    return explanation


def _costs(model: Any, columns: Mapping[str, NDArray]) -> dict[str, Cost]:
    """Returns what each layer of a FinalModel is and takes, by path in the order of the forward pass."""
    variables = model.variables
    stored = dict(_stored(variables["params"]))
    beside = {key: values for key, values in variables.items() if key != "params"}

    def answer(module: Any, batch: Batch) -> Any:
        return module.apply({"params": variables["params"]}, {**batch, **beside}, top_k=1, method="serve")

    products: dict[str, Counter[str]] = {}
    for (path, types), flops in count_products(model.module, answer, columns).items():
        layer = _whole(path) or MODEL
        # A recurrent layer's product with a sparse state kernel does not pass through its `Dots`, which know its path.
        layer = f"{layer}/state" if layer not in stored and f"{layer}/state" in stored else layer
        products.setdefault(layer, Counter())[types] += flops
    stored |= beside
    return {
        layer: Cost(
            stored=_words(stored[layer]) if layer in stored else "",
            bytes=sum(leaf.nbytes for leaf in jax.tree.leaves(stored.get(layer, {}))),
            flops=products.get(layer, Counter()).total(),
            product=", ".join(products.get(layer, ())),
        )
        for layer in dict.fromkeys([*products, *stored])
    }


def _stored(params: Params) -> Iterator[tuple[str, Any]]:
    """Yields the path and the form of every kernel and table, then all other parameters as one dict."""
    others: dict[str, Any] = {}

    def walk(node: Params, prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in node.items():
            path = f"{prefix}/{key}" if prefix else key
            if key == "table":
                yield prefix or key, value
            elif (layer := kernel_of(path)) is not None:
                yield layer, value
            elif isinstance(value, Mapping):
                yield from walk(value, path)
            else:
                others[path] = value

    yield from walk(params, "")
    if others:
        yield OTHER, others


def _said(
    details: Mapping[str, Mapping[str, Any]], layers: Sequence[str], units: Mapping[str, str]
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Returns the transforms' reports in words: of each layer, and of none.

    Args:
      details: what each transform reports, by its label; entries are by layer, by parameter or by hidden units.
      layers: paths.
      units: the layer of each group of hidden units, by its name.
    """
    of_layers: dict[str, list[str]] = {layer: [] for layer in layers}
    of_none = []
    for label, report in details.items():
        for group, value in report.items():
            is_list = isinstance(value, list) and all(isinstance(entry, str) for entry in value)
            entries = value if isinstance(value, Mapping) else dict.fromkeys(value) if is_list else {}
            left = {}
            for name, entry in entries.items():
                layer = units.get(name) or _whole(kernel_of(name) or name)
                if layer in of_layers:
                    of_layers[layer].append(f"{label}{_entry(group, entry)}")
                else:
                    left[name] = entry
            if left or (not entries and not isinstance(value, Mapping | list)):
                of_none.append(f"{label}{_entry(group, json.dumps(left) if left else value)}")
    return {layer: tuple(dict.fromkeys(words)) for layer, words in of_layers.items()}, tuple(of_none)


def _units(model_config: Any) -> dict[str, str]:
    """Returns the layer that computes each group of hidden units, by the group's name."""
    return {
        units.name: next((layer for path, _ in units.slices if (layer := kernel_of(path))), "")
        for units in model_config.hidden_units()
    }


def _entry(group: str, entry: Any) -> str:
    if isinstance(entry, Mapping):  # bytes have their own column
        parts = [f"{_plain(key)} {value}" for key, value in entry.items() if not key.startswith("bytes")]
    else:
        parts = [_plain(group) if entry is None else f"{_plain(group)} {entry}"]
    return f": {', '.join(parts)}" if parts else ""


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _words(form: Any) -> str:
    """Returns a form in words, as in "float32 [64, 32]" or "int8 [64, 32] + scale"."""
    if not isinstance(form, Mapping):
        return f"{form.dtype} {list(form.shape)}"
    if any("/" in key for key in form):  # not a form: what is left of the parameters, by path
        types = dict.fromkeys(str(leaf.dtype) for leaf in form.values())
        return f"{len(form)} arrays, {', '.join(types)}"
    parts = []
    for key, part in sorted(form.items(), key=lambda item: item[0] in SCALES):  # they come last
        words = f"({_words(part)})" if isinstance(part, Mapping) else _words(part)
        parts.append(key if key in SCALES else words if key == "values" else f"{key} {words}")
    return " + ".join(parts)


def _whole(path: str) -> str:
    """Returns the path of the layer that a factor belongs to, or the path itself."""
    return re.sub(r"/(down|up)$", "", path)


def _sum(costs: Iterable[Cost | None]) -> Cost:
    present = [cost for cost in costs if cost is not None]
    return Cost(bytes=sum(cost.bytes for cost in present), flops=sum(cost.flops for cost in present))


def _add_row(table: Table, name: str, stored: str, before: Cost, after: Cost) -> None:
    table.add_row(
        Text(name),
        Text(stored),
        Text(_change(_amount(before.bytes, 1024, BYTE_UNITS), _amount(after.bytes, 1024, BYTE_UNITS))),
        Text(_change(_amount(before.flops, 1000, FLOP_UNITS), _amount(after.flops, 1000, FLOP_UNITS))),
        Text(_change(before.product, after.product)),
    )


def _change(before: str, after: str) -> str:
    return before if before == after else f"{before or NOTHING}\n→ {after or NOTHING}"


def _amount(value: int, step: int, units: Sequence[str]) -> str:
    """Returns the value in the largest unit that it reaches."""
    if not value:
        return NOTHING
    power = min(int(math.log(value, step) + 1e-9), len(units) - 1)
    return f"{value / step**power:.1f} {units[power]}" if power else f"{value} {units[0]}"


def _share(before: int, after: int) -> str:
    return f"{after / before:.0%}" if before else NOTHING
