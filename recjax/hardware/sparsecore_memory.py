"""What SparseCore tables take on a TPU that is not here: their programs compiled ahead of time, and the memory of each.

`python -m recjax.hardware.sparsecore_memory` prints the tables of docs/sparsecore.md.
"""

import argparse
import dataclasses
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

from recjax.command_line import OneLineParser, run_command
from recjax.errors import DeviceError, UserError
from recjax.hardware.topology import Target, absent_devices, environment, parse_target

if TYPE_CHECKING:
    from recjax.parallel.sparsecore import SparseCoreTables

DEVICES = "v5p:2x2x1,v6e:2x2,v7x:2x2x1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramMemory:
    """What the compiler says of one program, in bytes a device.

    Attributes:
      argument_bytes: what it reads: tables, ids, gradients.
      output_bytes: what it returns; `aliased_bytes` of them lie where an argument lay.
      temporary_bytes: what it holds beside these.
      aliased_bytes: see `output_bytes`.
      compile_s: seconds to lower and compile.
    """

    argument_bytes: int
    output_bytes: int
    temporary_bytes: int
    aliased_bytes: int
    compile_s: float

    @property
    def peak_bytes(self) -> int:
        """Returns arguments, outputs and temporaries together, each byte once."""
        return self.argument_bytes + self.output_bytes - self.aliased_bytes + self.temporary_bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparseCoreMemory:
    """What tables take on each device, by the layout and by the compiler.

    Attributes:
      device: kind, as JAX names it.
      devices: how many.
      sparsecores: of each device.
      stacks: tables that the fields' tables are stacked into.
      table_bytes: of the tables a device, rows added by the layout included.
      slot_bytes: of the optimizer's slots a device.
      input_bytes: of the preprocessed ids a device.
      lookup: the forward program.
      update: the sparse update's program, tables and slots donated.
    """

    device: str
    devices: int
    sparsecores: int
    stacks: int
    table_bytes: int
    slot_bytes: int
    input_bytes: int
    lookup: ProgramMemory
    update: ProgramMemory

    @property
    def table_bytes_a_sparsecore(self) -> int:
        """Returns the part of `table_bytes` whose rows one SparseCore owns."""
        return self.table_bytes // self.sparsecores


def compile_lookup(tables: "SparseCoreTables") -> Any:
    """Returns the compiled (variables without slots, inputs) -> vectors of each field, for the tables' mesh."""
    import jax

    from recjax.parallel import sparsecore

    lowered = jax.jit(lambda variables, inputs: sparsecore.lookup(tables, variables, inputs)).lower(
        sparsecore.variable_shapes(tables, slots=False), sparsecore.input_shapes(tables)
    )
    return lowered.compile()


