"""Texts of real compilers, cut to the lines that matter, and programs that the CPU compiles for eight devices."""

import json
import os
import subprocess
import sys

import pytest

from recjax.hardware.collectives import Collective, bytes_by_kind, collectives
from recjax.hardware.hlo_text import Array

HEADER = "HloModule jit_f, is_scheduled=true, entry_computation_layout={()->f32[8]{0}}, num_partitions=8\n\n"


def in_program(*lines: str, header: str = HEADER) -> str:
    return header + "ENTRY %main.3_spmd (param.1: f32[8,16]) -> f32[8,16] {\n  " + "\n  ".join(lines) + "\n}\n"


def crossing(line: str) -> list[int]:
    return [collective.bytes_crossing for collective in collectives(in_program(line))]


GROUPS = [
    ("replica_groups={{0,1,2,3},{4,5,6,7}}", 4),
    ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", 2),
    ("replica_groups={}", 8),
    ("replica_groups=[2,4]<=[8]", 4),
    ("replica_groups=[4,2]<=[2,4]T(1,0)", 2),
    ("replica_groups=mesh['x'=2,'y'=4] {'y'}", 4),
    ("replica_groups=mesh['x'=2,'y'=4] {'x','y'}", 8),
    ("replica_groups=mesh['x'=2,'y'=4], device_ids=([0,4,1,5,2,6,3,7]) {'x'}", 2),
    ("replica_groups=mesh['x'=8] {'x':(1)2}", 2),
    ("replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}", 1),
]


@pytest.mark.parametrize(("groups", "size"), GROUPS)
def test_a_group_is_as_large_as_the_text_says(groups: str, size: int):
    line = f"%ar = f32[8,16]{{1,0}} all-reduce(%p), channel_id=1, {groups}, use_global_device_ids=true, to_apply=%add"
    (found,) = collectives(in_program(line))
    assert found.group_size == size
    assert found.bytes_crossing == 2 * (size - 1) * 8 * 16 * 4 // size


def test_groups_of_an_unknown_form_are_an_error():
    with pytest.raises(ValueError, match="unknown form"):
        collectives(in_program("%ar = f32[8]{0} all-reduce(%p), replica_groups=<all>, to_apply=%add"))


def test_without_partitions_there_is_one_device():
    header = "HloModule jit_f, is_scheduled=true\n\n"
    text = in_program("%ar = f32[8]{0} all-reduce(%p), replica_groups={}, to_apply=%add", header=header)
    assert [(c.group_size, c.bytes_crossing) for c in collectives(text)] == [(1, 0)]


def test_bytes_that_each_kind_sends():
    eight = "channel_id=1, replica_groups=[1,8]<=[8]"
    assert crossing(f"%a = f32[64,16]{{1,0}} all-gather(%p), {eight}, dimensions={{0}}") == [7 * 8 * 16 * 4]
    assert crossing(f"%a = bf16[8,16]{{1,0}} reduce-scatter(%p), {eight}, dimensions={{0}}") == [7 * 8 * 16 * 2]
    assert crossing(f"%a = s32[8,16]{{1,0}} all-to-all(%p), {eight}, dimensions={{0}}") == [7 * 16 * 4]
    assert crossing(f"%a = s8[8,16]{{1,0}} all-reduce(%p), {eight}, to_apply=%add") == [2 * 7 * 16]
    pairs = "source_target_pairs={{0,1},{1,2},{2,0}}"
    assert crossing(f"%a = f32[8,16]{{1,0}} collective-permute(%p), channel_id=1, {pairs}") == [8 * 16 * 4]
    assert crossing("%a = f32[8,16]{1,0} collective-permute(%p), source_target_pairs={{0,0},{1,1}}") == [0]
    assert crossing(f"%a = pred[64]{{0}} collective-broadcast(%p), {eight}") == [64]


