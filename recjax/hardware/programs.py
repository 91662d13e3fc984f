"""The programs of an experiment, a training step and an answer to requests, as shapes on a mesh: nothing is allocated.

They are those of `--parallel=pjit`: batches are split along "data", parameters by the model's rules, tables with row
updates over all devices.

Shapes: B batch.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recjax.config import Experiment, Parallel
from recjax.errors import UserError
from recjax.evaluation import Data
from recjax.hardware.facts import chip_of
from recjax.hardware.program_shapes import batch_shapes, drawn_shapes, shapes_on, two_batches
from recjax.models.contract import precomputed
from recjax.parallel.mesh import check_batch
from recjax.parallel.rules import parameter_specs
from recjax.parallel.table_layout import whole_spec
from recjax.training.distillation import Teacher
from recjax.training.final_model import FinalModel
from recjax.training.first_step import plan_step, sampled_batches, total_steps
from recjax.training.memory import Needs, training_needs, validation_bytes
from recjax.training.mesh_devices import MeshDevices
from recjax.training.pipeline import dry_run, set_up
from recjax.training.step import is_solved
from recjax.transforms.paths import flatten, unflatten_like
from recjax.transforms.protocol import TransformReport, chain

LARGEST_DRAWN = 2_000_000_000  # bytes of parameters that are drawn here because a transform looks at their values


class PlannedProgram(NamedTuple):
    """A program to be compiled, and what it does.

    Attributes:
      function: jitted.
      arguments: of it, as shapes with their shardings.
      samples: that one run learns from or answers, on all devices together.
      needs: of a device's memory of a whole training that saves checkpoints; None of any other program.
    """

    function: Any
    arguments: tuple[Any, ...]
    samples: int
    needs: Needs | None = None


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
    module = model_config.build(data.schema)
    if is_solved(module):
        raise UserError(f"{type(module).__name__} is solved on one device, from all the data at once; plan its serving")
    settings = dataclasses.replace(settings, batch_size=batch_size or settings.batch_size)
    check_batch("--batch-size" if batch_size else "training.batch_size", settings.batch_size, mesh)
    teacher = None
    if transform.soft_targets:
        taught_by = drawn_shapes(experiment.model.build(data.schema), data)
        teacher = Teacher(experiment.model.build(data.schema), taught_by, transform.soft_targets)
    whole = NamedSharding(mesh, PartitionSpec())
    beside = {"context": shapes_on(whole, dict(data.context))} if data.context else {}
    beside |= {"teacher": shapes_on(whole, teacher.params)} if teacher else {}
    batch = batch_shapes(two_batches(data), settings.batch_size, mesh)
    chip = chip_of(mesh.devices.flat[0].device_kind)
    planned = plan_step(
        model_config,
        _start_shapes(experiment, data),
        data.schema,
        {**batch, **beside},
        settings,
        transform,
        total_steps=total_steps(data, settings),
        teacher=teacher,
        parallel=_on_mesh(experiment, mesh),
        jax_devices=list(mesh.devices.flat),
        free_bytes=None if chip is None else chip.usable_hbm_bytes,
        sample=lambda: sampled_batches(data, settings, {"context": dict(data.context)} if data.context else {}),
    )
    assert isinstance(planned.devices, MeshDevices)
    needs = training_needs(
        planned,
        {**batch, **beside},
        keeps_drawn=bool(transform.members),
        scores_bytes=validation_bytes(data),
        saves=True,
        sharing=1,
    )
    arguments = (planned.devices.state_like, {**batch, **beside})
    return PlannedProgram(planned.step, arguments, settings.batch_size, needs)


def serving_program(experiment: Experiment, data: Data, mesh: Mesh, batch_size: int | None = None) -> PlannedProgram:
    """Returns the program that answers a batch of requests after the experiment's transforms.

    The arguments are those of `training_program`; `batch_size` None takes the largest of the experiment's buckets.

    Raises:
      UserError: the batch cannot be shared evenly, or a transform looks at parameters that are too large to draw here.
    """
    name = "--batch-size" if batch_size else "the largest of serving.buckets"
    batch_size = batch_size or experiment.serving.buckets[-1]
    check_batch(name, batch_size, mesh)
    model = _final_model(experiment, data)
    whole = NamedSharding(mesh, PartitionSpec())
    columns = data.serving_samples()
    requests = batch_shapes(
        ({n: c[:2] for n, c in columns.items()}, {n: c[:3] for n, c in columns.items()}), batch_size, mesh
    )
    function = jax.jit(functools.partial(model.serve, top_k=experiment.serving.top_k), out_shardings=whole)
    return PlannedProgram(function, (_served_shapes(experiment, model, mesh), requests), batch_size)


def _on_mesh(experiment: Experiment, mesh: Mesh) -> Parallel:
    """Returns the experiment's way to be spread, on that mesh."""
    parallel = experiment.parallel
    if parallel.strategy != "pjit":
        parallel = Parallel(strategy="pjit")
    return dataclasses.replace(parallel, data=mesh.shape["data"], model=mesh.shape["model"])


def _served_shapes(experiment: Experiment, model: FinalModel, mesh: Mesh) -> Any:
    """Returns the variables as shapes that lie on the mesh as those of a trained model do.

    Tables with row updates are split by columns, in whatever form; everything else is split by the model's rules.
    """
    params = model.variables["params"]
    has_rows = experiment.training.table_optimizer != "dense"
    flat = flatten(params)
    tables = {path: leaf for path, leaf in flat.items() if has_rows and "table" in path.split("/")}
    others = {path: leaf for path, leaf in flat.items() if path not in tables}
    rules, name = model.config.sharding_rules(), type(model.module).__name__
    if not rules:
        return shapes_on(NamedSharding(mesh, PartitionSpec()), model.variables)
    specs = parameter_specs(others, rules, mesh, name, fully_sharded=experiment.parallel.fully_sharded)
    specs |= {path: whole_spec(mesh, leaf.shape) for path, leaf in tables.items()}
    split = {path: shapes_on(NamedSharding(mesh, specs[path]), leaf) for path, leaf in flat.items()}
    shared = {name: value for name, value in model.variables.items() if name != "params"}
    return shapes_on(NamedSharding(mesh, PartitionSpec()), shared) | {"params": unflatten_like(params, split)}


def _final_model(experiment: Experiment, data: Data) -> FinalModel:
    """Returns the model as it would be served, its variables as shapes where no transform asks for values."""
    if experiment.transforms:
        _check_drawable(experiment, data)
        return dry_run(experiment, data)
    module = experiment.model.build(data.schema)
    variables: dict[str, Any] = {"params": drawn_shapes(module, data)}
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
        return drawn_shapes(experiment.model.build(data.schema), data)
    _check_drawable(experiment, data)
    return set_up(experiment, data, taught_by={}).params


def _check_drawable(experiment: Experiment, data: Data) -> None:
    """Raises UserError if the experiment's parameters are too large to be drawn here."""
    shapes = drawn_shapes(experiment.model.build(data.schema), data)
    n_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    if n_bytes > LARGEST_DRAWN:
        raise UserError(
            f"{chain(*experiment.transforms).label} looks at parameters, and the {n_bytes / 1e9:.1f} GB of "
            f"{experiment.name} are not drawn for a plan; allowed: {LARGEST_DRAWN / 1e9:g} GB; make tables shorter"
        )
