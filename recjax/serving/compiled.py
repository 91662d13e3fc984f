"""A model compiled ahead of time, one program per batch size ("bucket"), ready to answer requests.

Shapes: B batch (a bucket), n requests of one call (n <= B).
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from recjax.errors import UserError
from recjax.nn.dots import SPARSE_ROUTINE
from recjax.serving import program_text
from recjax.serving.bucket_memory import check_bucket

Columns = Mapping[str, NDArray]  # request columns: one row a sample
Answer = Callable[[Any, Mapping[str, jax.Array]], Mapping[str, jax.Array]]  # (variables, batch) -> outputs


@dataclasses.dataclass(frozen=True, slots=True)
class Stamps:
    """When each stage of one batch ended, in seconds of `time.perf_counter`.

    Attributes:
      prepared: the batch is gathered and padded on the host.
      transferred_in: inputs are handed to the device and the program is enqueued. An accelerator may still be copying
        them: that is part of the next stage.
      computed: the outputs are ready on the device.
      transferred_out: and in host memory.
    """

    prepared: float
    transferred_in: float
    computed: float
    transferred_out: float


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled batch size, and what the compiler says of it.

    Attributes:
      shares: devices that share a batch, each with its part of the samples.
      executable: called with (variables, batch).
      compile_s: seconds to lower and compile; never part of a latency.
      flops: operations of the program before XLA's optimisations; a multiply-add counts two, None
        where there is no count.
      bytes_accessed: XLA's count of bytes read and written by the optimised program, None where it has none.
      memory_bytes: arguments + outputs + temporaries, by the compiler.
      allocated_bytes: of them, what a run allocates: outputs + temporaries.
      products_asked_for: how many products of each kind the program has before XLA's optimisations.
      products: and after them, None where the compiled program's text does not say.
      arguments: types and shapes of what it reads, with their number; None likewise.
    """

    batch_size: int
    shares: int
    executable: Any
    compile_s: float
    flops: float | None
    bytes_accessed: float | None
    memory_bytes: int | None
    allocated_bytes: int | None
    products_asked_for: Mapping[str, int]
    products: Mapping[str, int] | None
    arguments: Mapping[str, int] | None


class CompiledModel:
    """Answers any number of requests up to the largest bucket without compiling anything.

    Inputs are copied into a zero-padded batch of the next bucket; outputs are returned as NumPy arrays, which
    waits for the device.
    """

    def __init__(
        self, answer: Answer, variables: Any, columns: Columns, buckets: Sequence[int], mesh: Mesh | None = None
    ) -> None:
        """Compiles `answer` for every bucket.

        Args:
          answer: pure function of (variables, batch).
          variables: put on the default device once; on a mesh they stay as they lie on it.
          columns: requests; their dtypes and trailing shapes are compiled in.
          buckets: ascending batch sizes; on a mesh a batch that its "data" devices can share evenly is shared.
          mesh: of the devices that answer together; None answers on the default device.

        Raises:
          UserError: the variables, or a bucket's program, do not fit into memory.
        """
        check_bucket(variables, columns, buckets[-1], {}, mesh=mesh)
        self.mesh = mesh
        self.variables = jax.device_put(variables) if mesh is None else _on_mesh(variables, mesh)
        self.buckets = tuple(buckets)
        self.programs: dict[int, Program] = {}
        for size in self.buckets:
            self.programs[size] = self._compile(answer, columns, size)
            allocated = {n: program.allocated_bytes or 0 for n, program in self.programs.items()}
            check_bucket(self.variables, columns, size, allocated, mesh=mesh)

    def bucket_of(self, n: int) -> int:
        """Returns the smallest bucket that holds n requests."""
        return next(size for size in self.buckets if size >= n)

    def __call__(self, columns: Columns, rows: NDArray) -> dict[str, NDArray]:
        """Returns the outputs for `rows` of the request columns, in order.

        Raises:
          UserError: more rows than the largest bucket.
        """
        return self.answer(columns, rows)[0]

    def answer(self, columns: Columns, rows: NDArray) -> tuple[dict[str, NDArray], Stamps]:
        """Returns the outputs as the call does, and when each stage of the work ended.

        Raises:
          UserError: more rows than the largest bucket.
        """
        n = len(rows)
        if n > self.buckets[-1]:
            raise UserError(f"{n} requests in one call; allowed: at most the largest bucket, {self.buckets[-1]}")
        size = self.bucket_of(n)
        batch = {}
        for name, column in columns.items():
            padded = np.zeros((size, *column.shape[1:]), column.dtype)
            np.take(column, rows, axis=0, out=padded[:n])
            batch[name] = padded
        prepared = time.perf_counter()
        outputs = self.programs[size].executable(self.variables, batch)
        transferred_in = time.perf_counter()
        for value in outputs.values():
            value.block_until_ready()
        computed = time.perf_counter()
        answers = {name: np.asarray(value)[:n] for name, value in outputs.items()}
        return answers, Stamps(prepared, transferred_in, computed, time.perf_counter())

    def _compile(self, answer: Answer, columns: Columns, size: int) -> Program:
        split = whole = None
        shares = 1
        if self.mesh is not None:
            split = whole = NamedSharding(self.mesh, PartitionSpec())
            if size % self.mesh.shape["data"] == 0:
                split, shares = NamedSharding(self.mesh, PartitionSpec("data")), self.mesh.shape["data"]
        shapes = {
            name: jax.ShapeDtypeStruct((size, *c.shape[1:]), c.dtype, sharding=split) for name, c in columns.items()
        }
        start = time.perf_counter()
        lowered = jax.jit(answer, out_shardings=whole).lower(self.variables, shapes)
        executable = lowered.compile()
        compile_s = time.perf_counter() - start
        memory, text = executable.memory_analysis(), executable.as_text()
        asked_for = lowered.as_text()
        counted = SPARSE_ROUTINE not in asked_for  # XLA counts -1 for what a routine of its own does
        allocated = None if memory is None else memory.output_size_in_bytes + memory.temp_size_in_bytes
        return Program(
            batch_size=size,
            shares=shares,
            executable=executable,
            compile_s=compile_s,
            flops=(lowered.cost_analysis() or {}).get("flops") if counted else None,
            bytes_accessed=(executable.cost_analysis() or {}).get("bytes accessed") if counted else None,
            memory_bytes=None if memory is None else allocated + memory.argument_size_in_bytes,
            allocated_bytes=allocated,
            products_asked_for=program_text.products_asked_for(asked_for),
            products=program_text.products(text),
            arguments=program_text.arguments(text),
        )


def compile_final_model(
    model: Any, columns: Columns, buckets: Sequence[int], top_k: int, mesh: Mesh | None = None
) -> CompiledModel:
    """Returns a FinalModel compiled to answer requests in every bucket; on a mesh, if its variables lie on one."""
    return CompiledModel(functools.partial(model.serve, top_k=top_k), model.variables, columns, buckets, mesh)


def _on_mesh(variables: Any, mesh: Mesh) -> Any:
    """Returns the variables on the mesh: whole on every device but for those that lie split on it already."""
    whole = NamedSharding(mesh, PartitionSpec())

    def put(leaf: Any) -> jax.Array:
        lies_on_it = isinstance(leaf, jax.Array) and leaf.sharding.device_set == set(mesh.devices.flat)
        return leaf if lies_on_it else jax.device_put(leaf, whole)

    return jax.tree.map(put, variables)
