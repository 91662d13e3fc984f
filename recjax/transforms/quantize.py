"""Narrow products: quantized training, then weights frozen as integers (or fp8) with a scale an output.

The scale has the type that the model computes in.

Two libraries can do it, AQT and Qwix; what is stored is the same for both, plain arrays beside the layer's bias, so a
checkpoint depends on neither. No float copy of a quantized kernel is kept.

Shapes: I inputs, O outputs.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from recjax.config import check, config
from recjax.errors import UserError
from recjax.transforms.dot_types import DotTypes, Type
from recjax.transforms.layers import (
    Selection,
    attention_products,
    check_matches,
    check_patterns,
    check_takes,
    dense_layers,
    matches,
)
from recjax.transforms.paths import flatten, set_path
from recjax.transforms.protocol import (
    Finalization,
    Mode,
    Params,
    RowCounts,
    Stage,
    Transform,
    TransformReport,
    Variables,
)
from recjax.transforms.quantized_dots import QuantizedDots, WatchingDots, library, pack
from recjax.transforms.support import Support, dot_support

Bits = Literal[4, 8, "fp8"]
_TYPES: dict[Any, Type] = {4: "int4", 8: "int8", "fp8": "fp8"}
_ALLOWED = "4, 8, 'fp8'"
CALIBRATION_BATCHES = 4  # unless told otherwise


@config
class Quantize(Transform):
    """Narrow products of every dense layer, trained with (or rounded after training) and frozen.

    A layer is named by its path, as in "top_mlp/dense_0", "block_1/attention/query" or "user_branch/input", a product
    of two activations likewise: "block_1/attention/scores" and "block_1/attention/values". Patterns are regular
    expressions that must match the whole path.
    """

    bits: Any = 8  # of weights: 8, 4 or "fp8" (e4m3)
    activation_bits: Any = None  # of activations: 8 or 4 beside integers, "fp8" beside "fp8"; None takes 8 or "fp8"
    weight_only: bool = False  # leaves activations float: memory is saved, products are float
    backward_bits: Any = None  # of both backward products: 8, 4 or "fp8" (e5m2); None leaves them float
    stochastic_rounding: bool = True  # of gradients, where backward products are narrow
    per_tensor: bool = False  # one scale a kernel in the place of one an output
    activations: Literal["dynamic", "static"] = "dynamic"  # a scale a row, at run time; or one, calibrated once
    calibration_batches: int = CALIBRATION_BATCHES  # validation batches that static scales are taken from
    when: Literal["training", "after"] = "training"  # whether training sees the rounding
    backend: Literal["aqt", "qwix"] = "aqt"
    include: tuple[str, ...] = (".*",)  # layers to quantize, and with `products` attention's
    exclude: tuple[str, ...] = ()  # of those, what stays float
    layer_bits: tuple[tuple[str, Any], ...] = ()  # other bits for some layers: (pattern, bits); the first match counts
    logits: bool = False  # whether layers that give the answer are quantized too
    products: bool = False  # whether attention's products of activations are
    states: bool = False  # whether recurrent layers' product with their state is

    stage = Stage.FREEZE

    def __post_init__(self) -> None:
        for name, allowed in (("bits", _ALLOWED), ("activation_bits", f"None, {_ALLOWED}")):
            value = getattr(self, name)
            check(_is_bits(value) or (value is None and name != "bits"), f"quantize {name}", value, allowed)
        legal = self.backward_bits is None or _is_bits(self.backward_bits)
        check(legal, "quantize backward_bits", self.backward_bits, f"None, {_ALLOWED}")
        for pattern, bits in self.layer_bits:
            check(_is_bits(bits), f"quantize layer_bits of {pattern!r}", bits, _ALLOWED)
        check_patterns("quantize", (*self.include, *self.exclude, *(pattern for pattern, _ in self.layer_bits)))
        check(self.calibration_batches >= 1, "quantize calibration_batches", self.calibration_batches, ">= 1")
        self._check_options_agree()

    def _check_options_agree(self) -> None:
        """Raises UserError for an option that has no effect beside another, or would make products float32."""
        qwix, narrow_gradients = self.backend == "qwix", self.backward_bits is not None
        dynamic = self.activations == "dynamic"
        # Of fp8 and integers XLA makes float32 products. Of the backward ones, AQT rounds both operands to one type.
        is_fp8 = {bits == "fp8" for bits in (self.bits, *(bits for _, bits in self.layer_bits))}
        mixed = {
            name: getattr(self, name) is not None and is_fp8 != {getattr(self, name) == "fp8"}
            for name in ("activation_bits", "backward_bits")
        }
        kind = "None, or integers beside integers and 'fp8' beside 'fp8', in every layer"
        for refused, option, context, allowed in (
            (mixed["activation_bits"], "activation_bits", f"beside weights of {self.bits!r}", kind),
            (qwix and mixed["backward_bits"], "backward_bits", f"of qwix beside weights of {self.bits!r}", kind),
            (self.when == "after" and narrow_gradients, "backward_bits", "with when='after'", "None"),
            (self.weight_only and narrow_gradients and qwix, "backward_bits", "of qwix with weight_only", "None"),
            (self.weight_only and not dynamic, "activations", "with weight_only", "'dynamic'"),
            (self.weight_only and self.activation_bits is not None, "activation_bits", "with weight_only", "None"),
            (self.weight_only and self.products, "products", "with weight_only", "False; they have no weights"),
            (
                self.stochastic_rounding and self.backward_bits == "fp8" and qwix,
                "stochastic_rounding",
                "of fp8 gradients by qwix",
                "False; it rounds them to the nearest",
            ),
            (
                not self.stochastic_rounding and not narrow_gradients,
                "stochastic_rounding",
                "without backward_bits",
                "True; nothing is rounded by chance then",
            ),
            (
                dynamic and self.calibration_batches != CALIBRATION_BATCHES,
                "calibration_batches",
                "of dynamic activations",
                f"{CALIBRATION_BATCHES}; set activations='static'",
            ),
        ):
            check(not refused, f"quantize {option} {context}", getattr(self, option), allowed)

    @property
    def selection(self) -> Selection:
        """Returns which layers are quantized."""
        return Selection(include=self.include, exclude=self.exclude, logits=self.logits, states=self.states)

    @property
    def narrow_gradients(self) -> bool:  # type: ignore[override]
        """Returns whether gradients are rounded."""
        return self.backward_bits is not None

    @property
    def rounds_by_chance(self) -> bool:
        """Returns whether gradients are rounded up or down by chance."""
        return self.backward_bits is not None and self.stochastic_rounding

    @property
    def trains(self) -> bool:  # type: ignore[override]
        """Returns whether training sees the rounding."""
        return self.when == "training"

    @property
    def dot_dtype(self) -> str | None:  # type: ignore[override]
        """Returns the type that products run in unless `layer_bits` name them; None where activations stay float."""
        return None if self.weight_only else _product_type(self.bits)

    @property
    def label(self) -> str:
        """Returns the weights' type and, in brackets, what differs from the default."""
        notes = [
            "weights only" if self.weight_only else "",
            f"{_TYPES[self.activation_bits]} activations" if self.activation_bits else "",
            f"{_TYPES[self.backward_bits]} backward" if self.backward_bits else "",
            "no stochastic rounding" if self.backward_bits and not self.stochastic_rounding else "",
            "per tensor" if self.per_tensor else "",
            "static" if self.activations == "static" else "",
            "after training" if self.when == "after" else "",
            self.backend if self.backend != "aqt" else "",
            "some layers" if self.include != (".*",) or self.exclude else "",
            "mixed" if self.layer_bits else "",
            *(name for name in ("logits", "products", "states") if getattr(self, name)),
        ]
        notes = [note for note in notes if note]
        return _TYPES[self.bits] + (f" ({', '.join(notes)})" if notes else "")

    def support(self, platform: str) -> Support:
        """Returns whether the device multiplies these types as such; whether that pays is for the row to say."""
        if self.weight_only:
            return "emulated"  # values are widened before every product: less memory, no faster dot
        types = {_product_type(bits) for bits in (self.bits, *(bits for _, bits in self.layer_bits))}
        words = [dot_support(platform, name) for name in types]
        return next((word for word in ("none", "emulated") if word in words), "native")

    def start(self, model_config: Any, params: Params, seed: int, counts: RowCounts) -> Params:
        """Returns the parameters; raises UserError if there is nothing to quantize, or a pattern matches nothing."""
        del seed, counts
        found = [types for _, types in self._chosen(model_config, params).values()]
        found += filter(None, map(self.types_of_product, attention_products(model_config)))
        # A forward and two backward products, each of two of the three. Of attention's, some shapes do compile.
        int4_by_int4 = any((types.weights, types.activations, types.gradients).count("int4") > 1 for types in found)
        if int4_by_int4 and self.trains and self.backend == "qwix" and jax.default_backend() == "cpu":
            raise UserError(
                "qwix cannot train int4 by int4 products on a CPU, for which XLA has none; use backend='aqt'"
            )
        return params

    def intercept(self, module: Any, mode: Mode) -> Any:
        """Returns the module with its products quantized on the fly, or read from frozen values."""
        if mode != Mode.SERVE and not self.trains:
            return module
        logits = module.config.logit_layers()
        return module.clone(dots=QuantizedDots(inner=module.dots, rule=self, logits=logits, mode=mode))

    def types_at(self, path: str, n_outputs: int, logits: Sequence[str]) -> DotTypes | None:
        """Returns the types of the layer's product, None if it stays float.

        Args:
          path: of the product.
          n_outputs: its width; a single output is an answer, whatever its name.
          logits: patterns of the layers that give the model's answer.
        """
        return self.types_of(path) if self.selection.takes(path, n_outputs, logits) else None

    def types_of(self, path: str) -> DotTypes:
        """Returns the types of a layer that is quantized."""
        return self._types(next((bits for pattern, bits in self.layer_bits if re.fullmatch(pattern, path)), self.bits))

    def types_of_product(self, path: str) -> DotTypes | None:
        """Returns the types of a product of two activations, None if it stays float."""
        if not self.products or not matches(self.include, path) or matches(self.exclude, path):
            return None
        types = self.types_of(path)
        assert types.activations is not None, "products and weight_only exclude each other"
        return dataclasses.replace(types, weights=types.activations, per_tensor=False)

    def finalize(
        self, model_config: Any, variables: Variables, context: Finalization
    ) -> tuple[Any, Variables, TransformReport]:
        """Returns the variables with every quantized kernel in the place of its float one."""
        params, backend = variables["params"], library(self.backend)
        chosen = self._chosen(model_config, params)
        scales = self._input_scales(model_config, variables, chosen, context) if self.activations == "static" else {}
        dtype = getattr(model_config, "dtype", "float32")
        kernels = {}
        for parameter, (path, found) in chosen.items():
            values = flatten(params)[parameter].astype(dtype)
            form = jax.jit(backend.quantize_kernel, static_argnums=1)(values, found)
            if found.weights == "int4":
                form = {"packed": pack(form["values"]), "scale": form["scale"]}
            if path in scales:
                form["input_scale"] = scales[path]
            params = set_path(params, parameter, form)
            kernels[parameter] = found.weights
        return model_config, {**variables, "params": params}, TransformReport({"kernels": kernels})

    def _types(self, bits: Any) -> DotTypes:
        activations = self.activation_bits or ("fp8" if bits == "fp8" else 8)
        return DotTypes(
            weights=_TYPES[bits],
            activations=None if self.weight_only else _TYPES[activations],
            gradients=_TYPES[self.backward_bits] if self.backward_bits else None,
            stochastic_rounding=self.stochastic_rounding,
            per_tensor=self.per_tensor,
        )

    def _chosen(self, model_config: Any, params: Params) -> dict[str, tuple[str, DotTypes]]:
        """Returns, by parameter, the path and the types of every layer that is quantized."""
        products = attention_products(model_config) if self.products else ()
        chosen = self.selection.choose("quantize", model_config, params, products)
        taken = [path for path in products if self.types_of_product(path)]
        if self.products and not taken:
            raise UserError(
                f"quantize(products=True) finds no product of two activations in {type(model_config).__name__}, or "
                f"none that include and exclude leave; its products: {', '.join(products) or 'none'}"
            )
        patterns = [pattern for pattern, _ in self.layer_bits]
        paths = [layer.path for layer in dense_layers(params).values()]
        check_matches("quantize", patterns, (*paths, *products), model_config)
        check_takes("quantize", patterns, (*(layer.path for layer in chosen.values()), *taken))
        return {parameter: (layer.path, self.types_of(layer.path)) for parameter, layer in chosen.items()}

    def _input_scales(
        self, model_config: Any, variables: Variables, chosen: Mapping[str, tuple[str, DotTypes]], context: Finalization
    ) -> dict[str, Array]:
        """Returns the scale of each layer's input by path: its largest magnitude over a few validation batches."""
        backend, types_of = library(self.backend), dict(chosen.values())

        @jax.jit
        def largest_inputs(variables: Variables, batch: Mapping[str, Any]) -> dict[str, Array]:
            largest: dict[str, Array] = {}
            module = context.build(model_config)
            module.clone(dots=WatchingDots(inner=module.dots, largest=largest)).apply(variables, batch)
            return {path: value for path, value in largest.items() if path in types_of}

        largest: dict[str, Array] = {}
        for batch in context.batches(self.calibration_batches):
            for path, value in largest_inputs(variables, batch).items():
                largest[path] = jnp.maximum(largest[path], value) if path in largest else value
        # An input that was zero in all of them, behind units that never fire, has no scale: any but 0 will do.
        return {
            path: jnp.where(value > 0, backend.scale_of(value, types_of[path]), 1.0) for path, value in largest.items()
        }


def _is_bits(value: Any) -> bool:
    return type(value) in (int, str) and value in _TYPES


def _product_type(bits: Any) -> Type:
    """Returns the type in which a product of weights of so many bits runs: four bits are multiplied in bytes."""
    return "fp8" if bits == "fp8" else "int8"


def quantize(bits: Bits = 8, **options: Any) -> Quantize:
    """Returns the transform that trains with narrow products and freezes narrow weights; options as in Quantize."""
    return Quantize(bits=bits, **options)
