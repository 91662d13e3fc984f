"""The collectives of a compiled program, and the bytes that each sends to other devices, read from its optimized HLO.

XLA offers no other way to ask. Bytes are counted per device, as an algorithm that sends none twice needs them: of n
devices together (n - 1) / n of an all-gather's result, of a reduce-scatter's operand and of an all-to-all's operand,
twice that of an all-reduce's operand, and the whole operand of a collective-permute.

Source of the counts: Thakur, Rabenseifner and Gropp, Optimization of Collective Communication Operations in MPICH
(2005), whose ring and recursive algorithms reach them.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Sequence

from recjax.hardware.hlo_text import Array, Instruction, parse

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)

_GROUPS_OF_IOTA = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")
_GROUPS_OF_MESH = re.compile(r"replica_groups=\w*mesh\w*\[([^\]]*)\][^{]*\{([^}]*)\}")
_GROUPS_LISTED = re.compile(r"replica_groups=\{(?:\{([\d,]*)\}|\})")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One array that a collective makes; a collective of several arrays gives one of these for each.

    Attributes:
      kind: one of KINDS.
      dtype: of the result, by HLO's name, as in "f32" or "s32".
      shape: of the result on one device.
      bytes_crossing: bytes that a device sends to others each time the instruction runs. Of a ragged all-to-all at
        most: the program does not say how full its operand is.
      group_size: devices that take part together.
      name: of the instruction.
      runs: how often the instruction runs in one run of the program: the trips of the loops around it.
      runs_known: False if one of those loops does not say its trips in the text, and is counted as one.
    """

    kind: str
    dtype: str
    shape: tuple[int, ...]
    bytes_crossing: int
    group_size: int
    name: str
    runs: int = 1
    runs_known: bool = True


def collectives(hlo_text: str) -> list[Collective]:
    """Returns the collectives of an optimized program, `compiled.as_text()`, in the order of the text.

    An asynchronous one counts once, where it starts.

    Raises:
      ValueError: a replica group is written in a way that is not known here.
    """
    program = parse(hlo_text)
    found = []
    for computation, instructions in program.computations.items():
        for instruction in instructions:
            kind = instruction.opcode.removesuffix("-start")
            if kind not in KINDS or goes_on(instruction, instructions):
                continue
            size = _group_size(instruction, program.n_devices)
            # A TPU's reduce-scatter may be a fusion around an all-reduce, of whose result each device keeps a part.
            scatters = kind == "all-reduce" and computation.startswith("all-reduce-scatter")
            for n_bytes, array in _arrays_sent(kind, instruction, instructions):
                found.append(
                    Collective(
                        kind="reduce-scatter" if scatters else kind,
                        dtype=array.dtype,
                        shape=array.shape,
                        bytes_crossing=_crossing(
                            "reduce-scatter" if scatters else kind,
                            n_bytes * size if kind == "reduce-scatter" else n_bytes,
                            size,
                        ),
                        group_size=size,
                        name=instruction.name,
                        runs=program.runs[computation][0],
                        runs_known=program.runs[computation][1],
                    )
                )
    return found


def bytes_by_kind(found: Iterable[Collective]) -> dict[str, int]:
    """Returns the bytes that a device sends in one run of the program by each kind that is there, in KINDS' order."""
    sums = collections.Counter[str]()
    for collective in found:
        sums[collective.kind] += collective.bytes_crossing * collective.runs
    return {kind: sums[kind] for kind in KINDS if kind in sums}


def goes_on(instruction: Instruction, instructions: Sequence[Instruction]) -> bool:
    """Returns whether a fusion carries on, or ends, what another one starts: TPUs show a gather in each of them."""
    if '"async_collective_fusion_config"' not in instruction.attributes:
        return False
    return not any(
        '"AsyncCollectiveStart"' in other.attributes and instruction.name in other.operands for other in instructions
    )


def _arrays_sent(kind: str, instruction: Instruction, instructions: Sequence[Instruction]) -> list[tuple[int, Array]]:
    """Returns the results of a collective, each with its bytes; of a ragged all-to-all with its operand's bytes."""
    first = len(instruction.operands)
    results = list(instruction.arrays)
    # The type of one that starts is operands, results and what the runtime needs beside, or an all-reduce's results.
    if instruction.opcode.endswith("-start") and len(results) > first:
        results = results[first : first + (1 if kind == "ragged-all-to-all" else first)]
    if kind == "ragged-all-to-all":  # data, where it goes to, then offsets and sizes
        (sent,) = (other for other in instructions if other.name == instruction.operands[0])
        return [(sent.arrays[0].n_bytes, results[0])]
    return [(result.n_bytes, result) for result in results]


def _crossing(kind: str, n_bytes: int, n: int) -> int:
    """Returns the bytes that each of a group's n devices sends.

    Args:
      kind: of the collective.
      n_bytes: of a device's result of an all-gather; of its operand otherwise.
      n: devices of the group.
    """
    if kind in ("collective-permute", "collective-broadcast"):
        return n_bytes if n > 1 else 0
    return (2 if kind == "all-reduce" else 1) * (n - 1) * n_bytes // n


def _group_size(instruction: Instruction, n_devices: int) -> int:
    """Returns the devices of a collective's first group; the compiler makes groups of one size.

    Groups are listed, `{{0,1},{2,3}}`, `{}` being all devices; or `[groups,size]<=[...]`, the rows of all devices in
    some order; or axes of a mesh, `mesh['x'=2,'y'=4] {'y'}`, where `'y':(1)2` is a part of an axis.
    """
    text = instruction.attributes
    if instruction.opcode.startswith("collective-permute"):
        pairs = re.findall(r"\{(\d+),(\d+)\}", text.partition("source_target_pairs={")[2].partition("}}")[0] + "}")
        return max(1, len({device for source, target in pairs if source != target for device in (source, target)}))
    if match := _GROUPS_OF_IOTA.search(text):
        return int(match[1])
    if match := _GROUPS_OF_MESH.search(text):
        sizes = {name: int(size) for name, size in re.findall(r"'?([^',=\s]+)'?=(\d+)", match[1])}
        axes = re.findall(r"'?([^',:\s]+)'?(?::\(\d+\)(\d+))?(?:,|$)", match[2])
        return math.prod(int(part) if part else sizes[name] for name, part in axes)
    if match := _GROUPS_LISTED.search(text):
        return len(match[1].split(",")) if match[1] else n_devices
    if "replica_groups=" in text:
        raise ValueError(f"replica groups of an unknown form in {text[:300]!r}")
    return n_devices
