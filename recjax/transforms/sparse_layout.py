"""Pruned kernels stored without their zeros, and multiplied so, where the device can.

Shapes: I inputs, O outputs, N values that are not zero.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray

from recjax.config import check, config
from recjax.errors import UserError
from recjax.transforms.layers import Layer, Selection, check_patterns
from recjax.transforms.paths import flatten, set_path
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

PRUNE_FIRST = "chain(prune(0.9, structure='element'), sparse_layout())"


@config
class SparseLayout(Transform):
    """Stores kernels with enough zeros as compressed rows of their transpose: values, columns and where rows begin.

    On a CPU a routine of XLA multiplies with them, in float32; other devices have none that pays. Whether it pays on a
    CPU is a matter of batch, width and zeros: on two cores of an AMD EPYC it did from 80% on, except at a batch of 1
    (`python -m benchmarks.sparse_crossover` measures it).
    """

    min_sparsity: float = 0.8  # share of zeros from which a kernel is stored so, (0, 1)
    include: tuple[str, ...] = (".*",)  # layers that may be stored so
    exclude: tuple[str, ...] = ()  # of those, layers that stay dense

    stage = Stage.FREEZE
    skips_zeros = True
    dot_dtype = "sparse float32"

    def __post_init__(self) -> None:
        check(0 < self.min_sparsity < 1, "sparse_layout min_sparsity", self.min_sparsity, "(0, 1)")
        check_patterns("sparse_layout", (*self.include, *self.exclude))

    @property
    def label(self) -> str:
        """Returns the share of zeros asked for."""
        return f"sparse_layout({self.min_sparsity:g})"

    def support(self, platform: str) -> Support:
        """Returns "native" for a CPU, "none" for every other device."""
        return "native" if platform.partition(":")[0] == "cpu" else "none"

    def objection(self, members: Sequence[Transform]) -> str | None:
        """Returns what is missing or in the way, None if the chain masks single weights and freezes nothing else."""
        if not any(member.stage == Stage.MASKS and not member.empties_units for member in members):
            return f"{self.label} stores what pruning of single weights left, and there is none; write {PRUNE_FIRST}"
        frozen = next((m for m in members if m.stage == Stage.FREEZE and not isinstance(m, SparseLayout)), None)
        if frozen is not None:
            return f"{self.label} and {frozen.label} both store kernels in their own final form; leave one of them out"
        return None

    def start(self, model_config: Any, params: Params, seed: int, counts: RowCounts) -> Params:
        """Returns the parameters; raises UserError if a pattern matches no layer, or the device has no routine."""
        del seed, counts
        if jax.default_backend() != "cpu":
            raise UserError(
                f"{self.label} has no routine on {jax.default_backend()!r}, where masked kernels stay dense; "
                "run with --device=cpu, or leave it out"
            )
        self._chosen(model_config, params)
        return params

    def finalize(
        self, model_config: Any, variables: Variables, context: Finalization
    ) -> tuple[Any, Variables, TransformReport]:
        """Returns the variables with sparse kernels; the report has every layer's share of zeros, and bytes."""
        del context
        params, layers, dense = variables["params"], {}, {}
        flat = flatten(params)
        for parameter, layer in self._chosen(model_config, params).items():
            kernel_IO = np.asarray(flat[parameter].astype(jnp.float32))
            zeros = round(float(np.mean(kernel_IO == 0)), 4)
            if zeros < self.min_sparsity:
                dense[layer.path] = zeros
                continue
            form = compressed(kernel_IO)
            params = set_path(params, parameter, form)
            layers[layer.path] = {
                "zeros": zeros,
                "bytes": [flat[parameter].nbytes, sum(part.nbytes for part in form.values())],
            }
        if not layers:
            most = max(dense, key=lambda path: dense[path])
            raise UserError(
                f"{self.label} found no kernel with that share of zeros: {most} has the most, {dense[most]:g}; lower "
                f"min_sparsity, or prune more, as in {PRUNE_FIRST}"
            )
        return model_config, {**variables, "params": params}, TransformReport({"layers": layers, "left_dense": dense})

    def _chosen(self, model_config: Any, params: Params) -> dict[str, Layer]:
        # Values are as they were, so that layers which give the answer need no protection.
        selection = Selection(include=self.include, exclude=self.exclude, logits=True, states=True)
        return selection.choose("sparse_layout", model_config, params)


def sparse_layout(**options: Any) -> SparseLayout:
    """Returns the transform that stores pruned kernels without their zeros; options as in SparseLayout."""
    return SparseLayout(**options)


def compressed(kernel_IO: NDArray) -> dict[str, Array]:
    """Returns `data` [N], `indices` [N] and `indptr` [O + 1] of the kernel's transpose, as multiply wants them.

    A kernel of zeros alone keeps one of them: no checkpoint holds an array without values.
    """
    kept_OI = kernel_IO.T != 0
    if not kept_OI.any():
        kept_OI[0, 0] = True
    rows, columns = np.nonzero(kept_OI)
    return {
        "data": jnp.asarray(kernel_IO.T[rows, columns]),
        "indices": jnp.asarray(columns, jnp.int32),
        "indptr": jnp.asarray(np.concatenate([[0], np.cumsum(kept_OI.sum(1))]), jnp.int32),
    }
