"""The bytes that a compiled program reads from and writes to a device's main memory, counted in its optimized HLO.

XLA's own count, "bytes accessed", takes a lookup of a few rows on a TPU for a pass over the whole table, and does not
exist on a GPU. Here every instruction that is not inside a fusion reads its operands and writes its result once, but
for lookups and updates in place, which touch the rows they name, and for what lies in a TPU's on-chip memory. What a
sort or a collective moves beyond that, and what stays in a GPU's cache, is not counted.
"""

from collections.abc import Sequence
from typing import NamedTuple

from recjax.hardware.collectives import goes_on
from recjax.hardware.hlo_text import Instruction, Program, parse

# What moves nothing: names, views, and what is counted elsewhere (a loop's body, an asynchronous start).
FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier", "domain")
VIEWS = frozenset(("bitcast", "convert", "copy", "reshape", "transpose"))  # a fused lookup looks through these
CONTROL = ("while", "conditional", "call", "async-start", "call-start")
NO_TRAFFIC_CALLS = ('"AllocateBuffer"', '"AsyncCollectiveDone"')


class Traffic(NamedTuple):
    """What one run of a program reads from and writes to a device's memory.

    Attributes:
      n_bytes: both together.
      loops_known: False if a loop whose trips the text does not say is counted as one of them.
    """

    n_bytes: int
    loops_known: bool


def memory_traffic(hlo_text: str) -> Traffic:
    """Returns the bytes that one run of an optimized program, `compiled.as_text()`, moves on each device."""
    program = parse(hlo_text)
    total, known, waiting, counted = 0, True, [program.entry], {program.entry}
    while waiting:
        computation = waiting.pop()
        runs, runs_known = program.runs[computation]
        known = known and runs_known
        for instruction in program.computations[computation]:
            total += _traffic(program, computation, instruction) * runs
            if instruction.opcode in CONTROL:
                new = [name for _, name in instruction.called if name not in counted and name in program.computations]
                counted.update(new)
                waiting += new
    return Traffic(total, known)


def _traffic(program: Program, computation: str, instruction: Instruction) -> int:
    """Returns what one instruction outside a fusion reads and writes."""
    opcode = instruction.opcode
    ends = opcode.endswith(("-done", "-update"))
    if opcode in (*FREE, *CONTROL) or ends or any(target in instruction.attributes for target in NO_TRAFFIC_CALLS):
        return 0
    if opcode == "fusion":
        return _fusion(program, computation, instruction)
    operands = [_find(program, computation, name) for name in instruction.operands]
    sizes = [_size(operand) for operand in operands]
    result = _size(instruction)
    if opcode == "copy-start":  # its type is result, operand, and what the runtime needs beside
        return sizes[0] + instruction.arrays[0].memory_bytes
    if opcode.endswith("-start"):  # operands, results, and what the runtime needs beside
        return sum(sizes) + sum(array.memory_bytes for array in instruction.arrays[len(sizes) : 2 * len(sizes)])
    match opcode:
        case "gather":
            return 2 * result + sizes[1]
        case "dynamic-slice" | "slice":
            return 2 * result
        case "dynamic-update-slice":
            return 2 * sizes[1]
        case "scatter":
            return _scattered(operands)
    return sum(sizes) + result


def _scattered(operands: list[Instruction]) -> int:
    """Returns what a scatter moves: indices and updates are read, and the rows they name read and written."""
    n_tables = (len(operands) - 1) // 2
    return _size(operands[n_tables]) + 3 * sum(_size(update) for update in operands[n_tables + 1 :])


def _fusion(program: Program, computation: str, instruction: Instruction) -> int:
    """Returns what a fusion reads and writes: an array whole, or of one that it looks rows up in, those rows."""
    fused = instruction.called[0][1]
    total = 0
    for number, name in enumerate(instruction.operands):
        whole = _size(_find(program, computation, name))
        total += min(whole, _read(program, fused, number)) if whole else 0
    root = next(inner for inner in program.computations[fused] if inner.is_root)
    parts = [_find(program, fused, name) for name in root.operands] if root.opcode == "tuple" else [root]
    for array, part in zip(instruction.arrays, parts, strict=False):
        total += min(array.memory_bytes, _written(program, fused, part))
    return total


def _read(program: Program, fused: str, number: int) -> int:
    """Returns what a fused computation reads of its parameter `number`."""
    instructions = program.computations[fused]
    parameter = next(i for i in instructions if i.opcode == "parameter" and i.argument == str(number))
    whole, itemsize = _size(parameter), max(1, parameter.arrays[0].bits // 8) if parameter.arrays else 1
    total, waiting = 0, [parameter.name]
    while waiting:
        source = waiting.pop()
        for user in instructions:
            for position in (p for p, name in enumerate(user.operands) if name == source):
                if user.opcode in VIEWS and not user.is_root:
                    waiting.append(user.name)
                elif user.opcode in ("gather", "dynamic-slice", "slice") and position == 0:
                    total += sum(array.n_bytes * 8 // array.bits for array in user.arrays) * itemsize
                elif user.opcode == "scatter" and position < (len(user.operands) - 1) // 2:
                    total += _size(_find(program, fused, user.operands[(len(user.operands) + 1) // 2]))
                elif user.opcode == "fusion":
                    total += _read(program, user.called[0][1], position)
                elif not _passes(user, position, instructions):
                    return whole
    return total


def _passes(user: Instruction, position: int, instructions: Sequence[Instruction]) -> bool:
    """Returns whether an operand only passes through: updated in place, handed on, or gathered by another fusion."""
    in_place = user.opcode == "dynamic-update-slice" and position == 0
    return in_place or (user.opcode == "tuple" and user.is_root) or goes_on(user, instructions)


def _written(program: Program, fused: str, part: Instruction) -> int:
    """Returns what a fused computation writes of one of its results: of one updated in place the updates."""
    instructions = program.computations[fused]
    match part.opcode:
        case "bitcast":
            return _written(program, fused, _find(program, fused, part.operands[0]))
        case "dynamic-update-slice":
            return _size(_find(program, fused, part.operands[1]))
        case "scatter":
            return _size(_find(program, fused, part.operands[(len(part.operands) + 1) // 2]))
        case "fusion":
            inner = part.called[0][1]
            root = next(i for i in program.computations[inner] if i.is_root)
            return _written(program, inner, root) if root.opcode != "tuple" else _size(part)
        case "parameter":
            return 0
    return 0 if goes_on(part, instructions) else _size(part)


def _find(program: Program, computation: str, name: str) -> Instruction:
    return program.by_name[computation][name]


def _size(instruction: Instruction) -> int:
    return sum(array.memory_bytes for array in instruction.arrays)