def compile_update(tables: "SparseCoreTables") -> Any:
    """Returns the compiled (variables, inputs, gradients, step) -> variables, which are donated."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from recjax.parallel import sparsecore

    def over(spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(tables.mesh, spec)

    shape = (tables.batch_size, tables.embedding_dim)
    gradient = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=over(tables.rows))
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=over(PartitionSpec()))
    variables = sparsecore.variable_shapes(tables)
    # The result keeps the tables' layout, without which it could not lie where the donated tables lay.
    formats = jax.tree.map(lambda shape: shape.format if shape.format.layout else shape.sharding, variables)
    update = jax.jit(
        lambda variables, inputs, gradients, step: sparsecore.update(tables, variables, inputs, gradients, step),
        donate_argnums=0,
        out_shardings=formats,
    )
    gradients = {field.name: gradient for field in tables.schema.fields}
    return update.lower(variables, sparsecore.input_shapes(tables), gradients, step).compile()


def sparsecore_memory(tables: "SparseCoreTables") -> SparseCoreMemory:
    """Returns the bytes a device of the tables and of both programs, which it compiles; no TPU need be there.

    Raises:
      UserError: a program does not fit the chip.
    """
    import jax

    from recjax.parallel import sparsecore

    def bytes_a_device(tree: Any) -> int:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) // tables.mesh.size

    table_bytes = bytes_a_device(sparsecore.variable_shapes(tables, slots=False))
    return SparseCoreMemory(
        device=tables.mesh.devices.flat[0].device_kind,
        devices=tables.mesh.size,
        sparsecores=tables.sparsecores,
        stacks=len(tables.stacks),
        table_bytes=table_bytes,
        slot_bytes=bytes_a_device(sparsecore.variable_shapes(tables)) - table_bytes,
        input_bytes=bytes_a_device(sparsecore.input_shapes(tables)),
        lookup=_memory_of(compile_lookup, tables),
        update=_memory_of(compile_update, tables),
    )


def _memory_of(compile_program: Callable[["SparseCoreTables"], Any], tables: "SparseCoreTables") -> ProgramMemory:
    start = time.perf_counter()
    try:
        compiled = compile_program(tables)
    except RuntimeError as error:  # JAX's own for whatever the compiler says
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"the tables' program does not fit {tables.mesh.devices.flat[0].device_kind} "
            f"({' '.join(str(error).split())[:200]}); give limits from measure_limits, fewer samples a SparseCore "
            f"({tables.batch_size // tables.n_sparsecores} now), a smaller embedding_dim, or more chips"
        ) from error
    compile_s = time.perf_counter() - start
    memory = compiled.memory_analysis()
    return ProgramMemory(
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        aliased_bytes=memory.alias_size_in_bytes,
        compile_s=compile_s,
    )


def markdown_table(rows: Mapping[str, SparseCoreMemory]) -> str:
    """Returns a row for each slice, by its name; MB are 10^6 bytes a device."""
    head = (
        "| hardware | SparseCores | stacks | tables, MB | a SparseCore, MB | slots, MB | ids, MB | lookup: peak, MB "
        "| temporary, MB | compiled in, s | update: peak, MB | temporary, MB | compiled in, s |"
    )
    lines = [head, "|---" * 13 + "|"]

    def megabytes(n_bytes: int) -> str:
        return f"{n_bytes / 1e6:,.1f}"

    for name, row in rows.items():
        programs = []
        for program in (row.lookup, row.update):
            programs += [megabytes(program.peak_bytes), megabytes(program.temporary_bytes), f"{program.compile_s:.1f}"]
        sizes = (row.table_bytes, row.table_bytes_a_sparsecore, row.slot_bytes, row.input_bytes)
        cells = [name, f"{row.devices} x {row.sparsecores}", str(row.stacks), *map(megabytes, sizes), *programs]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the memory of DLRMv2's tables on SparseCores of TPUs that are not here; returns the exit code."""
    parser = OneLineParser(
        prog="python -m recjax.hardware.sparsecore_memory",
        description="Memory of DLRMv2-like tables (26 fields, multi-hot) on SparseCores, by compiling for each TPU.",
    )
    parser.add_argument("--devices", default=DEVICES, help=f"TPUs, as `recjax plan` names them (default {DEVICES})")
    parser.add_argument("--table-scale", type=float, default=0.01, help="of the rows of the full tables (default 0.01)")
    parser.add_argument("--embedding-dim", type=int, default=128, help="default 128")
    parser.add_argument("--samples", type=int, default=512, help="of the batch, for each SparseCore (default 512)")
    parser.add_argument("--optimizer", default="adagrad", help="sgd, adagrad or lazy_adam (default adagrad)")
    parser.add_argument("--batches", type=int, default=4, help="that buffer sizes are measured on (default 4)")
    parser.add_argument("--any-batch", action="store_true", help="buffers with room for any batch, instead of measured")
    parser.add_argument("--limits", action="store_true", help="also print each stack's buffer sizes")
    options = parser.parse_args(arguments)
    return run_command(lambda: _print_memory(options))


def _print_memory(options: argparse.Namespace) -> int:
    targets = [parse_target(name) for name in options.devices.split(",")]
    for target in targets:
        if not target.chip.sparsecores:
            raise UserError(f"{target.name} has no SparseCores; allowed: slices of TPUs that have some, as {DEVICES}")
    rows, limits = {}, ["| hardware | tables of the stack | ids | unique_ids | buffer |", "|---" * 5 + "|"]
    for target in targets:
        # The compiler reads the environment before JAX is imported, and each slice has its own: hence its own process.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            try:
                rows[target.name], its_limits = process.submit(_measure, target, options).result()
            except BrokenProcessPool as error:
                raise DeviceError(f"the compiler ended its process for {target.name}; leave it out") from error
        limits += its_limits
    print(markdown_table(rows))
    if options.limits:
        print("\n" + "\n".join(limits))
    return 0


def _measure(target: Target, options: argparse.Namespace) -> tuple[SparseCoreMemory, list[str]]:
    """Returns the memory of the tables on a slice, and a line for each stack's buffers; JAX is not imported yet."""
    os.environ.update(environment(target))
    from recjax.data.synthetic_dlrm import DLRMv2Options, SyntheticDLRMv2
    from recjax.parallel.mesh import make_mesh
    from recjax.parallel.sparsecore import make_sparsecore_tables, with_limits
    from recjax.parallel.sparsecore_inputs import measure_limits

    data = SyntheticDLRMv2(DLRMv2Options(table_scale=options.table_scale))
    mesh = make_mesh({"data": -1}, absent_devices(target))
    cores = make_sparsecore_tables(data.schema, options.embedding_dim, mesh, 128 * mesh.size).n_sparsecores
    tables = make_sparsecore_tables(
        data.schema, options.embedding_dim, mesh, options.samples * cores, optimizer=options.optimizer
    )
    if not options.any_batch:
        batches = (data.batch("train", index, tables.local_batch_size) for index in range(options.batches))
        tables = with_limits(tables, measure_limits(tables, batches))
    lines = []
    for stack, limit in tables.limits.items():
        fields = " ".join(field.name for field in data.schema.fields if tables.stack_of(field.name) == stack)
        lines.append(f"| {target.name} | {fields} | {limit.ids:,} | {limit.unique_ids:,} | {limit.buffer:,} |")
    return sparsecore_memory(tables), lines


if __name__ == "__main__":
    raise SystemExit(main())
