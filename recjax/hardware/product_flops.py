"""The operations of a traced program's matrix products per device, by the type of their operands.

XLA's count misses the trips of loops, which a TPU's compiler makes of products that wait for a gather, and there is
none for a GPU. Matrix products (`dot_general`) are most of what a recommender computes: no model here has a
convolution, and elementwise work costs bytes rather than operations.
"""

import collections
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var


def product_flops(traced: Any, n_devices: int) -> dict[str, float]:
    """Returns the operations of all matrix products for one of `n_devices` devices, as in {"float32": 2e9}.

    A multiply-add counts two. A product of arrays that the compiler splits is taken to be split evenly; one inside a
    `shard_map` counts with the shapes that a device has there. A loop of unknown length counts once, and of a choice
    the costliest branch. What nothing needs, as all of a loss but the ids that it looks up, is not counted: compilers
    leave it out.

    Args:
      traced: `jitted.trace(...)`.
      n_devices: of the mesh.
    """
    flops: dict[str, float] = collections.defaultdict(float)
    _add(flops, traced.jaxpr.jaxpr, 1 / n_devices)
    return dict(flops)


def _add(flops: dict[str, float], program: Jaxpr, share: float) -> None:
    """Adds the products of a program of which each device computes `share`."""
    for equation in _needed(program):
        name = equation.primitive.name
        avals: list[Any] = [variable.aval for variable in equation.invars]
        if name == "dot_general":
            left, right = avals
            outputs: Any = equation.outvars[0].aval
            (contracted, _), _ = equation.params["dimension_numbers"]
            terms = math.prod(left.shape[axis] for axis in contracted)
            dtype = str(jnp.promote_types(left.dtype, right.dtype))
            flops[dtype] += 2 * math.prod(outputs.shape) * terms * share
        elif name == "cond":
            branches: list[dict[str, float]] = [collections.defaultdict(float) for _ in equation.params["branches"]]
            for branch, inner in zip(branches, equation.params["branches"], strict=True):
                _add(branch, _opened(inner), share)
            for dtype, count in max(branches, key=lambda branch: sum(branch.values())).items():
                flops[dtype] += count
        else:
            inner_share = share * equation.params.get("length", 1) if name == "scan" else share
            if name == "shard_map":
                mesh: jax.sharding.Mesh = equation.params["mesh"]
                axes = equation.params.get("newly_manual_axes", equation.params.get("manual_axes", mesh.axis_names))
                inner_share = share * math.prod(mesh.shape[axis] for axis in axes)
            for inner in _programs_in(equation.params):
                _add(flops, inner, inner_share)


def _needed(program: Jaxpr) -> list[JaxprEqn]:
    """Returns the equations that the program's results or effects depend on."""
    wanted = {variable for variable in program.outvars if isinstance(variable, Var)}
    needed = []
    for equation in reversed(program.eqns):
        if equation.effects or not wanted.isdisjoint(equation.outvars):
            wanted.update(variable for variable in equation.invars if isinstance(variable, Var))
            needed.append(equation)
    return needed


def _programs_in(params: Mapping[str, Any]) -> Iterator[Jaxpr]:
    return (_opened(value) for value in params.values() if isinstance(value, ClosedJaxpr | Jaxpr))


def _opened(program: ClosedJaxpr | Jaxpr) -> Jaxpr:
    return program.jaxpr if isinstance(program, ClosedJaxpr) else program
