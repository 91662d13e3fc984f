"""Int8 dots: quantized training, then weights frozen as int8 with one float32 scale an output channel.

The backend is AQT (`aqtp`). Layers are given the AqtDotGeneral *class*: a shared instance would keep one
frozen tensor for all layers and serve wrong answers. The final logit layer of labelled models and NeuMF stays float.
"""

import functools
from typing import Any, Literal

import flax.traverse_util
import jax
import jax.numpy as jnp

from recjax.config import check, config
from recjax.errors import UserError
from recjax.transforms.instructions import INT8_DOTS, cpu_has
from recjax.transforms.paths import drop_paths, flatten, unflatten_like
from recjax.transforms.protocol import Finalization, Mode, Stage, Support, Transform, TransformReport, Variables


@config
class Quantize(Transform):
    """Int8 forward dots (and, if asked, int8 backward dots) of every layer that takes `dot_general_cls`."""

    bits: Literal[8] = 8  # of weights and activations
    backward_bits: Literal[8] | None = None  # of both backward dots; None keeps them float

    stage = Stage.FREEZE
    trains = True
    dot_dtype = "int8"

    def __post_init__(self) -> None:
        check(self.bits == 8, "quantize bits", self.bits, "8")
        check(self.backward_bits in (None, 8), "quantize backward_bits", self.backward_bits, "None, 8")

    @property
    def label(self) -> str:
        """Returns "int8", and whether the backward dots are too."""
        return "int8" if self.backward_bits is None else "int8 (8-bit backward)"

    def support(self, platform: str) -> Support:
        """Returns "emulated" on a CPU without int8 dot instructions; whether native dots pay is for the row to say."""
        return "emulated" if platform == "cpu" and not cpu_has(INT8_DOTS) else "native"

    def intercept(self, module: Any, mode: Mode) -> Any:
        """Returns the module with its dots quantized on the fly, being frozen, or read from frozen int8."""
        return module.clone(dot_general_cls=self._dot_general_cls(mode))

    def finalize(
        self, model_config: Any, variables: Variables, context: Finalization
    ) -> tuple[Any, Variables, TransformReport]:
        """Returns the variables with every quantized kernel moved to `int8`: int8 values and float scales by layer."""
        from aqt.jax.v2.aqt_tensor import QTensor

        module = self.intercept(context.build(model_config), Mode.CONVERT)
        _, collections = jax.jit(functools.partial(module.apply, mutable=["aqt"]))(variables, context.batch)
        int8: dict[str, jax.Array] = {}
        if "aqt" not in collections:
            raise UserError(f"int8 cannot be applied: {type(model_config).__name__} has no quantizable dense layer")
        tensors: dict[str, Any] = flatten(collections["aqt"], is_leaf=lambda x: isinstance(x, QTensor))
        for path, tensor in tensors.items():
            layer = path.split("/AqtDotGeneral_")[0]
            int8[f"{layer}/values"], int8[f"{layer}/scale"] = tensor.qvalue, tensor.scale[0]
        kernels = sorted({path.rpartition("/")[0] + "/kernel" for path in int8})
        stored = {
            "params": drop_paths(variables["params"], kernels),
            "int8": flax.traverse_util.unflatten_dict(int8, sep="/"),
        }
        return model_config, stored, TransformReport({"int8_kernels": kernels})

    def _dot_general_cls(self, mode: Mode) -> Any:
        from aqt.jax.v2 import config as aqt_config
        from aqt.jax.v2.flax.aqt_flax import AqtDotGeneral, FreezerMode, QuantMode

        backward = self.backward_bits
        quant_modes = {
            Mode.TRAIN: QuantMode.TRAIN,
            Mode.EVALUATE: QuantMode.TRAIN,
            Mode.CONVERT: QuantMode.CONVERT,
            Mode.SERVE: QuantMode.SERVE,
        }
        return functools.partial(
            AqtDotGeneral,
            aqt_config.config_v4(fwd_bits=self.bits, dlhs_bits=backward, drhs_bits=backward),
            rhs_quant_mode=quant_modes[mode],
            rhs_freeze_mode=FreezerMode.CALIBRATION_AND_VALUE,
            use_legacy_freezer=False,
            # Rounding is stochastic only in backward dots, and only those ask for a random key.
            prng_name="dropout" if backward and mode == Mode.TRAIN else None,
        )


def quantize(*, bits: Literal[8] = 8, backward_bits: Literal[8] | None = None) -> Quantize:
    """Returns the transform that trains with int8 dots and freezes int8 weights for serving."""
    return Quantize(bits=bits, backward_bits=backward_bits)


def thaw(variables: Variables, shapes: Any) -> Variables:
    """Returns the variables that a module in SERVE mode reads; call it inside jit, where it costs nothing.

    AQT reads its own frozen tensors, but Flax's Dense still asks for a float kernel of the right shape:
    the zeros made here are dead code in the compiled program and are never stored.

    Args:
      variables: as `Quantize.finalize` returns them.
      shapes: the float model's abstract parameters.
    """
    flat_shapes, flat = flatten(shapes), flatten(variables["params"])
    frozen: dict[str, Any] = {}
    for path, values in flatten(variables["int8"]).items():
        layer, _, part = path.rpartition("/")
        frozen.setdefault(layer, {})[part] = values
        flat[f"{layer}/kernel"] = jnp.zeros(flat_shapes[f"{layer}/kernel"].shape)
    aqt = {f"{layer}/AqtDotGeneral_0/qrhs/frozen": _qtensor(**parts) for layer, parts in frozen.items()}
    return {"params": unflatten_like(shapes, flat), "aqt": flax.traverse_util.unflatten_dict(aqt, sep="/")}


def _qtensor(values: jax.Array, scale: jax.Array) -> Any:
    from aqt.jax.v2.aqt_tensor import QTensor

    return QTensor(
        qvalue=values,
        scale=[scale],
        scale_t=None,
        bias=[],
        sparsity_mask=None,
        tiling_state=None,
        dequant_dtype=scale.dtype,
    )