def test_a_tuple_gives_one_collective_for_each_array():
    pieces = ", ".join(["f32[1,16]{1,0}"] * 5 + ["/*index=5*/f32[1,16]{1,0}"] + ["f32[1,16]{1,0}"] * 2)
    line = f"%a = ({pieces}) all-to-all(%p.0, %p.1, %p.2, %p.3, %p.4, /*index=5*/%p.5, %p.6, %p.7), replica_groups={{}}"
    assert crossing(line) == [7 * 16 * 4 // 8] * 8
    line = "%a = (f32[8,16]{1,0}, bf16[4]{0}) all-reduce(%p, %q), replica_groups={}, to_apply=%add"
    found = collectives(in_program(line))
    assert [(c.dtype, c.shape, c.name) for c in found] == [("f32", (8, 16), "a"), ("bf16", (4,), "a")]


def test_an_asynchronous_collective_counts_once_and_not_what_its_type_holds_beside_the_result():
    lines = [
        "%s = (f32[8,16]{1,0}, f32[64,16]{1,0}) all-gather-start(f32[8,16]{1,0} %p), replica_groups={}, dimensions={0}",
        "%d = f32[64,16]{1,0} all-gather-done(%s)",
        "%r = f32[8,16]{1,0} all-reduce-start(%p), replica_groups={}, to_apply=%add",
        "%e = f32[8,16]{1,0} all-reduce-done(%r)",
        "%w = ((f32[8,16]{1,0}), f32[8,16]{1,0}) all-reduce-start(%p), replica_groups={}, to_apply=%add",
        "%v = f32[8,16]{1,0} all-reduce-done(%w)",
        "%c = (f32[8]{0:T(128)}, f32[8]{0:T(128)S(1)}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%p), "
        "source_target_pairs={{0,1},{1,0}}",
        "%f = f32[8]{0:T(128)} collective-permute-done(%c)",
        "%t = ((f32[8,16]{1,0}), f32[8,16]{1,0}, s32[]) all-to-all-start(%p), replica_groups={}, dimensions={0}",
        "%g = f32[8,16]{1,0} all-to-all-done(%t)",
    ]
    found = collectives(in_program(*lines))
    assert [(c.kind, c.shape, c.bytes_crossing) for c in found] == [
        ("all-gather", (64, 16), 7 * 8 * 16 * 4),
        ("all-reduce", (8, 16), 2 * 7 * 16 * 4),
        ("all-reduce", (8, 16), 2 * 7 * 16 * 4),
        ("collective-permute", (8,), 32),
        ("all-to-all", (8, 16), 7 * 16 * 4),
    ]


def test_a_ragged_all_to_all_sends_at_most_its_operand():
    lines = [
        "%rows = f32[80,16]{1,0} parameter(0)",
        "%into = f32[160,16]{1,0} parameter(1)",
        "%a = f32[160,16]{1,0} ragged-all-to-all(%rows, %into, %o, %s, %q, %r), replica_groups=[1,8]<=[8]",
    ]
    (found,) = collectives(in_program(*lines))
    assert (found.kind, found.shape, found.bytes_crossing) == ("ragged-all-to-all", (160, 16), 7 * 10 * 16 * 4)


def test_trips_of_loops_multiply_and_unknown_ones_are_said():
    text = HEADER + (
        "%c (p: f32[8]) -> pred[] {\n  ROOT %q = pred[] custom-call(%p)\n}\n\n"
        "%inner (p: f32[8]) -> f32[8] {\n  ROOT %ar = f32[8]{0} all-reduce(%p), replica_groups={}, to_apply=%add\n}\n\n"
        "%outer (p: f32[8]) -> f32[8] {\n"
        '  %w = f32[8]{0} while(%p), condition=%c, body=%inner, backend_config={"known_trip_count":{"n":"5"}}\n'
        "  ROOT %ag = f32[64]{0} all-gather(%w), replica_groups={}, dimensions={0}\n}\n\n"
        "%open (p: f32[8]) -> f32[8] {\n  ROOT %aa = f32[8]{0} all-to-all(%p), replica_groups={}\n}\n\n"
        "ENTRY %main (p: f32[8]) -> f32[8] {\n"
        '  %v = f32[8]{0} while(%p), condition=%c, body=%outer, backend_config={"known_trip_count":{"n":"3"}}\n'
        "  ROOT %u = f32[8]{0} while(%v), condition=%c, body=%open\n}\n"
    )
    found = collectives(text)
    assert [(c.kind, c.runs, c.runs_known) for c in found] == [
        ("all-reduce", 15, True),
        ("all-gather", 3, True),
        ("all-to-all", 1, False),
    ]
    assert bytes_by_kind(found) == {"all-reduce": 15 * 2 * 7 * 4, "all-gather": 3 * 7 * 8 * 4, "all-to-all": 7 * 4}


def test_a_gather_that_a_tpu_carries_on_through_fusions_counts_where_it_starts():
    gather = (
        " = bf16[64,16]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=8, replica_groups=mesh['x'=8] {'x'}, "
        'dimensions={0}, backend_config={"async_collective_fusion_config":{"flag_start_limit":"-1"}}\n'
    )
    text = HEADER + (
        f"%fused_computation.1 (p: bf16[8,16]) -> bf16[64,16] {{\n  %all-gather.1{gather}"
        '  ROOT %c = bf16[64,16]{1,0} custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"\n}\n\n'
        f"%async_collective_fusion.2 (p: bf16[8,16]) -> bf16[64,16] {{\n  ROOT %all-gather.2{gather}}}\n\n"
        f"%fused_computation.3 (p: bf16[8,16]) -> bf16[64,16] {{\n  %all-gather.3{gather}"
        '  ROOT %d = bf16[64,16]{1,0} custom-call(%all-gather.3), custom_call_target="AsyncCollectiveDone"\n}\n'
    )
    assert collectives(text) == [Collective("all-gather", "bf16", (64, 16), 7 * 8 * 16 * 2, 8, "all-gather.1")]


def test_a_reduce_scatter_that_a_tpu_makes_of_an_all_reduce():
    text = HEADER + (
        "%all-reduce-scatter.1 (input: f32[64,16]) -> f32[8,16] {\n"
        "  %all-reduce.3 = f32[64,16]{1,0} all-reduce(%input), replica_groups={}, to_apply=%add\n"
        "  ROOT %slice = f32[8,16]{1,0} dynamic-slice(%all-reduce.3, %i), dynamic_slice_sizes={8,16}\n}\n"
    )
    (found,) = collectives(text)
    assert (found.kind, found.bytes_crossing) == ("reduce-scatter", 7 * 8 * 16 * 4)


@pytest.mark.parametrize(
    ("dtype", "n_bytes"), [("f32", 12), ("bf16", 6), ("f8e4m3fn", 3), ("pred", 3), ("s4", 2), ("c64", 24)]
)
def test_bytes_of_an_array(dtype: str, n_bytes: int):
    assert Array(dtype, (3,)).n_bytes == n_bytes


PROGRAM = """
import dataclasses, json
import jax, jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec as P
from recjax.hardware.collectives import bytes_by_kind, collectives

mesh = jax.make_mesh((2, 4), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
x = jax.ShapeDtypeStruct((64, 16), jnp.float32)

def found(body, given, made):
    text = jax.jit(jax.shard_map(body, mesh=mesh, in_specs=given, out_specs=made)).lower(x).compile().as_text()
    return bytes_by_kind(collectives(text))

both, swap = ("x", "y"), [(0, 1), (1, 0)]
print(json.dumps([
    found(lambda x: jax.lax.psum(x, "x"), P("x"), P()),
    found(lambda x: jax.lax.psum(x, "y"), P("y"), P()),
    found(lambda x: jax.lax.psum_scatter(x, "y", tiled=True), P("x"), P(both)),
    found(lambda x: jax.lax.all_to_all(x, both, 1, 1, tiled=True), P(both), P(both)),
    found(lambda x: jax.lax.ppermute(x, "x", swap), P(both), P(both)),
    found(lambda x: jax.lax.fori_loop(0, 5, lambda i, c: jax.lax.ppermute(c, "y", swap), x), P("y"), P("y")),
]))
"""


def test_programs_that_the_cpu_compiles_for_eight_devices():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [
        {"all-reduce": 2 * 1 * (32 * 16 * 4) // 2},
        {"all-reduce": 2 * 3 * (16 * 16 * 4) // 4},
        {"reduce-scatter": 3 * (32 * 16 * 4) // 4},
        {"all-to-all": 7 * (8 * 16 * 4) // 8},
        {"collective-permute": 8 * 16 * 4},
        {"collective-permute": 5 * 16 * 16 * 4},
    ]
