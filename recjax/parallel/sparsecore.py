"""Embedding tables on a TPU's SparseCores: pooled lookups and sparse row updates, by jax-tpu-embedding.

A SparseCore is a processor beside the TPU's matrix unit that gathers and scatters rows of a table in its memory. TPU
v5p, v6e and v7x have them. The library spreads every table's rows over all SparseCores, stacks tables of one combiner
and one width into one, and sorts a batch's ids by the SparseCore that holds their rows, on the host and before the step
starts (recjax.parallel.sparsecore_inputs).

Tables are float32. A bag of ids is combined on the SparseCore, so a lookup gives one vector a bag.

Shapes: B batch, D embedding dim, V vocabulary, S SparseCores of all devices.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from recjax.data.features import LabelledSchema
from recjax.errors import UserError
from recjax.parallel.sparsecore_library import (
    SLOTS,
    as_statistics,
    check_optimizer,
    feature_spec,
    import_library,
    optimizer_spec,
    sparsecores_of,
    without_advice,
)
from recjax.parallel.sparsecore_limits import StackLimits, check_limits, limits_of_any_batch

Variables = Mapping[str, Any]  # by stack: the library's EmbeddingVariables, a table [S x rows, D] and its slots
Inputs = Any  # the library's PreprocessedInput: ids in the order in which SparseCores take them


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparseCoreTables:
    """How the tables of a schema lie on the SparseCores of a mesh; made by `make_sparsecore_tables`.

    Attributes:
      schema: the fields, of which each has a table.
      embedding_dim: D.
      mesh: all of its devices share the tables, whatever its axes.
      batch_size: B, of all devices together.
      optimizer: of the rows.
      learning_rate: of the rows; a number, or step from 0 -> rate.
      sparsecores: of one device.
      limits: of each stack, by its name.
      features: the library's description of each field, by its name.
    """

    schema: LabelledSchema
    embedding_dim: int
    mesh: Mesh
    batch_size: int
    optimizer: str
    learning_rate: float | Callable[[Any], Any]
    sparsecores: int
    limits: Mapping[str, StackLimits]
    features: Mapping[str, Any]

    @property
    def n_sparsecores(self) -> int:
        """Returns S."""
        return self.sparsecores * self.mesh.size

    @property
    def local_batch_size(self) -> int:
        """Returns how many samples of a batch this host prepares."""
        local = sum(device.process_index == jax.process_index() for device in self.mesh.devices.flat)
        return self.batch_size // self.mesh.size * local

    @property
    def stacks(self) -> Mapping[str, Any]:
        """Returns the library's description of each stack, by its name."""
        return import_library().embedding.get_stacked_table_specs(self.features)

    def stack_of(self, field: str) -> str:
        """Returns the name of the stack that the field's table is in."""
        return self.features[field].table_spec.stacked_table_spec.stack_name

    @property
    def rows(self) -> PartitionSpec:
        """Returns the sharding of a first axis over all devices."""
        return PartitionSpec(self.mesh.axis_names)


