"""The products that a module makes in one forward pass, by layer: how many operations, in which types.

They are read from the traced program, so that they are those of the stored form, whatever it is. Each is attributed to
the layer that asked for it through `Dots`, or else to the module in which it stands.
"""

import contextlib
import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jaxtyping import Array
from numpy.typing import NDArray

from recjax.models.contract import Batch
from recjax.nn.dots import Dots, Kernel

Flops = Counter[tuple[str, str]]  # by path, as in "block_0/attention/scores" ("" is the model), and type of operands


@dataclasses.dataclass(frozen=True)
class ScopedDots(Dots):
    """The products of `inner`, each in a named scope that says its path."""

    inner: Dots

    @property
    def needs_key(self) -> bool:  # type: ignore[override]
        """Returns whether `inner` does."""
        return self.inner.needs_key

    def with_kernel(self, x: Array, kernel: Kernel, path: str, key: Array | None = None) -> Array:
        """Returns what `inner` does."""
        with _scope(path):
            return self.inner.with_kernel(x, kernel, path, key)

    def einsum(self, equation: str, lhs: Array, rhs: Array, path: str, key: Array | None = None) -> Array:
        """Returns what `inner` does."""
        with _scope(path):
            return self.inner.einsum(equation, lhs, rhs, path, key)


def count_products(module: Any, answer: Callable[[Any, Batch], Any], columns: Mapping[str, NDArray]) -> Flops:
    """Returns the operations of one sample's forward pass; a multiply-add counts two.

    Products that do not depend on the sample count whole, as they would be computed for it alone. The body of a loop
    of unknown length counts once.

    Args:
      module: with `dots`.
      answer: (module, batch) -> what the module answers; only traced.
      columns: requests, of which dtypes and trailing shapes are used.
    """
    scoped = module.clone(dots=ScopedDots(module.dots))

    def traced(batch_size: int) -> Flops:
        batch = {name: jax.ShapeDtypeStruct((batch_size, *c.shape[1:]), c.dtype) for name, c in columns.items()}
        with nn.intercept_methods(_in_scope_of_module):
            program = jax.make_jaxpr(functools.partial(answer, scoped))(batch)
        flops: Flops = Counter()
        _add_products(flops, program.jaxpr, "", 1)
        return flops

    # One vector is multiplied with integer rows by a sum, which is no product of a program: so two and three samples
    # are traced, and their difference is one.
    two, three = traced(2), traced(3)
    return Counter({key: 2 * two[key] - three[key] for key in three})


def _scope(path: str) -> contextlib.AbstractContextManager:
    return jax.named_scope(f"<{path}>")


def _in_scope_of_module(call: Callable, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    with _scope("/".join(context.module.path)):
        return call(*args, **kwargs)


def _add_products(flops: Flops, program: Jaxpr, outer: str, times: int) -> None:
    """Adds the products of a program that runs `times` times within the scope of the path `outer`."""
    for equation in program.eqns:
        scopes = re.findall("<([^<>]*)>", str(equation.source_info.name_stack))
        path = scopes[-1] if scopes else outer
        operands: list[Any] = [variable.aval for variable in equation.invars]
        name, n_outputs = equation.primitive.name, math.prod(getattr(equation.outvars[0].aval, "shape", ()))
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            n_terms = math.prod(operands[0].shape[axis] for axis in contracted)
            types = dict.fromkeys(str(operand.dtype) for operand in operands)
            flops[path, " x ".join(types)] += 2 * n_outputs * n_terms * times
        elif name == "bcsr_dot_general":
            data_N, _, row_ends, _ = operands
            columns = n_outputs // (row_ends.size - 1)
            flops[path, f"sparse {data_N.dtype}"] += 2 * data_N.size * columns * times
        elif name == "cond":
            branches: list[Flops] = [Counter() for _ in equation.params["branches"]]
            for of_branch, branch in zip(branches, equation.params["branches"], strict=True):
                _add_products(of_branch, _opened(branch), path, times)
            costliest: Flops = max(branches, key=lambda of_branch: of_branch.total())
            flops.update(costliest)
        else:
            for inner in _programs_in(equation.params):
                _add_products(flops, inner, path, times * equation.params.get("length", 1))


def _programs_in(params: Mapping[str, Any]) -> Iterator[Jaxpr]:
    return (_opened(value) for value in params.values() if isinstance(value, ClosedJaxpr | Jaxpr))


def _opened(program: ClosedJaxpr | Jaxpr) -> Jaxpr:
    return program.jaxpr if isinstance(program, ClosedJaxpr) else program
