"""What a training begins with: its optimizers, its devices, the state on them and the step."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from numpy.typing import NDArray

from recjax.config import Parallel, Training
from recjax.errors import UserError
from recjax.evaluation import Data
from recjax.models.contract import Batch
from recjax.parallel.mesh import check_batch, make_mesh
from recjax.parallel.table_plan import TablePlan, TableUse, plan_tables
from recjax.training.devices import OneDevice, Replicas, TrainingDevices
from recjax.training.distillation import Teacher
from recjax.training.lookups import find_lookups, split_tables
from recjax.training.memory import validation_bytes
from recjax.training.memory_check import check_training
from recjax.training.mesh_devices import MeshDevices, whole_state_specs
from recjax.training.optimizer import TableOptimizer, make_optimizer, make_table_optimizer
from recjax.training.sparse_step import init_sparse_state, make_sparse_train_step
from recjax.training.step import TrainState, TrainStep, init_params, init_state, is_solved, make_train_step
from recjax.transforms.paths import unflatten_like
from recjax.transforms.protocol import Mode, Params, Transform

RowCounts = Callable[[], Mapping[str, NDArray[np.int32]]]  # as recjax.training.row_counts gives them
SINGLE = Parallel()
SAMPLED_BATCHES = 2  # on each of many devices a part of them, so that few batches are many samples


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """A training step for its devices, before there is a state.

    Attributes:
      devices: that it runs on.
      init: parameters -> the whole state before the first step.
      step: compiled when it is called first, or lowered with the shapes that `devices` has of state and batches.
      whole_like: shapes and types of the whole state.
      plan: of the embedding tables; None where they are not split.
    """

    devices: TrainingDevices
    init: Callable[[Params], TrainState]
    step: TrainStep
    whole_like: TrainState
    plan: TablePlan | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstStep:
    """A training before its first step, and what every batch holds beside its own."""

    planned: PlannedStep
    beside: dict[str, Any]

    @property
    def devices(self) -> TrainingDevices:
        """Returns what the training runs on."""
        return self.planned.devices

    def take(self, state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        """Returns the state after a step on a batch from `devices.put_batch`, and the loss; donates the state."""
        return self.planned.step(state, {**batch, **self.beside})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToTrain:
    """What is trained, on what and how; the fields are those arguments of recjax.training.fit.fit."""

    model_config: Any
    params: Params
    data: Data
    training: Training
    transform: Transform
    teacher: Teacher | None = None
    parallel: Parallel = SINGLE
    counts: RowCounts | None = None


def first_step(
    to_train: ToTrain,
    *,
    saves: bool = False,
    donates_params: bool = False,
    resume: Callable[[TrainState], TrainState | None] = lambda like: None,
) -> tuple[FirstStep, TrainState]:
    """Returns what `fit` begins with, and the state, which the first step donates.

    Args:
      to_train: what, on what and how.
      saves: whether checkpoints are written.
      donates_params: whether the parameters are deleted as soon as the state has copies of them.
      resume: shapes of the whole state -> such a state to go on from, which is used up, or None.

    Raises:
      UserError: as `plan_step`, or the training does not fit into memory.
    """
    planned, beside = plan_that_fits(to_train, saves=saves)
    devices, params = planned.devices, to_train.params
    saved = resume(devices.whole_like(planned.whole_like))
    state = devices.put_state(saved) if saved is not None else devices.first_state(planned.init, params)
    if donates_params:
        for leaf in jax.tree.leaves(params):
            leaf.delete()
    return FirstStep(planned=planned, beside=devices.put_whole(beside)), state


def plan_that_fits(
    to_train: ToTrain, *, saves: bool = False, keeps_drawn: bool = False
) -> tuple[PlannedStep, dict[str, Any]]:
    """Returns the step of a training and what every batch holds beside its own, if the training fits into memory.

    Args:
      to_train: what, on what and how; its parameters may be shapes.
      saves: whether checkpoints are written.
      keeps_drawn: as in recjax.training.memory.training_needs.

    Raises:
      UserError: as `first_step`.
    """
    data, training, teacher = to_train.data, to_train.training, to_train.teacher
    context = {"context": dict(data.context)} if data.context else {}
    beside = context | ({"teacher": teacher.params} if teacher else {})
    batch = next(iter(data.train_batches(training.batch_size, training.seed, 1)))
    plan = functools.partial(
        plan_step,
        model_config=to_train.model_config,
        params=to_train.params,
        schema=data.schema,
        batch={**batch, **beside},
        training=training,
        transform=to_train.transform,
        total_steps=total_steps(data, training),
        teacher=teacher,
        parallel=to_train.parallel,
        counts=to_train.counts,
        sample=functools.cache(lambda: sampled_batches(data, training, beside)),
    )

    def shapes_of(model_config: Any) -> Params:
        return jax.eval_shape(lambda: init_params(model_config.build(data.schema), {**batch, **context}, seed=0))

    planned = plan()
    check_training(
        plan,
        planned,
        shapes_of,
        keeps_drawn=keeps_drawn,
        scores_bytes=validation_bytes(data),
        saves=saves,
    )
    return planned, beside


def sampled_batches(data: Data, training: Training, beside: Mapping[str, Any]) -> list[Batch]:
    """Returns the first batches of a training with what stands beside them, for the plan of its tables."""
    batches = data.train_batches(training.batch_size, training.seed, 1)
    return [{**batch, **beside} for batch in itertools.islice(batches, SAMPLED_BATCHES)]


def total_steps(data: Data, training: Training) -> int:
    """Returns the planned steps of a training; early stopping may end it sooner."""
    return math.ceil(data.n_train / training.batch_size) * training.epochs


def plan_step(
    model_config: Any,
    params: Params,
    schema: Any,
    batch: Batch,
    training: Training,
    transform: Transform,
    *,
    total_steps: int,
    teacher: Teacher | None = None,
    parallel: Parallel = SINGLE,
    counts: RowCounts | None = None,
    jax_devices: Sequence[jax.Device] | None = None,
    free_bytes: float | None = None,
    sample: Callable[[], Sequence[Batch]] = tuple,
) -> PlannedStep:
    """Returns the step of a training; nothing of the parameters' size is allocated.

    Args:
      model_config: the architecture that `params` belong to.
      params: arrays or their shapes.
      schema: of the data.
      batch: one training batch, or its shapes, with what stands beside the data's own.
      training: optimizer and batch size.
      transform: in force in the step.
      total_steps: planned steps.
      teacher: whose scores the loss takes as soft targets; None has labels alone.
      parallel: over which devices.
      counts: gives how often each row is looked up, for hot rows and sizes; None plans without.
      jax_devices: that a mesh is made of; None takes all that JAX has.
      free_bytes: of a device, for the plan of the tables; None asks the devices.
      sample: gives some batches, for the plan of the tables: how many of their ids are distinct.

    Raises:
      UserError: the table optimizer cannot be had with this transform or model, or the model not on these devices.
    """
    optimizer = make_optimizer(training, transform, model_config, total_steps)
    tables = make_table_optimizer(training, total_steps)
    if tables and transform.loss_scaling:
        raise UserError(
            f"{transform.label} scales the loss, which training.table_optimizer={training.table_optimizer!r} "
            "cannot; set it to 'dense', or compute in bfloat16, whose gradients need no scaling"
        )
    module = transform.intercept(model_config.build(schema), Mode.TRAIN)
    if tables:
        init = functools.partial(init_sparse_state, optimizer=optimizer, tables=tables)
    else:
        init = functools.partial(init_state, optimizer=optimizer, scaling=transform.loss_scaling)
    like = jax.eval_shape(init, params)
    devices, plan = _choose_devices(
        model_config,
        module,
        like,
        batch,
        training,
        transform,
        tables,
        parallel,
        counts,
        jax_devices,
        free_bytes,
        sample,
    )
    if tables:
        step = make_sparse_train_step(module, optimizer, tables, training.seed, teacher, devices.store, devices.step)
    else:
        step = make_train_step(module, optimizer, training.seed, teacher, devices.step)
    return PlannedStep(devices=devices, init=init, step=step, whole_like=like, plan=plan)


def _choose_devices(
    model_config: Any,
    module: Any,
    like: TrainState,
    batch: Batch,
    training: Training,
    transform: Transform,
    tables: TableOptimizer | None,
    parallel: Parallel,
    counts: RowCounts | None,
    jax_devices: Sequence[jax.Device] | None,
    free_bytes: float | None,
    sample: Callable[[], Sequence[Batch]],
) -> tuple[TrainingDevices, TablePlan | None]:
    if parallel.strategy == "single":
        return OneDevice(), None
    name = type(module).__name__
    if is_solved(module):
        raise UserError(
            f"{name} is solved from all interactions at once and has no batches to split; set parallel.strategy=single"
        )
    mesh = make_mesh({"data": parallel.data, "model": parallel.model}, jax_devices)
    check_batch("training.batch_size", training.batch_size, mesh)
    if parallel.strategy == "pmap":
        _check_replicable(model_config, transform, name)
        return Replicas(tuple(mesh.devices.flat)), None
    plan = None
    if tables:
        uses = _table_uses(module, like, batch, counts, sample())
        plan = plan_tables(uses, mesh, parallel, _free_bytes(mesh) if free_bytes is None else free_bytes)
    specs = whole_state_specs(like, model_config.sharding_rules(), parallel, mesh, name, row_updates=tables is not None)
    return MeshDevices(mesh, like, specs, plan), plan


def _check_replicable(model_config: Any, transform: Transform, name: str) -> None:
    """Raises UserError for what replicas would compute otherwise than one device."""
    if not model_config.samples_apart:
        raise UserError(
            f"pmap cannot train {name}: samples of a batch are in each other's loss, and a replica sees its own alone; "
            "set parallel.strategy=pjit"
        )
    if transform.narrow_gradients:
        raise UserError(
            f"pmap cannot train with {transform.label}: its gradients are scaled by the whole batch, and a replica "
            "sees its own part alone; set parallel.strategy=pjit, or backward_bits=None"
        )


def _table_uses(
    module: Any, like: TrainState, batch: Batch, counts: RowCounts | None, sample: Sequence[Batch]
) -> list[TableUse]:
    """Returns what a step does with each table, by tracing its loss on shapes, and on some batches for their ids."""

    def ids_of(params: Params, batch: Batch) -> Any:
        tables, others = split_tables(params)

        def loss(tables: Mapping[str, jax.Array]) -> jax.Array:
            variables = {"params": unflatten_like(params, {**others, **tables})}
            known = {**batch, "step": jax.numpy.zeros([], "int32")}
            return module.apply(variables, known, train=True, method="loss", rngs={"dropout": jax.random.key(0)})

        return find_lookups(loss, tables, type(module).__name__, bags=True)

    @jax.jit
    def ids_in(batch: Batch) -> Any:
        # No id depends on a parameter, so that no compiled program holds these.
        return ids_of(jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype), like.params), batch)

    lookups = jax.eval_shape(ids_of, like.params, batch)
    sampled = [jax.device_get(ids_in(batch)) for batch in sample]
    counted = counts() if counts else {}
    return [
        TableUse(
            path,
            vocab_size=table.shape[0],
            dim=table.shape[1],
            ids=sum(math.prod(ids.shape) for ids in lookups.get(path, ())),
            slot_words=sum(math.prod(slot.shape[1:]) for slot in like.opt_state.slots[path].values()),
            counts=counted.get(path.removesuffix("table").rstrip("/")),
            sample=tuple(tuple(ids[path]) for ids in sampled if path in ids),
        )
        for path, table in split_tables(like.params)[0].items()
    ]


def _free_bytes(mesh: Mesh) -> float:
    """Returns the free memory of a device of the mesh, infinity where it does not say, or is not here."""
    here = [device for device in mesh.devices.flat if device in jax.local_devices()]
    statistics = here[0].memory_stats() if here else None
    if not statistics or "bytes_limit" not in statistics:
        return math.inf
    free = float(statistics["bytes_limit"] - statistics.get("bytes_in_use", 0))
    return float(multihost_utils.process_allgather(np.float32(free)).min())  # of all processes, which plan alike
