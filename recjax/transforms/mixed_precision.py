"""Products in 16 bits, layer by layer; parameters, sums outside of products and the optimizer stay float32.

`bf16()` (recjax.transforms.precision) is the coarse one: the whole model computes in bfloat16, tables too.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any, Literal

import jax
from jaxtyping import Array

from recjax.config import check, config
from recjax.errors import UserError
from recjax.nn.dots import Dots, Kernel
from recjax.transforms.layers import Selection, attention_products, check_matches, check_patterns, dense_layers
from recjax.transforms.paths import flatten, set_path
from recjax.transforms.protocol import (
    Finalization,
    LossScaling,
    Mode,
    Params,
    RowCounts,
    Stage,
    Transform,
    TransformReport,
    Variables,
)
from recjax.transforms.support import Support, dot_support

TYPES = ("float32", "bfloat16", "float16")
FIRST_SCALE = 2.0**15  # of a loss whose scale follows the gradients


@config
class MixedPrecision(Transform):
    """Casts the operands of products to a narrow type, and their result back; training keeps float32 master weights.

    Layers that give the answer stay float32 unless the policy names them. A pattern is a regular expression that must
    match the whole path of a layer, as in "top_mlp/dense_0", or of attention's products of two activations, as in
    "block_0/attention/scores"; the factors of a layer have its type.
    """

    dtype: Literal["bfloat16", "float16"] = "bfloat16"  # of products that the policy does not name
    policy: tuple[tuple[str, str], ...] = ()  # (pattern, "float32", "bfloat16" or "float16"); the first match counts
    # "auto" scales where a product is float16, by a number that follows the gradients; a number stays as it is, None
    # scales nothing.
    loss_scale: Any = "auto"

    stage = Stage.PRECISION
    trains = True

    def __post_init__(self) -> None:
        for pattern, dtype in self.policy:
            check(dtype in TYPES, f"mixed_precision type of {pattern!r}", dtype, ", ".join(map(repr, TYPES)))
        check_patterns("mixed_precision", (pattern for pattern, _ in self.policy))
        number = type(self.loss_scale) in (int, float) and 1 <= self.loss_scale < math.inf
        legal = number or self.loss_scale is None or self.loss_scale == "auto"
        check(legal, "mixed_precision loss_scale", self.loss_scale, "'auto', None, a number >= 1")

    @property
    def types(self) -> tuple[str, ...]:
        """Returns the 16-bit types that products run in."""
        return tuple(sorted({self.dtype, *(dtype for _, dtype in self.policy)} - {"float32"}))

    @property
    def dot_dtype(self) -> str:  # type: ignore[override]
        """Returns the type of products that the policy does not name."""
        return self.dtype

    @property
    def label(self) -> str:
        """Returns the type and what differs from the default."""
        notes = [
            self.dtype,
            "some layers" if self.policy else "",
            "" if self.loss_scale == "auto" else f"loss scale {self.loss_scale}",
        ]
        return f"mixed_precision({', '.join(note for note in notes if note)})"

    @property
    def loss_scaling(self) -> LossScaling | None:  # type: ignore[override]
        """Returns what the loss is multiplied by while gradients are taken, None for nothing."""
        if self.loss_scale == "auto":
            return LossScaling(FIRST_SCALE, dynamic=True) if "float16" in self.types else None
        return None if self.loss_scale is None else LossScaling(float(self.loss_scale), dynamic=False)

    def support(self, platform: str) -> Support:
        """Returns the weakest word of the types."""
        words = [dot_support(platform, dtype) for dtype in self.types]
        return next((word for word in ("none", "emulated") if word in words), "native")

    def objection(self, members: Sequence[Transform]) -> str | None:
        """Returns what rounds kernels a second time, None if nothing does."""
        frozen = next((member for member in members if member.stage == Stage.FREEZE), None)
        if frozen is None:
            return None
        return (
            f"{self.label} rounds the kernels that {frozen.label} stores in a form of its own; write "
            "chain(bf16(), ...) in its place, or leave one of them out"
        )

    def start(self, model_config: Any, params: Params, seed: int, counts: RowCounts) -> Params:
        """Returns the parameters; raises UserError if a pattern matches no layer, or no product gets narrow."""
        del seed, counts
        self._narrow(model_config, params)
        return params

    def intercept(self, module: Any, mode: Mode) -> Any:
        """Returns the module with its products in the policy's types."""
        del mode
        return module.clone(dots=PolicyDots(inner=module.dots, rule=self, logits=module.config.logit_layers()))

    def finalize(
        self, model_config: Any, variables: Variables, context: Finalization
    ) -> tuple[Any, Variables, TransformReport]:
        """Returns the variables with each kernel stored in the type of its product."""
        del context
        params = variables["params"]
        flat, stored = flatten(params), self._narrow(model_config, params)
        for parameter, dtype in stored.items():
            params = set_path(params, parameter, flat[parameter].astype(dtype))
        return model_config, {**variables, "params": params}, TransformReport({"kernels": stored})

    def type_at(self, path: str, n_outputs: int, logits: Sequence[str]) -> str:
        """Returns the type that the product of a layer runs in.

        Args:
          path: of the product.
          n_outputs: its width; a single output is an answer, whatever its name.
          logits: patterns of the layers that give the model's answer.
        """
        named = self._named(path)
        if named is not None:
            return named
        return self.dtype if Selection(states=True).takes(path, n_outputs, logits) else "float32"

    def type_of_product(self, path: str) -> str:
        """Returns the type that a product of two activations runs in."""
        return self._named(path) or self.dtype

    def _named(self, path: str) -> str | None:
        path = _whole(path)
        return next((dtype for pattern, dtype in self.policy if re.fullmatch(pattern, path)), None)

    def _narrow(self, model_config: Any, params: Params) -> dict[str, str]:
        """Returns the type of every kernel that is not float32, by parameter."""
        layers, logits = dense_layers(params), model_config.logit_layers()
        whole = {_whole(layer.path): layer for layer in layers.values()}
        named = (*whole, *attention_products(model_config))
        check_matches("mixed_precision", (pattern for pattern, _ in self.policy), named, model_config)
        types = {name: self.type_at(layer.path, layer.shape[1], logits) for name, layer in layers.items()}
        narrow = {name: dtype for name, dtype in types.items() if dtype != "float32"}
        if not narrow:
            raise UserError(
                f"{self.label} cannot be applied: it leaves every layer of {type(model_config).__name__} float32; a "
                f"policy with a 16-bit type can name one of: {', '.join(whole) or 'none'}"
            )
        return narrow


