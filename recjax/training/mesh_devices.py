"""Training on a mesh of devices (`pjit`): what is split how, and a training's state in that form and back.

Parameters are split by the model's rules, batches along "data". Embedding tables with row updates are packed into a
layout of their own (recjax.parallel.table_layout); from outside they are whole, and lie split by columns.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recjax.config import Parallel
from recjax.evaluation import EvaluationDevices
from recjax.models.contract import Batch
from recjax.parallel.mesh import make_mesh
from recjax.parallel.rules import Rules, like_parameters, parameter_specs, shardings
from recjax.parallel.table_exchange import TableExchange
from recjax.parallel.table_layout import TableLayout, pack, unpack, whole_spec
from recjax.parallel.table_plan import TablePlan
from recjax.training.devices import score_whole
from recjax.training.lookups import find_lookups, given_rows, split_tables, tables_used_whole
from recjax.training.sparse_step import SparseOptState
from recjax.training.step import StepDevices, TrainState, TrainStep, init_params, many_devices_key
from recjax.training.table_store import WHOLE_TABLES, ShardedParams, ShardedTables, TableStore
from recjax.transforms.paths import flatten, unflatten_like
from recjax.transforms.protocol import Params

WHOLE = PartitionSpec()


@dataclasses.dataclass(frozen=True)
class MeshDevices:
    """Training on a mesh.

    Attributes:
      mesh: with the axes "data" and "model".
      like: shapes and types of the whole state.
      whole_specs: how the whole state is split.
      plan: of the tables; None where they are parameters like all others.
    """

    mesh: Mesh
    like: TrainState
    whole_specs: TrainState
    plan: TablePlan | None

    @property
    def step(self) -> StepDevices:
        """Returns steps whose states stay split as they are."""
        return StepDevices(many_devices_key, self._compile)

    @functools.cached_property
    def store(self) -> TableStore:
        """Returns the store of the tables."""
        if self.plan is None:
            return WHOLE_TABLES
        return ShardedTables(TableExchange(self.plan.layout, self.plan.distinct_share), self.like.params)

    @property
    def layout(self) -> TableLayout:
        """Returns where the rows of packed tables lie."""
        assert self.plan is not None
        return self.plan.layout

    @property
    def evaluation(self) -> EvaluationDevices:
        """Returns evaluations whose batches are split along "data"."""
        compile_ = functools.partial(jax.jit, out_shardings=NamedSharding(self.mesh, WHOLE))
        return EvaluationDevices(self.put_batch, compile_, self.mesh.shape["data"])

    @functools.cached_property
    def state_like(self) -> TrainState:
        """Returns shapes, types and shardings of the state on the mesh."""
        return jax.tree.map(_with_sharding, jax.eval_shape(self._packed, self.like), self._state_shardings)

    def first_state(self, init: Callable[[Params], TrainState], params: Params) -> TrainState:
        """Returns the state before the first step, of which no device ever holds more than its part."""
        params = jax.tree.map(self._put_whole_as, params, self.whole_shardings.params)
        return jax.jit(lambda params: self._packed(init(params)), out_shardings=self._state_shardings)(params)

    def put_state(self, whole: TrainState) -> TrainState:
        """Returns the state on the mesh."""
        whole = jax.tree.map(self._put_whole_as, whole, self.whole_shardings)
        return whole if self.plan is None else jax.jit(self._packed, out_shardings=self._state_shardings)(whole)

    def whole_like(self, like: TrainState) -> TrainState:
        """Returns shapes, types and shardings of the whole state."""
        return jax.tree.map(_with_sharding, like, self.whole_shardings)

    def step_number(self, state: TrainState) -> int:
        """Returns how many steps the state has behind it."""
        return int(state.step)

    def whole(self, state: TrainState) -> TrainState:
        """Returns the state in whole shapes, split by `whole_specs`."""
        return state if self.plan is None else self._unpack(state)

    @functools.cached_property
    def whole_shardings(self) -> TrainState:
        """Returns how the whole state lies on the mesh."""
        return shardings(self.whole_specs, self.mesh)

    def put_batch(self, batch: Mapping[str, Any]) -> Batch:
        """Returns the batch split along "data"; each process makes arrays of its own devices' samples alone."""
        sharding = NamedSharding(self.mesh, PartitionSpec("data"))
        return {name: _from_host(column, sharding) for name, column in batch.items()}

    def put_whole(self, tree: Any) -> Any:
        """Returns arrays whole on every device."""
        return jax.tree.map(lambda leaf: self._put_whole_as(leaf, NamedSharding(self.mesh, WHOLE)), tree)

    def best_params(self, state: TrainState) -> Params:
        """Returns a copy of the parameters in whole shapes."""
        return self._copy_params(state.params)

    def here(self, params: Params) -> Params:
        """Returns the parameters as they lie; where there are several processes, whole on each one's first device."""
        if jax.process_count() == 1:
            return params
        everywhere = jax.jit(lambda leaf: leaf, out_shardings=NamedSharding(self.mesh, WHOLE))
        return jax.tree.map(lambda leaf: jax.block_until_ready(everywhere(leaf)).addressable_data(0), params)

    def score(self, module: Any) -> tuple[Callable[[TrainState, Any], Any], Callable[[Any, Batch], jax.Array]]:
        """Returns (state, context) -> variables, and (variables, batch) -> scores.

        Rows of packed tables are looked up where they lie; a table that the scores use whole, and all tables of a model
        that computes something for all requests, are unpacked.
        """
        variables_of, score = score_whole(module)
        if self.plan is None or hasattr(module, "precompute"):
            return lambda state, context: variables_of(self._copy_params(state.params), context), score
        store = self.store

        def score_rows(variables: Any, batch: Batch) -> jax.Array:
            stored, others, zeros = store.split(variables["params"])

            def answer(tables: Mapping[str, jax.Array]) -> jax.Array:
                return module.apply({"params": store.nested(variables["params"], {**others, **tables})}, batch)

            name = type(module).__name__
            if whole := tables_used_whole(answer, zeros, name):
                tables = unpack(self.layout, stored)
                zeros = {path: tables[path] if path in whole else zero for path, zero in zeros.items()}
            ids = find_lookups(answer, zeros, name, rows_only=False, bags=store.bags)
            with given_rows(store.read(stored, ids).rows, bags=store.bags):
                return answer(zeros)

        return lambda state, context: {"params": state.params}, score_rows

    def _compile(self, step: TrainStep) -> TrainStep:
        return jax.jit(step, donate_argnums=0, out_shardings=(self._state_shardings, NamedSharding(self.mesh, WHOLE)))

    def _packed(self, whole: TrainState) -> TrainState:
        if self.plan is None:
            return whole
        tables, others = split_tables(whole.params)
        names = next(iter(whole.opt_state.slots.values())).keys()
        slots = {
            name: pack(self.layout, {path: of_table[name] for path, of_table in whole.opt_state.slots.items()})
            for name in names
        }
        params = ShardedParams(pack(self.layout, tables), others)
        return whole._replace(params=params, opt_state=SparseOptState(whole.opt_state.dense, slots))

    @functools.cached_property
    def _unpack(self) -> Callable[[TrainState], TrainState]:
        def whole(state: TrainState) -> TrainState:
            by_slot = {name: unpack(self.layout, slot) for name, slot in state.opt_state.slots.items()}
            paths = self.like.opt_state.slots
            slots = {path: {name: by_slot[name][path] for name in by_slot} for path in paths}
            opt_state = SparseOptState(state.opt_state.dense, slots)
            return state._replace(params=self._whole_params(state.params), opt_state=opt_state)

        return jax.jit(whole, out_shardings=self.whole_shardings)

    @functools.cached_property
    def _copy_params(self) -> Callable[[Any], Params]:
        # Without the copies JAX would hand on the state's own arrays, which the next step overwrites.
        return jax.jit(
            lambda params: jax.tree.map(jnp.copy, self._whole_params(params)),
            out_shardings=self.whole_shardings.params,
        )

    def _whole_params(self, params: Any) -> Params:
        if self.plan is None:
            return params
        return unflatten_like(self.like.params, {**params.others, **unpack(self.layout, params.tables)})

    @functools.cached_property
    def _state_shardings(self) -> TrainState:
        if self.plan is None:
            return self.whole_shardings
        packed = jax.eval_shape(self._packed, self.like)
        specs = flatten(self.whole_shardings.params)
        params = ShardedParams(
            self.layout.shardings(packed.params.tables),  # type: ignore[arg-type]
            {path: specs[path] for path in packed.params.others},
        )
        slots = {name: self.layout.shardings(slot) for name, slot in packed.opt_state.slots.items()}
        whole = self.whole_shardings
        return whole._replace(params=params, opt_state=SparseOptState(whole.opt_state.dense, slots))

    def _put_whole_as(self, leaf: Any, sharding: NamedSharding) -> jax.Array:
        """Returns the array so split; what this process already has split is not brought to the host."""
        if isinstance(leaf, jax.Array) and (not leaf.is_fully_addressable or jax.process_count() == 1):
            return jax.device_put(leaf, sharding)
        return _from_host(np.asarray(leaf), sharding)


