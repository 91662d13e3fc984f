"""The words of devices, by a table written by hand from their makers' documents (recjax.transforms.support)."""

import pytest

from recjax.transforms import support
from recjax.transforms.mixed_precision import mixed_precision
from recjax.transforms.quantize import quantize
from recjax.transforms.support import dot_support

N, E = "native", "emulated"
TYPES = ("float32", "bfloat16", "float16", "int8", "int4", "fp8")
BY_PLATFORM = {
    "cuda": (N, E, E, E, E, E),  # of unknown capability
    "cuda:6.1": (N, E, E, E, E, E),  # P40: its int8 instruction, DP4A, is not of the tensor cores that XLA uses
    "cuda:7.0": (N, E, N, E, E, E),  # V100
    "cuda:7.5": (N, E, N, N, E, E),  # T4
    "cuda:8.0": (N, N, N, N, E, E),  # A100
    "cuda:8.9": (N, N, N, N, E, N),  # L4
    "cuda:9.0": (N, N, N, N, E, N),  # H100
    "cuda:10.0": (N, N, N, N, E, N),  # B200
    "tpu": (N, N, E, E, E, E),
    "tpu:v4": (N, N, E, E, E, E),
    "tpu:v5e": (N, N, E, N, E, E),
    "tpu:v5p": (N, N, E, N, E, E),
    "tpu:v6e": (N, N, E, N, E, E),
    "tpu:v7x": (N, N, E, E, E, N),
}
BY_INSTRUCTIONS = {
    ("avx2",): (N, E, E, E, E, E),
    ("avx2", "avx512f"): (N, E, E, E, E, E),
    ("avx512f", "avx512_vnni"): (N, E, E, N, E, E),
    ("avx512f", "avx512_vnni", "avx512_bf16"): (N, N, E, N, E, E),
    ("avx_vnni",): (N, E, E, N, E, E),
    ("amx_int8", "amx_bf16"): (N, N, E, N, E, E),
    ("asimd", "asimddp"): (N, E, E, N, E, E),
    ("asimd", "i8mm", "bf16"): (N, N, E, N, E, E),
    (): (N, E, E, E, E, E),  # a system that does not tell
}


@pytest.mark.parametrize("platform", BY_PLATFORM)
def test_accelerators(platform: str):
    assert tuple(dot_support(platform, dot_type) for dot_type in TYPES) == BY_PLATFORM[platform]


@pytest.mark.parametrize("instructions", BY_INSTRUCTIONS, ids=" ".join)
def test_processors(instructions: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(support, "cpu_instructions", lambda: frozenset(instructions))
    assert tuple(dot_support("cpu", dot_type) for dot_type in TYPES) == BY_INSTRUCTIONS[instructions]


def test_a_transform_of_several_types_has_the_weakest_word():
    some_fp8 = quantize(layer_bits=(("top_mlp/.*", "fp8"),))
    assert [some_fp8.support(platform) for platform in ("cuda:9.0", "cuda:8.0", "tpu:v7x", "tpu:v6e")] == [N, E, E, E]
    some_fp16 = mixed_precision(policy=(("top_mlp/.*", "float16"),))
    assert [some_fp16.support(platform) for platform in ("cuda:8.0", "cuda:7.0", "tpu:v6e")] == [N, E, E]


def test_four_bits_are_multiplied_in_bytes():
    assert [quantize(4).support(platform) for platform in ("cuda:7.5", "cuda:7.0", "tpu:v6e")] == [N, E, N]
    assert quantize(4, activation_bits=4).support("cuda:8.0") == N
    assert quantize(4, weight_only=True).support("cuda:8.0") == E