def mixed_precision(dtype: Literal["bfloat16", "float16"] = "bfloat16", **options: Any) -> MixedPrecision:
    """Returns the transform that computes products in 16 bits; options as in MixedPrecision."""
    return MixedPrecision(dtype=dtype, **options)


@dataclasses.dataclass(frozen=True)
class PolicyDots(Dots):
    """The products of `inner`, of operands in the types that a rule gives; results are as wide as the operands were."""

    inner: Dots
    rule: MixedPrecision
    logits: tuple[str, ...]

    @property
    def needs_key(self) -> bool:  # type: ignore[override]
        """Returns whether `inner` does."""
        return self.inner.needs_key

    def with_kernel(self, x: Array, kernel: Kernel, path: str, key: Array | None = None) -> Array:
        """Returns x times the kernel, computed in the layer's type."""
        if not isinstance(kernel, jax.Array):
            return self.inner.with_kernel(x, kernel, path, key)
        dtype = self.rule.type_at(path, kernel.shape[-1], self.logits)
        return self.inner.with_kernel(x.astype(dtype), kernel.astype(dtype), path, key).astype(x.dtype)

    def einsum(self, equation: str, lhs: Array, rhs: Array, path: str, key: Array | None = None) -> Array:
        """Returns the product of two activations, computed in the path's type."""
        dtype = self.rule.type_of_product(path)
        return self.inner.einsum(equation, lhs.astype(dtype), rhs.astype(dtype), path, key).astype(lhs.dtype)


def _whole(path: str) -> str:
    """Returns the path of the layer that a factor belongs to, or the path itself."""
    return re.sub(r"/(down|up)$", "", path)