def whole_param_specs(
    params: Params, rules: Rules, parallel: Parallel, mesh: Mesh, model: str, *, row_updates: bool
) -> Any:
    """Returns how whole parameters are split; the arguments are those of `whole_state_specs`."""
    tables, others = split_tables(params) if row_updates else ({}, flatten(params))
    specs = parameter_specs(others, rules, mesh, model, fully_sharded=parallel.fully_sharded)
    return unflatten_like(params, specs | {path: whole_spec(mesh, table.shape) for path, table in tables.items()})


def drawn_on_mesh(
    module: Any,
    batch: Batch,
    seed: int,
    parallel: Parallel,
    *,
    row_updates: bool,
    check: Callable[[Params], None] = lambda shapes: None,
) -> Params:
    """Returns freshly drawn parameters of which each device of a mesh has drawn its part; no device ever has them all.

    Args:
      module: whose parameters they are.
      batch: gives the input shapes.
      seed: of the draw, whose values are those of recjax.training.step.init_params, to rounding.
      parallel: the mesh.
      row_updates: whether tables have an optimizer of their own.
      check: as in recjax.training.step.init_params.

    Raises:
      UserError: the mesh cannot be, or a parameter not be split on it.
    """
    mesh = make_mesh({"data": parallel.data, "model": parallel.model})
    shapes = jax.eval_shape(lambda: init_params(module, batch, seed))
    rules, name = module.config.sharding_rules(), type(module).__name__
    specs = whole_param_specs(shapes, rules, parallel, mesh, name, row_updates=row_updates)
    return init_params(module, batch, seed, shardings(specs, mesh), check)


