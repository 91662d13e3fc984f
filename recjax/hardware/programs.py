"""The programs of an experiment, a training step and an answer to requests, as shapes on a mesh: nothing is allocated.

Data parallelism: every device has all parameters, and its part of the batch.

Shapes: B batch.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax.dtypes import canonicalize_dtype
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recjax.config import Experiment
from recjax.data.batches import NumpyBatch
from recjax.errors import UserError
from recjax.evaluation import Data
from recjax.models.contract import precomputed
from recjax.parallel.mesh import check_batch
from recjax.training.distillation import Teacher
from recjax.training.final_model import FinalModel
from recjax.training.optimizer import make_optimizer, make_table_optimizer
from recjax.training.pipeline import dry_run, one_batch, set_up
from recjax.training.sparse_step import init_sparse_state, make_sparse_train_step
from recjax.training.step import init_params, init_state, is_solved, make_train_step
from recjax.transforms.protocol import Mode, TransformReport, chain

LARGEST_DRAWN = 2_000_000_000  # bytes of parameters that are drawn here because a transform looks at their values


class PlannedProgram(NamedTuple):
    """A program to be compiled, and what it does.

    Attributes:
      function: jitted.
      arguments: of it, as shapes with their shardings.
      samples: that one run learns from or answers, on all devices together.
    """

    function: Any
    arguments: tuple[Any, ...]
    samples: int


def training_program(experiment: Experiment, data: Data, mesh: Mesh, batch_size: int | None = None) -> PlannedProgram:
    """Returns one training step of the experiment, its state donated.

    Args:
      experiment: what is trained, with its transforms in force.
      data: of it; a few samples are looked at.
      mesh: of devices that need not be here.
      batch_size: samples of all devices together; None takes the experiment's.

    Raises:
      UserError: the batch cannot be shared evenly, or the model, its transforms or its table optimizer go together in
        no program that can be planned.
    """
    settings, transform = experiment.training, chain(*experiment.transforms)
    model_config = transform.rewrite(experiment.model)
    module = transform.intercept(model_config.build(data.schema), Mode.TRAIN)
    if is_solved(module):
        raise UserError(f"{type(module).__name__} is solved on one device, from all the data at once; plan its serving")
    batch_size = settings.batch_size if batch_size is None else batch_size
    check_batch("training.batch_size", batch_size, mesh)
    teacher = None
    if transform.soft_targets:
        taught_by = _drawn_shapes(experiment.model.build(data.schema), data)
        teacher = Teacher(experiment.model.build(data.schema), taught_by, transform.soft_targets)
    params = _start_shapes(experiment, data)
    total_steps = math.ceil(data.n_train / batch_size) * settings.epochs
    optimizer = make_optimizer(settings, transform, model_config, total_steps)
    tables = make_table_optimizer(settings, total_steps)
    if tables is None:
        state = jax.eval_shape(lambda params: init_state(params, optimizer, transform.loss_scaling), params)
        step = make_train_step(module, optimizer, settings.seed, teacher)
    else:
        state = jax.eval_shape(lambda params: init_sparse_state(params, optimizer, tables), params)
        step = make_sparse_train_step(module, optimizer, tables, settings.seed, teacher)
    whole = NamedSharding(mesh, PartitionSpec())
    state, batch = _on(whole, state), _batch_shapes(_two_batches(data), batch_size, mesh)
    beside = {"context": _on(whole, dict(data.context))} if data.context else {}
    beside |= {"teacher": _on(whole, teacher.params)} if teacher else {}
    outputs = (jax.tree.map(lambda leaf: leaf.sharding, state), whole)
    function = jax.jit(lambda state, batch: step(state, batch), donate_argnums=0, out_shardings=outputs)
    return PlannedProgram(function, (state, {**batch, **beside}), batch_size)


def serving_program(experiment: Experiment, data: Data, mesh: Mesh, batch_size: int | None = None) -> PlannedProgram:
    """Returns the program that answers a batch of requests after the experiment's transforms.

    The arguments are those of `training_program`; `batch_size` None takes the largest of the experiment's buckets.

    Raises:
      UserError: the batch cannot be shared evenly, or a transform looks at parameters that are too large to draw here.
    """
    batch_size = experiment.serving.buckets[-1] if batch_size is None else batch_size
    check_batch("the largest of serving.buckets", batch_size, mesh)
    model = _final_model(experiment, data)
    whole = NamedSharding(mesh, PartitionSpec())
    columns = data.serving_samples()
    requests = _batch_shapes(
        ({n: c[:2] for n, c in columns.items()}, {n: c[:3] for n, c in columns.items()}), batch_size, mesh
    )
    function = jax.jit(functools.partial(model.serve, top_k=experiment.serving.top_k))
    return PlannedProgram(function, (_on(whole, model.variables), requests), batch_size)


def _final_model(experiment: Experiment, data: Data) -> FinalModel:
    """Returns the model as it would be served, its variables as shapes where no transform asks for values."""
    if experiment.transforms:
        _check_drawable(experiment, data)
        return dry_run(experiment, data)
    module = experiment.model.build(data.schema)
    variables: dict[str, Any] = {"params": _drawn_shapes(module, data)}
    variables |= jax.eval_shape(functools.partial(precomputed, module), variables, dict(data.context))
    return FinalModel(
        config=experiment.model,
        schema=data.schema,
        transform=chain(),
        variables=variables,
        report=TransformReport(),
    )


def _start_shapes(experiment: Experiment, data: Data) -> Any:
    """Returns the parameters that training starts from, as shapes."""
    if not experiment.transforms:
        return _drawn_shapes(experiment.model.build(data.schema), data)
    _check_drawable(experiment, data)
    return set_up(experiment, data, taught_by={}).params


def _check_drawable(experiment: Experiment, data: Data) -> None:
    """Raises UserError if the experiment's parameters are too large to be drawn here."""
    shapes = _drawn_shapes(experiment.model.build(data.schema), data)
    n_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    if n_bytes > LARGEST_DRAWN:
        raise UserError(
            f"{chain(*experiment.transforms).label} looks at parameters, and the {n_bytes / 1e9:.1f} GB of "
            f"{experiment.name} are not drawn for a plan; allowed: {LARGEST_DRAWN / 1e9:g} GB; make tables shorter"
        )


