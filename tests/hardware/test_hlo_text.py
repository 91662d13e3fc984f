import pytest

from recjax.hardware.hlo_text import Array, parse

TEXT = """HloModule jit_f, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8]{0}}, num_partitions=4

%condition.1 (state: (s32[], f32[8])) -> pred[] {
  %end = s32[]{:T(128)} constant(12)
  %state = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %counter = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %goes_on = pred[]{:T(512)} compare(%counter, %end), direction=LT
}

%body.1 (state.1: (s32[], f32[8])) -> (s32[], f32[8]) {
  %state.1 = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %counter.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %step = s32[]{:T(128)} constant(STEP)
  %next = s32[]{:T(128)} add(%counter.1, %step)
  %values = f32[8]{0:T(128)} get-tuple-element(%state.1), index=1
  ROOT %made = (s32[]{:T(128)}, f32[8]{0:T(128)}) tuple(%next, %values)
}

ENTRY %main.2_spmd (param.1: f32[8]) -> f32[8] {
  %param.1 = f32[8]{0:T(128)} parameter(0), sharding={replicated}, metadata={op_name="x (y)"}
  %start = s32[]{:T(128)} constant(2)
  %copy = s32[]{:T(128)} copy(%start)
  %begin = (s32[]{:T(128)}, /*index=1*/f32[8]{0:T(128)S(1)}) tuple(%copy, %param.1)
  %loop = (s32[]{:T(128)}, f32[8]{0:T(128)}) while(%begin), condition=%condition.1, body=%body.1
  ROOT %out = f32[8]{0:T(128)} get-tuple-element(%loop), index=1
}
"""


def test_a_program_is_read_as_it_stands() -> None:
    program = parse(TEXT.replace("STEP", "1"))
    assert list(program.computations) == ["condition.1", "body.1", "main.2_spmd"]
    assert program.entry == "main.2_spmd"
    assert program.n_devices == 4
    parameter, _, _, begin, loop, out = program.computations["main.2_spmd"]
    assert (parameter.opcode, parameter.argument, parameter.operands) == ("parameter", "0", ())
    assert (begin.operands, begin.arrays[1].shape) == (("copy", "param.1"), (8,))
    assert loop.called == (("condition", "condition.1"), ("body", "body.1"))
    assert out.is_root
    assert program.by_name["main.2_spmd"]["out"] is out


@pytest.mark.parametrize(("step", "trips"), [("1", 10), ("2", 5), ("3", 4), ("0", None)])
def test_trips_of_a_loop_follow_from_its_counter(step: str, trips: int | None) -> None:
    program = parse(TEXT.replace("STEP", step))
    assert program.trips("main.2_spmd", program.by_name["main.2_spmd"]["loop"]) == trips
    assert program.runs["body.1"] == (trips or 1, trips is not None)
    assert program.runs["main.2_spmd"] == (1, True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("direction=LT", "direction=GE"),
        ("%start = s32[]{:T(128)} constant(2)", "%start = s32[]{:T(128)} multiply(%param.1, %param.1)"),
        ("add(%counter.1, %step)", "multiply(%counter.1, %step)"),
        ("constant(12)", "custom-call()"),
    ],
)
def test_another_loop_has_no_known_trips(old: str, new: str) -> None:
    program = parse(TEXT.replace("STEP", "1").replace(old, new))
    assert program.trips("main.2_spmd", program.by_name["main.2_spmd"]["loop"]) is None


def test_trips_that_the_compiler_notes_come_first() -> None:
    noted = 'body=%body.1, backend_config={"known_trip_count":{"n":"7"}}'
    assert parse(TEXT.replace("STEP", "1").replace("body=%body.1", noted)).runs["body.1"] == (7, True)


@pytest.mark.parametrize(
    ("dtype", "shape", "layout", "in_memory"),
    [
        ("f32", (5, 3), "1,0", 60),  # no tiles: as they stand
        ("f32", (5, 3), "1,0:T(8,128)", 8 * 128 * 4),
        ("f32", (5, 3), "0,1:T(8,128)", 128 * 8 * 4),
        ("f32", (2, 300, 130), "2,1,0:T(8,128)", 2 * 304 * 256 * 4),
        ("f32", (1000,), "0:T(1024)", 4096),
        ("bf16", (16, 128), "1,0:T(8,128)(2,1)", 16 * 128 * 2),
        ("f32", (8, 128), "1,0:T(8,128)S(1)", 0),  # in on-chip memory
        ("f32", (), ":T(128)", 4),
        ("pred", (7,), "0", 7),
        ("s4", (7,), "0", 4),
    ],
)
def test_memory_of_an_array(dtype: str, shape: tuple[int, ...], layout: str, in_memory: int) -> None:
    assert Array(dtype, shape, layout).memory_bytes == in_memory