def whole_state_specs(
    state: TrainState, rules: Rules, parallel: Parallel, mesh: Mesh, model: str, *, row_updates: bool
) -> TrainState:
    """Returns how a whole state is split: parameters by the rules, tables with row updates by columns.

    Args:
      state: shapes.
      rules: of the model.
      parallel: whether parameters are split along "data" too.
      mesh: of the devices.
      model: its name, for errors.
      row_updates: whether tables have an optimizer of their own.

    Raises:
      UserError: as recjax.parallel.rules.parameter_specs.
    """
    params = whole_param_specs(state.params, rules, parallel, mesh, model, row_updates=row_updates)
    others = split_tables(state.params)[1] if row_updates else flatten(state.params)
    by_path = flatten(params, is_leaf=lambda node: isinstance(node, PartitionSpec))
    specs, shapes = {path: by_path[path] for path in others}, {path: leaf.shape for path, leaf in others.items()}
    if not row_updates:
        opt_state = like_parameters(state.opt_state, specs, shapes)
    else:
        slots = jax.tree.map(lambda slot: whole_spec(mesh, slot.shape), state.opt_state.slots)
        opt_state = SparseOptState(like_parameters(state.opt_state.dense, specs, shapes), slots)
    return state._replace(
        step=WHOLE, params=params, opt_state=opt_state, loss_scale=jax.tree.map(lambda leaf: WHOLE, state.loss_scale)
    )


def _with_sharding(shape: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def _from_host(column: Any, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(np.shape(column), sharding, lambda index: column[index])