def make_sparsecore_tables(
    schema: LabelledSchema,
    embedding_dim: int,
    mesh: Mesh,
    batch_size: int,
    *,
    optimizer: str = "sgd",
    learning_rate: float | Callable[[Any], Any] = 0.01,
    limits: Mapping[str, StackLimits] | None = None,
    sparsecores: int | None = None,
) -> SparseCoreTables:
    """Returns the layout of the schema's tables over the SparseCores of all of the mesh's devices.

    Args:
      schema: every field has one table, with its combiner.
      embedding_dim: D of all of them.
      mesh: of TPU devices, attached ones or those of a topology.
      batch_size: samples a step, on all devices together.
      optimizer: "sgd" and "lazy_adam" as in recjax.training.row_updates; "adagrad" as in `adagrad_update`.
      learning_rate: a number, or step from 0 -> rate.
      limits: sizes of the buffers, from `measure_limits`; None has room for any batch, which is far more than one
        needs and may not fit a SparseCore's memory.
      sparsecores: SparseCores of a device; None asks the chip. A number prepares batches on a host without the chips.

    Raises:
      UserError: the library is not installed; an optimizer that SparseCores lack; a batch that does not divide.
      DeviceError: the chip has no SparseCore.
    """
    library = import_library()
    check_optimizer(optimizer)
    sparsecores = sparsecores_of(mesh) if sparsecores is None else sparsecores
    cores = sparsecores * mesh.size
    if batch_size % cores:
        raise UserError(
            f"batch_size is {batch_size}; allowed: multiples of {cores}, as each of the {sparsecores} SparseCores of "
            f"the {mesh.size} devices takes as many samples"
        )
    spec = optimizer_spec(library, optimizer, learning_rate)
    features = {field.name: feature_spec(library, field, embedding_dim, batch_size, spec) for field in schema.fields}
    with without_advice():
        library.embedding.auto_stack_tables(features, mesh.size, sparsecores)
        library.embedding.prepare_feature_specs_for_training(features, mesh.size, sparsecores)
    tables = SparseCoreTables(
        schema=schema,
        embedding_dim=embedding_dim,
        mesh=mesh,
        batch_size=batch_size,
        optimizer=optimizer,
        learning_rate=learning_rate,
        sparsecores=sparsecores,
        limits={},
        features=features,
    )
    if limits is None:
        limits = limits_of_any_batch(_ids_a_sample(tables), batch_size // cores, mesh.size, sparsecores)
    check_limits(limits, tables.stacks, mesh.size, sparsecores)
    library.embedding.update_preprocessing_parameters(
        features, as_statistics(library, limits, sparsecores), sparsecores
    )
    return dataclasses.replace(tables, limits=dict(limits))


def with_limits(tables: SparseCoreTables, limits: Mapping[str, StackLimits] | None) -> SparseCoreTables:
    """Returns the same tables with other buffers; raises as `make_sparsecore_tables` does."""
    return make_sparsecore_tables(
        tables.schema,
        tables.embedding_dim,
        tables.mesh,
        tables.batch_size,
        optimizer=tables.optimizer,
        learning_rate=tables.learning_rate,
        limits=limits,
        sparsecores=tables.sparsecores,
    )


def lookup(tables: SparseCoreTables, variables: Variables, inputs: Inputs) -> dict[str, Float[Array, "B D"]]:
    """Returns each field's combined rows; an empty bag gives zeros. Pure, to be compiled by the caller.

    Args:
      tables: the layout.
      variables: from `stack_tables`; slots are not read.
      inputs: from `preprocess`.
    """
    embedding, over = import_library().embedding, tables.rows

    def on_each(inputs: Inputs, variables: Variables) -> Any:
        return embedding.tpu_sparse_dense_matmul(
            inputs,
            variables,
            dict(tables.features),
            global_device_count=tables.mesh.size,
            num_sc_per_device=tables.sparsecores,
        )

    # The library's primitives say nothing of how their results vary over the mesh.
    mapped = jax.shard_map(on_each, mesh=tables.mesh, in_specs=(over, over), out_specs=over, check_vma=False)
    return mapped(inputs, variables)


def update(
    tables: SparseCoreTables,
    variables: Variables,
    inputs: Inputs,
    gradients: Mapping[str, Float[Array, "B D"]],
    step: Any,
) -> Variables:
    """Returns the variables with the looked-up rows updated; in place where they are donated.

    Args:
      tables: the layout, the optimizer and its learning rate.
      variables: tables and slots.
      inputs: the batch's, as `lookup` had them.
      gradients: of the loss with respect to what `lookup` returned.
      step: [] int32, from 0; learning rates and Adam's correction of bias follow from it.
    """
    embedding, over = import_library().embedding, tables.rows

    def on_each(gradients: Any, inputs: Inputs, variables: Variables, step: Any) -> Any:
        return embedding.tpu_sparse_dense_matmul_grad(
            gradients,
            inputs,
            variables,
            dict(tables.features),
            global_device_count=tables.mesh.size,
            num_sc_per_device=tables.sparsecores,
            step=step,
        )

    specs = (over, over, over, PartitionSpec())
    mapped = jax.shard_map(on_each, mesh=tables.mesh, in_specs=specs, out_specs=over, check_vma=False)
    return mapped(dict(gradients), inputs, variables, step)


def stack_tables(tables: SparseCoreTables, by_field: Mapping[str, Float[Any, "V D"]]) -> Variables:
    """Returns the fields' tables as the SparseCores hold them, with slots of zeros: the state before the first step.

    Arrays are on the default device; put them on the mesh with the shardings of `variable_shapes`.
    """
    library = import_library()
    specs = {name: feature.table_spec for name, feature in tables.features.items()}
    stacked = library.table_stacking.stack_and_shard_tables(specs, dict(by_field), tables.n_sparsecores, pad_value=0.0)
    flat = {name: table.reshape(-1, table.shape[-1]) for name, table in stacked.items()}
    return {
        name: library.embedding.EmbeddingVariables(
            table, tuple(jnp.zeros_like(table) for _ in range(SLOTS[tables.optimizer]))
        )
        for name, table in flat.items()
    }


def unstack_tables(tables: SparseCoreTables, variables: Variables) -> dict[str, Float[Array, "V D"]]:
    """Returns each field's table in the order of its ids, as recjax's models and checkpoints have it."""
    specs = {name: feature.table_spec for name, feature in tables.features.items()}
    stacked = {name: variables[name].table for name in tables.stacks}
    return import_library().table_stacking.unshard_and_unstack_tables(specs, stacked, tables.n_sparsecores)


def variable_shapes(tables: SparseCoreTables, *, slots: bool = True) -> Variables:
    """Returns shapes, types, shardings and layouts of `lookup`'s variables, and of `update`'s with `slots`."""
    library = import_library()
    layout = library.utils.embedding_table_format(tables.mesh, PartitionSpec(tables.mesh.axis_names, None))

    def of_stack(stack: Any) -> Any:
        shape = (stack.stack_vocab_size, stack.stack_embedding_dim)
        table = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=layout)
        return library.embedding.EmbeddingVariables(table, (table,) * (SLOTS[tables.optimizer] if slots else 0))

    return {name: of_stack(stack) for name, stack in tables.stacks.items()}


def input_shapes(tables: SparseCoreTables) -> Inputs:
    """Returns shapes, types and shardings of what `preprocess` gives for the whole batch."""
    shapes = import_library().embedding.eval_preprocess_sparse_dense_matmul_input_shape(
        dict(tables.features), tables.mesh.size, tables.mesh.size, num_sc_per_device=tables.sparsecores
    )
    over_all = NamedSharding(tables.mesh, tables.rows)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=over_all), shapes)


def _ids_a_sample(tables: SparseCoreTables) -> dict[str, int]:
    """Returns how many ids of each stack a sample has at most."""
    most = dict.fromkeys(tables.stacks, 0)
    for field in tables.schema.fields:
        most[tables.stack_of(field.name)] += field.length
    return most
