"""How a training step reads rows of embedding tables and updates them: on one device, in replicas, or sharded.

A store keeps tables and slots in a form of its own; a step sees the rows of a batch's lookups and gives their gradients
back. Every method is to be called under jit.

Shapes: T ids of a batch, D embedding dim, V vocabulary.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from recjax.parallel.exchange import Route
from recjax.parallel.table_exchange import OverColumns, TableExchange
from recjax.parallel.table_layout import Packed
from recjax.replicas import AXIS
from recjax.training.lookups import Lookups, Tables, split_tables
from recjax.training.row_updates import RowGradient, RowUpdate, Slots, combine_duplicates, update_rows
from recjax.transforms.paths import FlatParams, flatten, unflatten_like
from recjax.transforms.protocol import Params


class RowStep(NamedTuple):
    """One step of tables.

    Attributes:
      rule: what a row's gradient does to it.
      number: of the training step, from 0.
      rate: learning rate.
      scale: what gradients are multiplied by once those of equal ids are added up.
    """

    rule: RowUpdate
    number: Array
    rate: Any
    scale: Any


class Rows(NamedTuple):
    """Rows by the table's path in the order of its lookups, and what their gradients need on the way back."""

    rows: Lookups
    kept: Any = None


@runtime_checkable
class TableStore(Protocol):
    """What a training step does with tables.

    Attributes:
      bags: whether it takes a bag of ids for one lookup.
    """

    bags: bool

    def split(self, params: Any) -> tuple[Any, FlatParams, Tables]:
        """Returns the tables as stored, all other parameters by path, and tables [V, D] to trace a loss with."""
        ...

    def join(self, params: Any, tables: Any, others: FlatParams) -> Any:
        """Returns parameters in the form of `params`, with other values."""
        ...

    def nested(self, params: Any, flat: FlatParams) -> Params:
        """Returns all parameters, given by path, as the module takes them."""
        ...

    def read(self, tables: Any, ids: Lookups) -> Rows:
        """Returns the row of every id."""
        ...

    def squared_norm(self, tables: Any, ids: Lookups, kept: Any, grads: Lookups) -> Array:
        """Returns the sum of squares of the tables' gradients, those of equal ids added up."""
        ...

    def update(
        self, tables: Any, slots: Any, ids: Lookups, kept: Any, grads: Lookups, step: RowStep
    ) -> tuple[Any, Any]:
        """Returns tables and slots after one step; in place where both are donated."""
        ...


@dataclasses.dataclass(frozen=True)
class WholeTables:
    """Tables [V, D] among the parameters, and slots by the table's path.

    Attributes:
      in_replicas: whether every replica of a `pmap` has them, and gradients of its part of the batch.
    """

    in_replicas: bool = False

    bags = False  # position after position, which is faster on a CPU (recjax.nn.embedding)

    def split(self, params: Params) -> tuple[Tables, FlatParams, Tables]:
        """Returns the tables, all other parameters, and the tables again."""
        tables, others = split_tables(params)
        return tables, others, tables

    def join(self, params: Params, tables: Tables, others: FlatParams) -> Params:
        """Returns the parameters nested."""
        return unflatten_like(params, {**tables, **others})

    def nested(self, params: Params, flat: FlatParams) -> Params:
        """Returns the parameters nested."""
        return unflatten_like(params, flat)

    def read(self, tables: Tables, ids: Lookups) -> Rows:
        """Returns the row of every id."""
        return Rows({path: [tables[path].at[i].get(mode="promise_in_bounds") for i in ids[path]] for path in ids})

    def squared_norm(self, tables: Tables, ids: Lookups, kept: None, grads: Lookups) -> Array:
        """Returns the sum of squares of the tables' gradients, those of equal ids added up."""
        del kept
        squares = (jnp.sum(jnp.square(self._combined(tables, ids, grads, path).rows)) for path in ids)
        return sum(squares, start=jnp.zeros(()))

    def update(
        self, tables: Tables, slots: Mapping[str, Slots], ids: Lookups, kept: None, grads: Lookups, step: RowStep
    ) -> tuple[Tables, dict[str, Slots]]:
        """Returns tables and slots after one step; in place where both are donated."""
        del kept
        new_tables, new_slots = dict(tables), dict(slots)
        for path in ids:
            gradient = self._combined(tables, ids, grads, path)
            gradient = gradient._replace(rows=gradient.rows * step.scale)
            new_tables[path], new_slots[path] = update_rows(
                step.rule, tables[path], slots[path], gradient, step.number, step.rate
            )
        return new_tables, new_slots

    def _combined(self, tables: Tables, ids: Lookups, grads: Lookups, path: str) -> RowGradient:
        of_ids, of_grads = ids[path], grads[path]
        if self.in_replicas:  # whose losses are the same: the gradient of one is that of their sum over their number
            of_ids = [jax.lax.all_gather(one, AXIS, tiled=True) for one in of_ids]
            of_grads = [jax.lax.all_gather(one, AXIS, tiled=True) / jax.lax.axis_size(AXIS) for one in of_grads]
        return combine_duplicates(of_ids, of_grads, len(tables[path]), in_order=jax.default_backend() != "cpu")