def _drawn_shapes(module: Any, data: Data) -> Any:
    """Returns the module's parameters before any training, as shapes."""
    batch = one_batch(data, 1)
    return jax.eval_shape(lambda: init_params(module, batch, seed=0))


def _two_batches(data: Data) -> tuple[NumpyBatch, NumpyBatch]:
    """Returns training batches of two and of three samples."""
    return tuple(next(iter(data.train_batches(size, 0, 1))) for size in (2, 3))  # type: ignore[return-value]


def _batch_shapes(
    two_and_three: tuple[Mapping[str, Any], Mapping[str, Any]], batch_size: int, mesh: Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the columns of a batch of B samples as shapes, split along "data" on the axis that counts samples.

    Args:
      two_and_three: batches of two and of three samples, which differ in that axis.
      batch_size: B.
      mesh: that the batch is split over.
    """
    shapes = {}
    for name, two in two_and_three[0].items():
        three = two_and_three[1][name]
        axes = [axis for axis, size in enumerate(two.shape) if (size, three.shape[axis]) == (2, 3)]
        shape = tuple(batch_size if axis in axes[:1] else size for axis, size in enumerate(two.shape))
        spec = PartitionSpec(*("data" if axis in axes[:1] else None for axis in range(len(shape))))
        shapes[name] = jax.ShapeDtypeStruct(shape, canonicalize_dtype(two.dtype), sharding=NamedSharding(mesh, spec))
    return shapes


def _on(sharding: NamedSharding, tree: Any) -> Any:
    """Returns a tree of arrays or shapes as shapes with that sharding."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, canonicalize_dtype(leaf.dtype), sharding=sharding), tree
    )
