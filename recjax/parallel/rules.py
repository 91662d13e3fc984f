"""Which parameter is split along which mesh axis: the model's own rules, and fully sharded data parallelism on top.

A rule is (regular expression, PartitionSpec). The first whose expression is found in a parameter's path counts.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recjax.errors import SplitError
from recjax.transforms.paths import flatten, unflatten_like

Rules = Sequence[tuple[str, PartitionSpec]]


def parameter_specs(
    params: Any, rules: Rules, mesh: Mesh, model: str, *, fully_sharded: bool
) -> dict[str, PartitionSpec]:
    """Returns how each parameter is split, by its path.

    No rule is asked of a form in the place of a kernel or of a table (recjax.nn.dots, recjax.nn.tables), which "model"
    does not split.

    Args:
      params: arrays, or their shapes.
      rules: of the model.
      mesh: whose axes the rules name.
      model: its name, for errors.
      fully_sharded: whether each parameter is split along "data" too, by the longest of its axes that divides evenly
        and is not split yet, or else by one that is; one without such an axis stays whole.

    Raises:
      SplitError: no rule covers a parameter, or an axis does not divide evenly.
    """
    specs = {}
    for path, leaf in flatten(params).items():
        spec = PartitionSpec() if _is_form(path) else _rule_for(path, rules, model)
        _check_divides(path, leaf.shape, spec, mesh, model)
        specs[path] = _split_along_data(leaf.shape, spec, mesh) if fully_sharded else spec
    return specs


def like_parameters(state: Any, specs: Mapping[str, PartitionSpec], shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """Returns how each array of an optimizer's state is split: as the parameter of its path, if it has its shape.

    Args:
      state: a tree in which what belongs to a parameter stands under that parameter's path, as in optax.
      specs: of the parameters, by path.
      shapes: of the parameters, by path.
    """

    def spec_of(path: str, leaf: Any) -> PartitionSpec:
        parts = path.split("/")
        owners = ("/".join(parts[start:]) for start in range(len(parts)))
        owner = next((name for name in owners if name in specs), None)
        return specs[owner] if owner is not None and shapes[owner] == leaf.shape else PartitionSpec()

    flat = {path: spec_of(path, leaf) for path, leaf in flatten(state).items()}
    return unflatten_like(state, flat)


def shardings(specs: Any, mesh: Mesh) -> Any:
    """Returns a NamedSharding for each PartitionSpec of a tree."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda node: isinstance(node, PartitionSpec)
    )


def _is_form(path: str) -> bool:
    """Returns whether the array is a part of a form: what is stored under the name of a kernel or of a table."""
    return any(name in ("kernel", "state_kernel", "table") for name in path.split("/")[:-1])


def _rule_for(path: str, rules: Rules, model: str) -> PartitionSpec:
    for pattern, spec in rules:
        if re.search(pattern, path):
            return spec
    known = ", ".join(repr(pattern) for pattern, _ in rules) or "none"
    raise SplitError(
        f"no sharding rule of {model} covers the parameter {path}; its rules: {known}; add one to "
        f"{model}Config.sharding_rules(), as in (r'{re.escape(path)}$', PartitionSpec())"
    )


def _check_divides(path: str, shape: tuple[int, ...], spec: PartitionSpec, mesh: Mesh, model: str) -> None:
    for size, axis in zip(shape, spec, strict=False):
        if axis is not None and size % mesh.shape[axis]:
            divisors = [n for n in range(1, mesh.shape[axis]) if size % n == 0]
            raise SplitError(
                f"{axis}={mesh.shape[axis]} does not divide {path} of {model}, whose shape is {list(shape)}: {size} "
                f"cannot be split evenly; allowed {axis} sizes below it: {', '.join(map(str, divisors))}"
            )


def _split_along_data(shape: tuple[int, ...], spec: PartitionSpec, mesh: Mesh) -> PartitionSpec:
    axes = [*spec, *[None] * (len(shape) - len(spec))]
    shares = [size // (mesh.shape[axis] if axis else 1) for size, axis in zip(shape, axes, strict=True)]
    # An axis that "model" splits over one device is as free as any; one that is split in earnest is the last choice.
    candidates = [i for i, share in enumerate(shares) if share > 0 and share % mesh.shape["data"] == 0]
    if candidates:
        best = max(candidates, key=lambda i: (shares[i] == shape[i], shape[i]))
        axes[best] = "data" if shares[best] == shape[best] else (axes[best], "data")
    return PartitionSpec(*axes)
