"""Where a training runs: on one device, on a mesh of devices (`pjit`), or in replicas (`pmap`).

Each answers the same questions, so that the loop of recjax.training.fit knows of none of them: how a step is compiled,
how its state and its batches get to the devices, and how the state is seen from outside: `whole`, the same for every
number of devices.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recjax.data.batches import NumpyBatch
from recjax.evaluation import ONE_DEVICE_EVALUATION, EvaluationDevices
from recjax.models.contract import Batch, precomputed
from recjax.replicas import AXIS, replica_key, replicas
from recjax.training.step import ONE_DEVICE, StepDevices, TrainState, TrainStep, many_devices_key
from recjax.training.table_store import WHOLE_TABLES, TableStore, WholeTables
from recjax.transforms.protocol import Params


@runtime_checkable
class TrainingDevices(Protocol):
    """What the training loop asks of the devices it runs on.

    Attributes:
      step: how a step is compiled.
      store: of embedding tables with row updates.
      evaluation: how a validation runs.
    """

    @property
    def step(self) -> StepDevices: ...  # noqa: D102

    @property
    def store(self) -> TableStore: ...  # noqa: D102

    @property
    def evaluation(self) -> EvaluationDevices: ...  # noqa: D102

    def first_state(self, init: Callable[[Params], TrainState], params: Params) -> TrainState:
        """Returns the state before the first step on the devices; a step may donate it."""
        ...

    def put_state(self, whole: TrainState) -> TrainState:
        """Returns a whole state on the devices; its arrays may be those of `whole`, and a step may donate them."""
        ...

    def whole_like(self, like: TrainState) -> TrainState:
        """Returns shapes and types of a whole state with how it lies on the devices."""
        ...

    def step_number(self, state: TrainState) -> int:
        """Returns how many steps the state has behind it."""
        ...

    def whole(self, state: TrainState) -> TrainState:
        """Returns the state with every array in its whole shape, as on one device; it may still lie on several."""
        ...

    def put_batch(self, batch: NumpyBatch) -> Batch:
        """Returns the batch on the devices, each with its part of the samples."""
        ...

    def put_whole(self, tree: Any) -> Any:
        """Returns arrays that every device needs whole, as graphs."""
        ...

    def best_params(self, state: TrainState) -> Params:
        """Returns a copy of the state's parameters in their whole shapes."""
        ...

    def here(self, params: Params) -> Params:
        """Returns `best_params` as arrays of this process."""
        ...

    def score(self, module: Any) -> tuple[Callable[[TrainState, Any], Any], Callable[[Any, Batch], jax.Array]]:
        """Returns (state, context) -> variables, compiled, and (variables, batch) -> the module's scores."""
        ...


def score_whole(module: Any) -> tuple[Callable[[Params, Any], Any], Callable[[Any, Batch], jax.Array]]:
    """Returns `score` of parameters that are whole."""

    def variables_of(params: Params, context: Any) -> Any:
        return {"params": params} | precomputed(module, {"params": params}, context)

    def score(variables: Any, batch: Batch) -> jax.Array:
        shared = {"precomputed": variables["precomputed"]} if "precomputed" in variables else {}
        return module.apply({"params": variables["params"]}, {**batch, **shared})

    # The graph is an argument: XLA would fold a constant one into the program, for seconds.
    return jax.jit(variables_of), score


@dataclasses.dataclass(frozen=True)
class OneDevice:
    """Training on JAX's default device."""

    step: StepDevices = ONE_DEVICE
    store: TableStore = WHOLE_TABLES
    evaluation: EvaluationDevices = ONE_DEVICE_EVALUATION

    def first_state(self, init: Callable[[Params], TrainState], params: Params) -> TrainState:
        """Returns the state before the first step."""
        return init(params)

    def put_state(self, whole: TrainState) -> TrainState:
        """Returns the state on JAX's default device."""
        return jax.device_put(whole)

    def whole_like(self, like: TrainState) -> TrainState:
        """Returns the shapes: JAX's default device has everything."""
        return like

    def step_number(self, state: TrainState) -> int:
        """Returns how many steps the state has behind it."""
        return int(state.step)

    def whole(self, state: TrainState) -> TrainState:
        """Returns the state."""
        return state

    def put_batch(self, batch: NumpyBatch) -> Batch:
        """Returns the batch on the device."""
        return jax.device_put(batch)

    def put_whole(self, tree: Any) -> Any:
        """Returns the arrays on the device."""
        return jax.device_put(tree)

    def best_params(self, state: TrainState) -> Params:
        """Returns a copy of the parameters."""
        return jax.tree.map(jnp.copy, state.params)

    def here(self, params: Params) -> Params:
        """Returns the parameters."""
        return params

    def score(self, module: Any) -> tuple[Callable[[TrainState, Any], Any], Callable[[Any, Batch], jax.Array]]:
        """Returns (state, context) -> variables, and (variables, batch) -> scores."""
        variables_of, score = score_whole(module)
        return lambda state, context: variables_of(state.params, context), score


