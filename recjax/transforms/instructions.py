"""Which narrow dots this machine's processor has instructions for."""

import functools
from pathlib import Path

INT8_DOTS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
BFLOAT16_DOTS = frozenset({"avx512_bf16", "avx_ne_convert", "amx_bf16", "bf16"})


def cpu_has(instructions: frozenset[str]) -> bool:
    """Returns whether the processor names any of the instruction sets; False where it cannot be asked."""
    return not instructions.isdisjoint(_cpu_flags())


@functools.cache
def _cpu_flags() -> frozenset[str]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), ":")
    return frozenset(flags.partition(":")[2].split())
