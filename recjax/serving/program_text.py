"""What the texts of a program say of its products and its arguments; XLA offers no other way to ask.

A lowered program's text is StableHLO, a compiled one's is HLO. Types have HLO's names: s8, s32, f32, bf16, f8e4m3fn.
"""

import collections
import re

_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\w+)\[([\d,]*)\]\S* ([\w\-]+)\((.*)$")
_OPERAND = re.compile(r"(?:(\w+)\[[\d,]*\]\S* )?%([\w.\-]+)")
_LIBRARY_PRODUCTS = re.compile(r'custom_call_target="(__cublas|__cudnn|__onednn\$matmul)|__triton_gemm')


def products_asked_for(lowered: str) -> dict[str, int]:
    """Returns how many products of each kind a lowered program has, as in {"s8 x s8 -> s32": 6}.

    A product in a loop's body counts once.
    """
    signatures = re.findall(r"stablehlo\.dot_general .*: \((.*), (.*)\) -> (.*)", lowered)
    kinds = (tuple(_hlo_type(tensor) for tensor in signature) for signature in signatures)
    found = collections.Counter(f"{left} x {right} -> {result}" for left, right, result in kinds)
    return dict(sorted(found.items()))


def products(text: str | None) -> dict[str, int] | None:
    """Returns how many products of each kind a compiled program has, which may be others than it was asked for.

    XLA on a CPU makes sums of some at batch 1, which are no products here. None where the compiler made library calls
    of them, whose text does not give the types.
    """
    if text is None or _LIBRARY_PRODUCTS.search(text):
        return None
    found: collections.Counter[str] = collections.Counter()
    types: dict[str, str] = {}
    for line in text.splitlines():
        if line.endswith("{") and " = " not in line:
            types = {}  # another computation, with names of its own
        match = _INSTRUCTION.match(line)
        if not match:
            continue
        name, dtype, _, operation, rest = match.groups()
        types[name] = dtype
        if operation == "dot":
            operands = _OPERAND.findall(rest)[:2]
            left, right = (given or types[operand] for given, operand in operands)
            found[f"{left} x {right} -> {dtype}"] += 1
    return dict(sorted(found.items()))


def arguments(text: str | None) -> collections.Counter[str] | None:
    """Returns the arguments that the program reads, as in {"s8[64,32]": 2}; None where there is no text."""
    if text is None:
        return None
    entry = text[text.index("\nENTRY") :]
    return collections.Counter(re.findall(r"= (\w+\[[\d,]*\])\S* parameter\(", entry))


def _hlo_type(tensor: str) -> str:
    """Returns "s8" for "tensor<16x64xi8>"."""
    name = re.sub(r"^tensor<(?:\d+x)*|>.*$", "", tensor)
    return re.sub(r"^i(?=\d)", "s", name).lower()
