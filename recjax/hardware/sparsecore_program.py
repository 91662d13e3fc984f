"""A training step with its tables on SparseCores, as shapes: what `recjax plan --program sparsecore` compiles.

The step is that of recjax.parallel.sparsecore_step. Buffers of ids have the sizes that some batches of the data need.
"""

import itertools

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recjax.config import Experiment
from recjax.data.features import LabelledSchema
from recjax.errors import DeviceError, UserError
from recjax.evaluation import Data
from recjax.hardware.facts import chip_of
from recjax.hardware.program_shapes import batch_shapes, drawn_shapes, shapes_on, two_batches
from recjax.hardware.programs import PlannedProgram
from recjax.parallel.mesh import check_batch
from recjax.parallel.sparsecore import input_shapes, make_sparsecore_tables, variable_shapes, with_limits
from recjax.parallel.sparsecore_inputs import measure_limits
from recjax.parallel.sparsecore_step import (
    SparseCoreState,
    make_sparsecore_train_step,
    tables_by_field,
    without_tables,
)
from recjax.training.first_step import total_steps
from recjax.training.optimizer import make_optimizer, make_table_optimizer
from recjax.transforms.protocol import chain

MEASURED_BATCHES = 4  # that the buffers are sized on
# SparseCores keep an accumulator for each column where recjax keeps one for each row: docs/sparsecore.md.
OPTIMIZERS = {"sgd": "sgd", "lazy_adam": "lazy_adam", "rowwise_adagrad": "adagrad"}


def sparsecore_program(experiment: Experiment, data: Data, mesh: Mesh, batch_size: int | None = None) -> PlannedProgram:
    """Returns one training step of the experiment with its tables on SparseCores, its state donated.

    Args:
      experiment: what is trained; it has no transforms, and row updates of its tables.
      data: of it; buffers are sized on a few of its batches.
      mesh: of TPU devices that need not be here.
      batch_size: samples of all devices together; None takes the experiment's.

    Raises:
      UserError: SparseCores have no such model, optimizer, clipping or batch, or jax-tpu-embedding is not installed.
      DeviceError: the chip has no SparseCore.
    """
    settings, kind = experiment.training, mesh.devices.flat[0].device_kind
    chip = chip_of(kind)
    if chip is not None and not chip.sparsecores:
        raise DeviceError(f"{kind} has no SparseCore; plan --program=train there, or this on v5p, v6e or v7x")
    if experiment.transforms:
        raise UserError(
            f"{chain(*experiment.transforms).label} is not there for tables on SparseCores, which are float32; plan "
            "the experiment without transforms"
        )
    if not isinstance(data.schema, LabelledSchema):
        raise UserError(f"{experiment.name} is no model of the labelled task; SparseCores take dlrm or dlrm_dcnv2")
    table_optimizer = make_table_optimizer(settings, total_steps(data, settings))
    if table_optimizer is None:
        raise UserError(
            "training.table_optimizer is dense, and SparseCores update the rows that are looked up; set it to "
            "sgd, lazy_adam or rowwise_adagrad"
        )
    if settings.max_grad_norm:
        raise UserError(
            f"training.max_grad_norm is {settings.max_grad_norm:g}, and a step with tables on SparseCores clips no "
            "gradients; set it to 0"
        )
    batch_size = batch_size or settings.batch_size
    check_batch("training.batch_size", batch_size, mesh)
    module = experiment.model.build(data.schema)
    optimizer = make_optimizer(settings, chain(), experiment.model, total_steps(data, settings))
    params = drawn_shapes(module, data)
    (_, table), *_ = tables_by_field(params, data.schema).values()
    tables = make_sparsecore_tables(
        data.schema,
        table.shape[1],
        mesh,
        batch_size,
        optimizer=OPTIMIZERS[settings.table_optimizer],
        learning_rate=table_optimizer.learning_rate,
    )
    batches = itertools.islice(data.train_batches(tables.local_batch_size, 0, 1), MEASURED_BATCHES)
    tables = with_limits(tables, measure_limits(tables, batches))
    whole = NamedSharding(mesh, PartitionSpec())
    dense = without_tables(params, data.schema)
    state = SparseCoreState(
        shapes_on(whole, jax.ShapeDtypeStruct((), "int32")),
        shapes_on(whole, dense),
        shapes_on(whole, jax.eval_shape(optimizer.init, dense)),
        variable_shapes(tables),
    )
    # The new state keeps the layout of the tables, without which it could not lie where the donated one lay.
    formats = jax.tree.map(lambda shape: shape.format if shape.format.layout else shape.sharding, state)
    step = make_sparsecore_train_step(module, tables, optimizer, settings.seed)
    function = jax.jit(step, donate_argnums=0, out_shardings=(formats, whole))
    batch = batch_shapes(two_batches(data), batch_size, mesh)
    return PlannedProgram(function, (state, batch, input_shapes(tables)), batch_size)
