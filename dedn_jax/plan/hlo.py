"""Parses a compiled program's HLO text: computations, instructions, and arrays as laid out."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from typing import NamedTuple

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"\b(pred|bf16|[fsuc]\d+\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_OPERATION = re.compile(r"\s*([\w\-]+)\(")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_KNOWN = re.compile(r"known_trip_count\D+?n\D+?(\d+)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_ACCESSED = re.compile(r'"bytes_accessed":"?(\d+)')
_OPENING, _CLOSING = "([{", ")]}"
HBM = 0  # memory space; others are on the chip


class Array(NamedTuple):
    """An array of an instruction's result.

    Attributes:
      space: of memory; 0 is main memory.
      nbytes: as laid out, padded to whole tiles.
      unpadded: bytes of its numbers.
    """

    space: int
    nbytes: int
    unpadded: int

    @property
    def in_hbm(self) -> int:
        """Bytes in main memory: all or none."""
        return self.nbytes if self.space == HBM else 0


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: without `%`.
      op: such as `fusion`.
      arrays: of the result, a tuple's flattened.
      operands: names.
      root: whether it is the computation's result.
      inside: the operand list as written: a parameter's number, a constant's value.
      attributes: the text after the operands.
    """

    name: str
    op: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    root: bool
    inside: str
    attributes: str

    @property
    def called(self) -> tuple[str, ...]:
        """Computations that it names, the scalar functions of reductions among them."""
        names = _CALLED.findall(self.attributes)
        if match := _BRANCHES.search(self.attributes):
            names += [n.strip().lstrip("%") for n in match[1].split(",")]
        return tuple(names)

    @property
    def cycles(self) -> int | None:
        """As the TPU compiler estimates them; None where it does not."""
        match = _CYCLES.search(self.attributes)
        return int(match[1]) if match else None

    @property
    def accessed(self) -> int | None:
        """Bytes that a kernel reads and writes, as it says itself; None where it does not."""
        match = _ACCESSED.search(self.attributes)
        return int(match[1]) if match else None

    def attribute(self, name: str) -> str:
        """The word after `name=`, without `%` and quotes; empty where there is none."""
        match = re.search(rf'\b{name}="?%?([\w.$\-]+)', self.attributes)
        return match[1] if match else ""


@dataclasses.dataclass(frozen=True)
class Module:
    """A program.

    Attributes:
      computations: instructions by name of the computation, in the order of the schedule.
      entry: name of the first one.
    """

    computations: dict[str, tuple[Instruction, ...]]
    entry: str

    @functools.cached_property
    def by_name(self) -> dict[str, dict[str, Instruction]]:
        """Instructions of each computation by their names."""
        return {c: {i.name: i for i in body} for c, body in self.computations.items()}

    def trips(self, loop: Instruction) -> int | None:
        """Iterations of a `while`: its known trip count, or the condition's only constant."""
        if match := _KNOWN.search(loop.attributes):
            return int(match[1])
        condition = self.computations.get(loop.attribute("condition"), ())
        constants = [i.inside for i in condition if i.op == "constant"]
        bounds = [int(text) for text in constants if text.isdecimal()]
        counts_up = any("direction=LT" in i.attributes for i in condition)
        return bounds[0] if len(bounds) == 1 and counts_up else None


def parse(text: str) -> Module:
    """Parses `compiled.as_text()`; what is no instruction is left out."""
    computations: dict[str, list[Instruction]] = {}
    entry, name = "", ""
    for line in text.splitlines():
        if name and (instruction := _instruction(line)):
            computations[name].append(instruction)
        elif line.startswith("}"):
            name = ""
        elif match := _HEAD.match(line):
            name = match[2]
            computations[name] = []
            entry = name if match[1] else entry
    return Module({name: tuple(body) for name, body in computations.items()}, entry)


def arrays(text: str) -> tuple[Array, ...]:
    """The arrays of a shape such as `(f32[2,3]{1,0:T(8,128)}, bf16[4]{0:S(1)})`."""
    return tuple(_array(*match) for match in _ARRAY.findall(text))


def _array(dtype: str, dims: str, layout: str) -> Array:
    shape = tuple(map(int, filter(None, dims.split(","))))
    width = re.search(r"\d+", dtype)  # as in f32, f8e4m3fn; a pred takes a byte
    bits = int(width[0]) if width else 8
    order, _, rest = layout.partition(":")
    space = re.search(r"S\((\d+)\)", rest)
    minor_first = [int(i) for i in order.split(",") if i.strip().isdigit()]
    physical = [shape[i] for i in minor_first] if len(minor_first) == len(shape) else [*shape[::-1]]
    if tile := re.search(r"T\(([\d,]+)\)", rest):
        for i, side in enumerate(reversed([int(n) for n in tile[1].split(",")])):
            if i < len(physical):
                physical[i] = -(-physical[i] // side) * side
    return Array(
        int(space[1]) if space else HBM,
        math.prod(physical) * bits // 8,
        math.prod(shape) * bits // 8,
    )


def _instruction(line: str) -> Instruction | None:
    match = _INSTRUCTION.match(line)
    if not match:
        return None
    text = match[3]
    # The type ends where a bracket that opened it is closed: at the first space outside of all.
    end = _outside(text, " ")
    operation = _OPERATION.match(text, end)
    if not operation:
        return None
    closed = _outside(text, ")", operation.end())
    inside = text[operation.end() : closed]
    return Instruction(
        name=match[2],
        op=operation[1],
        arrays=arrays(text[:end]),
        operands=tuple(_NAME.findall(inside)),
        root=bool(match[1]),
        inside=inside,
        attributes=text[closed + 1 :],
    )


def _outside(text: str, wanted: str, start: int = 0) -> int:
    """Where `wanted` first stands outside of brackets opened after `start`; else the end."""
    depth = 0
    for i in range(start, len(text)):
        if text[i] == wanted and not depth:
            return i
        depth += (text[i] in _OPENING) - (text[i] in _CLOSING)
    return len(text)