WHOLE_TABLES = WholeTables()


class ShardedParams(NamedTuple):
    """Parameters on many devices: packed tables (recjax.parallel.table_layout), and all others by path."""

    tables: Packed
    others: FlatParams


@dataclasses.dataclass(frozen=True)
class ShardedTables:
    """Tables packed for many devices, and packed slots by the slot's name.

    Attributes:
      exchange: lookups and updates under the tables' layout.
      like: the shapes of all parameters as the module takes them.
    """

    exchange: TableExchange
    like: Params

    bags = True  # a program of hundreds of lookups would be minutes in the compiler

    def split(self, params: ShardedParams) -> tuple[Packed, FlatParams, Tables]:
        """Returns packed tables, all other parameters, and zeros in the place of tables, which no program keeps."""
        shapes = flatten(self.like)
        zeros = {path: jnp.zeros(shapes[path].shape, shapes[path].dtype) for path in self.exchange.layout.places}
        return params.tables, params.others, zeros

    def join(self, params: ShardedParams, tables: Packed, others: FlatParams) -> ShardedParams:
        """Returns the parameters as they are sharded."""
        del params
        return ShardedParams(tables, others)

    def nested(self, params: ShardedParams, flat: FlatParams) -> Params:
        """Returns the parameters nested."""
        del params
        return unflatten_like(self.like, flat)

    def read(self, tables: Packed, ids: Lookups) -> Rows:
        """Returns the row of every id."""
        found = self.exchange.look_up(tables, ids)
        return Rows(found.rows, found.routes)

    def squared_norm(self, tables: Packed, ids: Lookups, kept: Mapping[str, Route], grads: Lookups) -> Array:
        """Returns the sum of squares of the tables' gradients, those of equal ids added up."""

        def combine(ids_T: Array, grads_TD: Array, vocab_size: int) -> Array:
            gradient = combine_duplicates([ids_T], [grads_TD], vocab_size + 1, in_order=True)  # V is nobody's id
            return jnp.where((gradient.ids < vocab_size)[:, None], gradient.rows, 0.0)

        return self.exchange.squared_norm(tables, ids, kept, grads, combine)

    def update(
        self,
        tables: Packed,
        slots: Mapping[str, Packed],
        ids: Lookups,
        kept: Mapping[str, Route],
        grads: Lookups,
        step: RowStep,
    ) -> tuple[Packed, dict[str, Packed]]:
        """Returns tables and slots after one step; in place where both are donated."""

        def update_part(
            table_VD: Array, slots: Slots, ids_T: Array, grads_TD: Array, over_columns: OverColumns
        ) -> tuple[Array, Slots]:
            vocab_size = len(table_VD) + 1  # V itself is nobody's id
            gradient = combine_duplicates([ids_T], [grads_TD], vocab_size, over_columns, in_order=True)
            gradient = gradient._replace(rows=gradient.rows * step.scale)
            return update_rows(step.rule, table_VD, slots, gradient, step.number, step.rate, over_columns)

        return self.exchange.update(tables, slots, ids, kept, grads, update_part)
