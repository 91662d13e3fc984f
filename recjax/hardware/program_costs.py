"""What a compiled program needs of one device: memory, operations, bytes moved, and bytes sent to other devices."""

import dataclasses
from typing import Any

from recjax.hardware.collectives import bytes_by_kind, collectives
from recjax.hardware.memory_traffic import memory_traffic
from recjax.hardware.product_flops import product_flops

SPARSECORE_TABLES = '"offload":"OFFLOAD_EMBEDDING"'  # in the text of a program whose tables lie on SparseCores


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramCosts:
    """What one run of a program needs of one device.

    Attributes:
      argument_bytes: of its inputs.
      output_bytes: of its results.
      alias_bytes: of results that lie where donated inputs were.
      temporary_bytes: of everything in between, at its peak.
      code_bytes: of the program itself.
      flops: by the type of the operands of its products.
      xla_flops: XLA's count, which has elementwise operations and takes every loop for one trip; None where there is
        none, as for GPUs.
      traffic_bytes: read from and written to the device's memory (recjax.hardware.memory_traffic); None where tables
        lie on SparseCores, of whose lookups and updates the program's text says too little.
      collective_bytes: that the device sends to others, by kind; None for the same reason.
      loops_counted_once: whether some of these counts stand for one trip of a loop whose length is not in the program.
    """

    argument_bytes: int
    output_bytes: int
    alias_bytes: int
    temporary_bytes: int
    code_bytes: int
    flops: dict[str, float]
    xla_flops: float | None
    traffic_bytes: int | None
    collective_bytes: dict[str, int] | None
    loops_counted_once: bool

    @property
    def memory_bytes(self) -> int:
        """Returns the memory that the program needs on one device."""
        return self.argument_bytes + self.output_bytes - self.alias_bytes + self.temporary_bytes + self.code_bytes


def program_costs(traced: Any, compiled: Any, n_devices: int) -> ProgramCosts:
    """Returns what the program needs of one device.

    Args:
      traced: `jitted.trace(...)`.
      compiled: `traced.lower().compile()`.
      n_devices: that it runs on.
    """
    memory, text = compiled.memory_analysis(), compiled.as_text()
    found, traffic = collectives(text), memory_traffic(text)
    counted = SPARSECORE_TABLES not in text
    return ProgramCosts(
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        alias_bytes=memory.alias_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
        flops=product_flops(traced, n_devices),
        xla_flops=(compiled.cost_analysis() or {}).get("flops"),
        traffic_bytes=traffic.n_bytes if counted else None,
        collective_bytes=bytes_by_kind(found) if counted else None,
        loops_counted_once=counted and not traffic.loops_known,
    )
