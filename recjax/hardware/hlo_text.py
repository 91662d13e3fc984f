"""Reads the text of an optimized HLO program, `compiled.as_text()`: its computations, instructions and arrays.

The text is the only form of a program for an absent device that says what the compiler made of it.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence

_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*)?\{$")
_NAME = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = ")
_CALLED = re.compile(r"(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"(?:branch_computations|called_computations)=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Array:
    """One array in the type of an instruction.

    Attributes:
      dtype: HLO's name, as "f32", "s8" or "pred".
      shape: on one device.
      layout: what stands in braces behind it: the order of its axes, a TPU's tiles and the memory that it lies in.
    """

    dtype: str
    shape: tuple[int, ...]
    layout: str = ""

    @property
    def bits(self) -> int:
        """Returns the bits of one value: 8 of "pred" and of "f8e4m3fn", 4 of "s4"."""
        return 8 if self.dtype == "pred" else int(re.sub(r"^[a-z]+(\d+).*", r"\1", self.dtype))

    @property
    def n_bytes(self) -> int:
        """Returns the bytes of all values, one behind the other."""
        return -(-math.prod(self.shape) * self.bits // 8)

    @property
    def memory_bytes(self) -> int:
        """Returns the bytes that it takes in the device's main memory: with a TPU's padding, 0 where it lies elsewhere.

        A TPU pads the last two axes to its tile, T(8,128) say, and marks on-chip memory by S(1).
        """
        axes, _, marks = self.layout.partition(":")
        if "T(" not in marks:
            return self.n_bytes
        if re.search(r"S\([1-9]", marks):
            return 0
        shape = list(self.shape)
        tile = [int(size) for size in marks[2 : marks.index(")")].split(",")]
        order = [int(axis) for axis in axes.split(",") if axis]
        for axis, size in zip(order, reversed(tile), strict=False):
            shape[axis] = -(-shape[axis] // size) * size
        return -(-math.prod(shape) * self.bits // 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation: `%name = type opcode(%operand, ...), attributes`."""

    name: str
    type_text: str
    opcode: str
    operands: tuple[str, ...]
    argument: str  # what stands in the parentheses; the number of a parameter
    attributes: str
    is_root: bool

    @functools.cached_property
    def arrays(self) -> tuple[Array, ...]:
        """Returns every array of the result, which may be a tuple of tuples."""
        return tuple(
            Array(dtype, tuple(int(size.removeprefix("<=")) for size in sizes.split(",") if size), layout)
            for dtype, sizes, layout in _ARRAY.findall(self.type_text)
        )

    @functools.cached_property
    def called(self) -> tuple[tuple[str, str], ...]:
        """Returns what it calls, as (role, computation), ("body", "region_0") say; the role of a choice is "branch"."""
        branches = [name for group in _BRANCHES.findall(self.attributes) for name in re.findall(r"[\w.\-]+", group)]
        return (*_CALLED.findall(self.attributes), *(("branch", name) for name in branches))


Computations = Mapping[str, Sequence[Instruction]]


@dataclasses.dataclass(frozen=True)
class Program:
    """A module's computations by name, callees before callers, and which one is run."""

    computations: Computations
    entry: str
    n_devices: int

    @functools.cached_property
    def by_name(self) -> Mapping[str, Mapping[str, Instruction]]:
        """Returns the instructions of each computation by their names."""
        return {name: {i.name: i for i in instructions} for name, instructions in self.computations.items()}

    @functools.cached_property
    def runs(self) -> dict[str, tuple[int, bool]]:
        """Returns how often each computation runs in one run of the program, and whether that is known.

        The body of a loop whose trips the text does not say counts once.
        """
        runs: dict[str, tuple[int, bool]] = {}
        for caller, instructions in reversed(list(self.computations.items())):  # callers first
            times, known = runs.setdefault(caller, (1, True))
            for instruction in instructions:
                loops = instruction.opcode == "while"
                trips = self.trips(caller, instruction) if loops else 1
                for role, name in instruction.called:
                    before, all_known = runs.get(name, (0, True))
                    here = (trips or 1) if role == "body" else 1
                    runs[name] = before + times * here, all_known and known and trips is not None
        return runs

    def trips(self, computation: str, loop: Instruction) -> int | None:
        """Returns how often a loop's body runs, None where the text does not say.

        XLA notes it for CPUs and GPUs. For TPUs it follows from a loop as JAX makes them: a counter that begins with a
        constant, grows by another and stays below a third.
        """
        if match := _TRIPS.search(loop.attributes):
            return int(match[1])
        called = dict(loop.called)
        condition, body = self.computations[called["condition"]], self.computations[called["body"]]
        test = next(i for i in condition if i.is_root)
        if test.opcode != "compare" or "direction=LT" not in test.attributes:
            return None
        place = self._place(called["condition"], test.operands[0])
        end = self._constant(called["condition"], test.operands[1])
        after = next(i for i in body if i.is_root)
        state = self.by_name[computation][loop.operands[0]]
        if place is None or end is None or after.opcode != "tuple" or state.opcode != "tuple":
            return None
        start = self._constant(computation, state.operands[place])
        growth = self.by_name[called["body"]][after.operands[place]]
        if start is None or growth.opcode != "add" or self._place(called["body"], growth.operands[0]) != place:
            return None
        step = self._constant(called["body"], growth.operands[1])
        return -(-(end - start) // step) if step else None

    def _place(self, computation: str, name: str) -> int | None:
        """Returns which element of a loop's state the instruction is, None if it is none."""
        instruction = self.by_name[computation][name]
        if instruction.opcode == "copy":
            return self._place(computation, instruction.operands[0])
        match = re.search(r"index=(\d+)", instruction.attributes)
        return int(match[1]) if instruction.opcode == "get-tuple-element" and match else None

    def _constant(self, computation: str, name: str) -> int | None:
        """Returns the value of an integer constant, None if the instruction is none."""
        instruction = self.by_name[computation][name]
        if instruction.opcode in ("copy", "bitcast"):
            return self._constant(computation, instruction.operands[0])
        whole = instruction.opcode == "constant" and re.fullmatch(r"-?\d+", instruction.argument)
        return int(instruction.argument) if whole else None


def parse(hlo_text: str) -> Program:
    """Returns the program of an optimized module's text."""
    computations: dict[str, list[Instruction]] = {}
    entry, instructions = "", list[Instruction]()
    for line in hlo_text.splitlines():
        if match := _COMPUTATION.match(line):
            instructions = computations.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
        elif match := _NAME.match(line):
            instructions.append(_instruction(line[match.end() :], match[2], is_root=match[1] is not None))
    header = hlo_text.split("\n", 1)[0]
    counts = re.findall(r"(?:num_partitions|replica_count)=(\d+)", header)
    return Program(computations, entry, math.prod(int(count) for count in counts))


def _instruction(text: str, name: str, *, is_root: bool) -> Instruction:
    """Returns the instruction whose line goes on with `text` after the name."""
    end = 1 + _closing(text, 1) if text.startswith("(") else text.index(" ")
    type_text, text = text[:end], text[end:].lstrip()
    opcode, _, text = text.partition("(")
    end = _closing(text, 0)
    argument = text[:end]
    operands = tuple(re.findall(r"%([\w.\-]+)", argument))
    return Instruction(name, type_text, opcode, operands, argument, text[end + 1 :], is_root)


def _closing(text: str, start: int) -> int:
    """Returns where the parenthesis closes that stands open at `start`."""
    depth = 1
    for match in re.finditer(r"[()]", text[start:]):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return start + match.start()
    return len(text)
