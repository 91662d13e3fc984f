"""What a device multiplies as such: the word that every result row carries.

A platform is "cpu", "cuda" or "tpu", with a compute capability or a generation where it is known, as in "cuda:9.0" or
"tpu:v6e". Without one, only what every supported device of the kind has counts as native.

Sources: NVIDIA, CUDA C++ Programming Guide (18. compute capabilities) and the data sheets of T4 (int8), A100 (bf16)
and H100 (fp8); Google Cloud, TPU v4, v5e, v5p, v6e and TPU7x pages, whose peak rates name int8 from v5e on and fp8 for
TPU7x. A processor's own instructions are read from the machine.
"""

from typing import Literal

from recjax.processor import cpu_instructions

Support = Literal["native", "emulated", "none"]

INT8_DOTS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
BFLOAT16_DOTS = frozenset({"avx512_bf16", "avx_ne_convert", "amx_bf16", "bf16"})

_CPU_INSTRUCTIONS = {"int8": INT8_DOTS, "bfloat16": BFLOAT16_DOTS}
_CUDA_CAPABILITY = {"int8": 7.5, "bfloat16": 8.0, "float16": 7.0, "fp8": 8.9}
_TPU_GENERATIONS = {
    "bfloat16": ("v2", "v3", "v4", "v5e", "v5p", "v6e", "v7x"),
    "int8": ("v5e", "v5p", "v6e"),
    "fp8": ("v7x",),
}


def dot_support(platform: str, dot_type: str) -> Support:
    """Returns whether the device has instructions for products of "int8", "int4", "fp8", "bfloat16" or "float16".

    "emulated": results are right, but values are widened first, so that the product costs what a wide one does.
    """
    if dot_type == "float32":
        return "native"
    name, _, version = platform.partition(":")
    if name == "cpu":
        return "native" if cpu_instructions() & _CPU_INSTRUCTIONS.get(dot_type, frozenset()) else "emulated"
    if name == "cuda":
        least = _CUDA_CAPABILITY.get(dot_type)
        return "native" if least is not None and version and float(version) >= least else "emulated"
    generations = _TPU_GENERATIONS.get(dot_type, ())
    return "native" if version in generations or (dot_type == "bfloat16" and not version) else "emulated"
