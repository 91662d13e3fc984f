"""A training step whose embedding tables lie on SparseCores: looked up there, updated there, everything else as ever.

The model is asked for its loss with the bags' combined vectors in the place of its tables; the gradient with respect to
those vectors goes back to the SparseCores, which update the rows. The tables are no parameters of the model then.

Shapes: B batch, D embedding dim.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from recjax.data.features import LabelledSchema
from recjax.errors import UserError
from recjax.models.contract import Batch
from recjax.nn.embedding import Embedding
from recjax.parallel.sparsecore import Inputs, SparseCoreTables, Variables, lookup, stack_tables, update
from recjax.transforms.paths import flatten, set_path

Params = Any


class SparseCoreState(NamedTuple):
    """Everything that a step changes; random keys are derived from `step`, so none is stored.

    Attributes:
      step: [] int32.
      params: of everything but the tables, in whose places are None.
      opt_state: of `params`.
      variables: tables and slots, as the SparseCores hold them.
    """

    step: Array
    params: Params
    opt_state: Any
    variables: Variables


def init_sparsecore_state(
    params: Params, tables: SparseCoreTables, optimizer: optax.GradientTransformation
) -> SparseCoreState:
    """Returns the state before the first step.

    Args:
      params: of the whole model, with one table a field, whose layer is named `table_{field}`.
      tables: the layout.
      optimizer: of the parameters that are no tables.

    Raises:
      UserError: the model's tables are not those of the schema, one a field.
    """
    by_field = {field: leaf for field, (_, leaf) in tables_by_field(params, tables.schema).items()}
    dense = without_tables(params, tables.schema)
    return SparseCoreState(jnp.zeros([], jnp.int32), dense, optimizer.init(dense), stack_tables(tables, by_field))


def tables_by_field(params: Params, schema: LabelledSchema) -> dict[str, tuple[str, Array]]:
    """Returns path and table of each field, as "fields/table_C1/table".

    Raises:
      UserError: the model's tables are not those of the schema, one a field.
    """
    names = {f"table_{field.name}": field.name for field in schema.fields}
    found, others = dict[str, tuple[str, Array]](), []
    for path, leaf in flatten(params).items():
        *_, layer, last = ("", *path.split("/"))
        if last != "table":
            continue
        field = names.get(layer)
        if field is None or field in found:
            others.append(path)
        else:
            found[field] = path, leaf
    missing = [name for name, field in names.items() if field not in found]
    if others or missing:
        raise UserError(
            f"SparseCores take models with one table a field and no other; this one has {', '.join(others) or 'none'} "
            f"beside them and lacks {', '.join(missing) or 'none'}; use dlrm or dlrm_dcnv2, or the sharded tables of "
            "recjax.parallel"
        )
    return found


def without_tables(params: Params, schema: LabelledSchema) -> Params:
    """Returns the parameters with None, which JAX takes for an empty tree, in the place of each table.

    Raises:
      UserError: the model's tables are not those of the schema, one a field.
    """
    for path, _ in tables_by_field(params, schema).values():
        params = set_path(params, path, None)
    return params


def make_sparsecore_train_step(
    module: Any, tables: SparseCoreTables, optimizer: optax.GradientTransformation, seed: int
) -> Callable[[SparseCoreState, Batch, Inputs], tuple[SparseCoreState, Array]]:
    """Returns `(state, batch, inputs) -> (state, loss)`, to be compiled by the caller with its state donated.

    Gradients are not clipped: what the tables' gradients add up to is known on the SparseCores alone.

    Args:
      module: a model of the labelled task whose tables `init_sparsecore_state` takes.
      tables: the layout, and the optimizer of the rows.
      optimizer: of the other parameters.
      seed: of the dropout.
    """

    def train_step(state: SparseCoreState, batch: Batch, inputs: Inputs) -> tuple[SparseCoreState, Array]:
        key = jax.random.fold_in(jax.random.key(seed, impl="unsafe_rbg"), state.step)
        bags = lookup(tables, state.variables, inputs)

        def loss_of(params: Params, bags: Mapping[str, Array]) -> Array:
            return loss_given_bags(module, tables, params, bags, {**batch, "step": state.step}, key)

        loss, (gradients, of_bags) = jax.value_and_grad(loss_of, argnums=(0, 1))(state.params, bags)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        variables = update(tables, state.variables, inputs, of_bags, state.step)
        return SparseCoreState(state.step + 1, optax.apply_updates(state.params, updates), opt_state, variables), loss

    return train_step


def loss_given_bags(
    module: Any,
    tables: SparseCoreTables,
    params: Params,
    bags: Mapping[str, Float[Array, "B D"]],
    batch: Batch,
    key: Array,
) -> Float[Array, ""]:
    """Returns the training loss of the batch with each field's combined rows given.

    Args:
      module: the model.
      tables: whose fields `bags` has.
      params: of everything but the tables, in whose places are None.
      bags: by field.
      batch: with `step`.
      key: of the dropout.
    """
    # A module wants its parameters. Nothing reads these, so that no compiled program holds them.
    sizes = {f"table_{field.name}": field.vocab_size for field in tables.schema.fields}
    for path, leaf in flatten(params, is_leaf=lambda leaf: leaf is None).items():
        if leaf is None:
            rows = sizes[path.split("/")[-2]]
            params = set_path(params, path, jnp.zeros((rows, tables.embedding_dim)))
    with _given_bags(bags):
        return module.apply({"params": params}, batch, train=True, method="loss", rngs={"dropout": key})


@contextlib.contextmanager
def _given_bags(bags: Mapping[str, Array]) -> Iterator[None]:
    """Within the block every `Embedding` named `table_{field}` gives the field's bags in the module's type."""

    def intercept(call: Callable, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if not isinstance(module, Embedding) or context.method_name != "__call__":
            return call(*args, **kwargs)
        return bags[module.path[-1].removeprefix("table_")].astype(module.dtype)

    with nn.intercept_methods(intercept):
        yield
