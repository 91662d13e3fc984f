"""Embedding rows as inputs of a loss: which ids it looks up, and its value when it is given their rows.

A loss that is given its rows has no table in it, so nothing of a table's size can appear in its gradient.
"""

import contextlib
import inspect
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.extend
import jax.numpy as jnp
from flax.core.tracers import current_trace

from recjax.data.batches import PADDING_ID
from recjax.errors import UserError
from recjax.nn.embedding import Embedding
from recjax.transforms.paths import FlatParams, flatten
from recjax.transforms.protocol import Params

Tables = Mapping[str, jax.Array]  # [V, D] by the parameter's path, as in "table_user/table"
Lookups = dict[str, list[jax.Array]]  # by table, in the order of the calls: ids [...] or rows [..., D]

REMEDY = "set training.table_optimizer=dense"


def split_tables(params: Params) -> tuple[FlatParams, FlatParams]:
    """Returns the tables (parameters that an `Embedding` made) and all other parameters, both by path."""
    flat = flatten(params)
    tables = {path: flat.pop(path) for path in list(flat) if f"/{path}".endswith("/table")}
    return tables, flat


def find_lookups(
    loss: Callable[[Tables], jax.Array], tables: Tables, model: str, *, rows_only: bool = True, bags: bool = False
) -> Lookups:
    """Returns the ids of every `Embedding.rows` that the loss calls, bags included; call it under jit.

    The loss is traced once, on shapes. What it computes beside ids is dead code, which XLA removes.

    Args:
      loss: of the tables; those that it reads in another form than an array are left to it.
      tables: by path.
      model: its name, for errors.
      rows_only: whether the loss must use tables by their rows alone.
      bags: whether a bag of ids [B, L] is one lookup, in the place of one for each of its positions.

    Raises:
      UserError: the loss also uses a table in another way (as in a softmax over all of its rows), so that its
        gradient is dense, and must not; or it looks rows up inside a scan, map, jit or checkpoint of its own.
    """
    paths, traced, whole = _trace_lookups(loss, tables, model, bags)
    if whole and rows_only:
        raise UserError(
            f"{model} uses the whole of {', '.join(whole)} in its loss, so the gradient is dense and row updates "
            f"would be wrong; {REMEDY}"
        )
    values = jax.extend.core.jaxpr_as_fun(traced)(*jax.tree.leaves(tables))
    lookups: Lookups = {}
    for path, ids in zip(paths, values, strict=True):
        lookups.setdefault(path, []).append(ids)
    return lookups


def tables_used_whole(answer: Callable[[Tables], Any], tables: Tables, model: str) -> list[str]:
    """Returns the paths of the tables that `answer` uses otherwise than by their rows, as in scores of a catalogue."""
    return _trace_lookups(answer, tables, model, bags=True)[2]


def _trace_lookups(
    loss: Callable[[Tables], Any], tables: Tables, model: str, bags: bool
) -> tuple[list[str], Any, list[str]]:
    """Returns the table of each lookup, the program that gives their ids, and the tables that are used whole."""
    paths: list[str] = []

    def ids_of(tables: Tables) -> list[jax.Array]:
        paths.clear()
        found = []
        trace = current_trace()

        def note(path: str, module: Embedding, ids: jax.Array) -> jax.Array:
            if current_trace() != trace:  # these ids will be gone when the loss has been traced
                raise UserError(
                    f"{model} looks up rows of {path} inside a scan, map, jit or checkpoint, where row updates "
                    f"cannot follow; {REMEDY}"
                )
            paths.append(path)
            found.append(ids)
            return jnp.zeros((*ids.shape, module.embedding_dim), module.dtype)

        with _rows_answered_by(note, tables, bags):
            loss(tables)
        return found

    traced = jax.make_jaxpr(ids_of)(tables)
    used = {id(variable) for equation in traced.jaxpr.eqns for variable in equation.invars}
    whole = [path for path, variable in zip(sorted(tables), traced.jaxpr.invars, strict=True) if id(variable) in used]
    return paths, traced, whole


@contextlib.contextmanager
def given_rows(rows: Mapping[str, Sequence[jax.Array]], *, bags: bool = False) -> Iterator[None]:
    """Within the block every lookup gives the next of its table's `rows` in the module's type, `bags` as when found."""
    remaining = {path: iter(of_table) for path, of_table in rows.items()}

    def give(path: str, module: Embedding, ids: jax.Array) -> jax.Array:
        del ids
        return next(remaining[path]).astype(module.dtype)

    with _rows_answered_by(give, rows, bags):
        yield


@contextlib.contextmanager
def _rows_answered_by(
    answer: Callable[[str, Embedding, jax.Array], jax.Array], paths: Container[str], bags: bool
) -> Iterator[None]:
    """Within the block `answer(path of the table, module, ids)` stands for every `Embedding.rows` of `paths`.

    With `bags`, for the rows of every bag as well, all at once. Tables that are stored in another form than an array
    are not among them: they are trained as dense parameters.
    """

    def intercept(call: Callable, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        path = "/".join((*module.path, "table"))
        if not isinstance(module, Embedding) or path not in paths:
            return call(*args, **kwargs)
        if context.method_name == "rows":
            return answer(path, module, _argument(Embedding.rows, "ids", module, args, kwargs))
        if bags and context.method_name == "__call__":
            ids_BL = _argument(Embedding.__call__, "ids_BL", module, args, kwargs)
            used_BL = ids_BL != PADDING_ID
            return module.pool(answer(path, module, jnp.where(used_BL, ids_BL, 0)), used_BL)
        return call(*args, **kwargs)

    with nn.intercept_methods(intercept):
        yield


def _argument(method: Callable, name: str, module: Embedding, args: Any, kwargs: Any) -> jax.Array:
    return inspect.signature(method).bind(module, *args, **kwargs).arguments[name]
