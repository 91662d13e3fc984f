"""This machine's processor: its name, its cores, and the vector instructions that int8 and bfloat16 products need."""

import functools
import os
import platform
from pathlib import Path

# From the widest to the narrowest, by the flag that the kernel gives; the first that a processor has names it.
VECTOR_INSTRUCTIONS = {
    "amx_int8": "AMX",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx2": "AVX2",
    "i8mm": "NEON I8MM",
    "asimddp": "NEON dot product",
    "asimd": "NEON",
}


def cpu_model() -> str:
    """Returns the processor's name, the number of cores this process may use and the widest vector instructions.

    Processors of one name can differ in the instructions, hence by a factor in the speed of int8 products.
    """
    names = [value for key, value in _cpuinfo() if key == "model name"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    details = f"{cores} core{'s' * (cores != 1)}"
    widest = next((word for flag, word in VECTOR_INSTRUCTIONS.items() if flag in cpu_instructions()), None)
    if widest:
        details += f", {widest}"
    return f"{names[0] if names else platform.processor() or platform.machine()} ({details})"


@functools.cache
def cpu_instructions() -> frozenset[str]:
    """Returns the instruction sets by the names that Linux gives them; none where the system does not tell."""
    flags = [value for key, value in _cpuinfo() if key in ("flags", "Features")]
    return frozenset(flags[0].split()) if flags else frozenset()


@functools.cache
def _cpuinfo() -> tuple[tuple[str, str], ...]:
    """Returns the keys and values of all processors, in order."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    pairs = (line.partition(":") for line in lines)
    return tuple((key.strip(), value.strip()) for key, _, value in pairs)
