"""bfloat16 computation and storage."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from recjax.config import config
from recjax.errors import UserError
from recjax.transforms.protocol import Finalization, Stage, Transform, TransformReport, Variables
from recjax.transforms.support import Support, dot_support


@config
class BF16(Transform):
    """Computes in bfloat16 and stores bfloat16 parameters; sums of dots, softmax and logits stay float32."""

    stage = Stage.PRECISION
    dot_dtype = "bfloat16"

    @property
    def label(self) -> str:
        """Returns "bf16"."""
        return "bf16"

    def rewrite(self, model_config: Any) -> Any:
        """Returns the config with bfloat16 as its computation type; raises UserError if the model has no choice."""
        if not hasattr(model_config, "dtype"):
            raise UserError(f"bf16 cannot be applied: {type(model_config).__name__} has no dtype")
        return dataclasses.replace(model_config, dtype="bfloat16")

    def support(self, platform: str) -> Support:
        """Returns "emulated" where there are no bfloat16 dot instructions: values are converted to float32 and back."""
        return dot_support(platform, "bfloat16")

    def finalize(
        self, model_config: Any, variables: Variables, context: Finalization
    ) -> tuple[Any, Variables, TransformReport]:
        """Returns float32 parameters rounded to bfloat16."""
        del context
        rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, variables)
        return model_config, rounded, TransformReport({"stored_dtype": "bfloat16"})


def bf16() -> BF16:
    """Returns the transform that computes and stores in bfloat16."""
    return BF16()
