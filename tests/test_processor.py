"""The processor's name, as it stands in a row."""

import os

import pytest

from recjax import processor
from recjax.processor import cpu_model


def test_the_name_counts_the_cores_this_process_may_use() -> None:
    cores = len(os.sched_getaffinity(0))
    name, _, details = cpu_model().partition(" (")
    assert name
    assert details.startswith(f"{cores} core")


@pytest.mark.parametrize(
    ("instructions", "word"),
    [
        ({"avx2", "avx512f", "avx512_vnni", "amx_int8"}, ", AMX)"),
        ({"avx2", "avx512f", "avx512_vnni"}, ", AVX-512 VNNI)"),
        ({"avx2", "avx512f"}, ", AVX-512)"),
        ({"avx2"}, ", AVX2)"),
        ({"asimd", "asimddp"}, ", NEON dot product)"),
        (set(), "s)"),
    ],
)
def test_the_widest_vector_instructions_are_named(
    instructions: set[str], word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(processor, "cpu_instructions", lambda: frozenset(instructions))
    assert cpu_model().endswith(word)