@dataclasses.dataclass(frozen=True)
class Replicas:
    """Data parallelism by `pmap`: every device has the whole state, and its part of the batch.

    Attributes:
      devices: of all processes.
    """

    devices: tuple[jax.Device, ...]

    store = WholeTables(in_replicas=True)
    evaluation = ONE_DEVICE_EVALUATION  # by each process on its first device

    @property
    def step(self) -> StepDevices:
        """Returns steps in replicas, whose draws and losses are those of the whole batch."""
        return StepDevices(lambda seed, step: replica_key(many_devices_key(seed, step)), self._compile)

    def first_state(self, init: Callable[[Params], TrainState], params: Params) -> TrainState:
        """Returns the state before the first step, for each device."""
        return self.put_state(init(params))

    def put_state(self, whole: TrainState) -> TrainState:
        """Returns a copy of the state for each device, along a new first axis."""
        return self._copies(whole)

    def whole_like(self, like: TrainState) -> TrainState:
        """Returns shapes and types, and where there are several processes that each of them has everything."""
        if self._is_alone:
            return like
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._everywhere), like)

    def step_number(self, state: TrainState) -> int:
        """Returns how many steps the state has behind it."""
        return int(_first(state.step))

    def whole(self, state: TrainState) -> TrainState:
        """Returns the first device's copy; where there are several processes, as arrays of all of them."""
        return _first(state) if self._is_alone else jax.tree.map(self._of_all, _first(state))

    def put_batch(self, batch: NumpyBatch) -> Batch:
        """Returns the parts of this process's devices along a new first axis."""
        here = [number for number, device in enumerate(self.devices) if device in self._local]
        return {name: column.reshape(len(self.devices), -1, *column.shape[1:])[here] for name, column in batch.items()}

    def put_whole(self, tree: Any) -> Any:
        """Returns a copy of the arrays for each device."""
        return self._copies(tree)

    def best_params(self, state: TrainState) -> Params:
        """Returns a copy of the parameters."""
        first = _first(state.params)
        return first if self._is_alone else jax.tree.map(self._of_all, first)

    def here(self, params: Params) -> Params:
        """Returns the parameters on this process's first device."""
        return params if self._is_alone else jax.tree.map(lambda leaf: leaf.addressable_data(0), params)

    def score(self, module: Any) -> tuple[Callable[[TrainState, Any], Any], Callable[[Any, Batch], jax.Array]]:
        """Returns (state, context) -> variables on the first device, and (variables, batch) -> scores."""
        variables_of, score = score_whole(module)
        return lambda state, context: variables_of(_first(state.params), _first(context)), score

    @property
    def _is_alone(self) -> bool:
        return jax.process_count() == 1

    @property
    def _everywhere(self) -> NamedSharding:
        return NamedSharding(Mesh(np.array(self.devices), (AXIS,)), PartitionSpec())

    def _of_all(self, leaf: jax.Array) -> jax.Array:
        return jax.make_array_from_callback(leaf.shape, self._everywhere, lambda index: leaf[index])

    @property
    def _local(self) -> list[jax.Device]:
        return [device for device in self.devices if device.process_index == jax.process_index()]

    def _copies(self, tree: Any) -> Any:
        sharding = NamedSharding(Mesh(np.array(self._local), (AXIS,)), PartitionSpec(AXIS))
        n = len(self._local)

        def copies(leaf: Any) -> jax.Array:
            here = leaf if self._is_alone or not isinstance(leaf, jax.Array) else leaf.addressable_data(0)
            return jax.device_put(np.broadcast_to(here, (n, *np.shape(here))), sharding)

        return jax.tree.map(copies, tree)

    def _compile(self, step: TrainStep) -> TrainStep:
        def replica_step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
            with replicas():
                return step(state, batch)

        mapped = jax.pmap(replica_step, axis_name=AXIS, donate_argnums=0, devices=self.devices)

        @functools.wraps(step)
        def first_loss(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
            state, loss = mapped(state, batch)
            return state, _first(loss)  # the same in every replica

        return first_loss


def _first(tree: Any) -> Any:
    """Returns this process's first replica of each array."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0)[0], tree)
