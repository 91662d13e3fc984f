"""Parameters by path, as in "top_mlp/dense_0/kernel"."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

FlatParams = dict[str, Any]  # arrays, or what `is_leaf` stops at
Params = Mapping[str, Any]


def flatten(params: Params, is_leaf: Callable[[Any], bool] | None = None) -> FlatParams:
    """Returns the parameters by path, as in "top_mlp/dense_0/kernel"."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params, is_leaf=is_leaf)}


def unflatten_like(params: Params, flat: Mapping[str, Any]) -> Params:
    """Returns `flat` in the nesting of `params`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: flat[_name(path)], params)


def drop_paths(params: Any, paths: list[str]) -> Any:
    """Returns the nested dict without the leaves at `paths`."""

    def drop(node: Any, prefix: str) -> Any:
        if not isinstance(node, dict):
            return node
        return {k: drop(v, f"{prefix}{k}/") for k, v in node.items() if f"{prefix}{k}" not in paths}

    return drop(params, "")


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)
