"""Parameters by path, as in "top_mlp/dense_0/kernel"."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

FlatParams = dict[str, Any]  # arrays, or what `is_leaf` stops at
Params = Mapping[str, Any]


def flatten(params: Any, is_leaf: Callable[[Any], bool] | None = None) -> FlatParams:
    """Returns the parameters, or the leaves of another tree, by path, as in "top_mlp/dense_0/kernel"."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params, is_leaf=is_leaf)}


def unflatten_like(params: Any, flat: Mapping[str, Any]) -> Any:
    """Returns `flat` in the nesting of `params`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: flat[_name(path)], params)


def set_path(params: Params, path: str, value: Any) -> Params:
    """Returns the nested dicts with what is at `path` replaced by an array or by nested dicts."""
    key, _, rest = path.partition("/")
    return {**params, key: set_path(params[key], rest, value) if rest else value}


def kernel_of(path: str) -> str | None:
    """Returns the path of the product that the parameter is a kernel of; None for every other parameter.

    "top_mlp/dense_0/kernel" is "top_mlp/dense_0", a factor's "top_mlp/dense_0/kernel/down" is "top_mlp/dense_0/down",
    and a recurrent layer's "user_branch/state_kernel" is "user_branch/state".
    """
    layer, _, name = path.rpartition("/")
    if name == "kernel":
        return layer
    if name == "state_kernel":
        return f"{layer}/state"
    if name in ("down", "up"):
        whole = kernel_of(layer)
        return None if whole is None else f"{whole}/{name}"
    return None


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)
