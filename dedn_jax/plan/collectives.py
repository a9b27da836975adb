"""The loops and collectives of a compiled program."""

from __future__ import annotations

import re
from typing import NamedTuple

from dedn_jax.plan.hlo import Instruction, Module, parse

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
)
_SCALAR = ("reduce", "scatter", "sort", "map", "select-and-scatter", "reduce-window")
_CHAIN = re.compile(r'\bchain_id="(\d+)"')
_GROUP = re.compile(r"replica_groups=\{\{([\d,]+)\}|replica_groups=\[\d+,(\d+)\]")


class Traffic(NamedTuple):
    """One kind of collective in one run of the program, on one chip.

    Attributes:
      runs: how often.
      bytes: of the full arrays: what is reduced, or the result of gathering.
      largest: bytes of the largest one.
    """

    runs: int
    bytes: int
    largest: int


class Program(NamedTuple):
    """Collectives and loops of a program.

    Attributes:
      traffic: by kind of collective; loops count as often as they run.
      trips: iterations of every loop; a nested loop is listed for each of its runs.
      unknown_loops: loops whose length the text does not give; they count once.
    """

    traffic: dict[str, Traffic]
    trips: list[int]
    unknown_loops: int


def collective_kind(instruction: Instruction) -> str | None:
    """The kind of collective that an instruction runs or starts; None for others."""
    kind = instruction.op.removesuffix("-start")
    return kind if kind in COLLECTIVES else None


def collective_bytes(instruction: Instruction, chips: int) -> int:
    """Bytes of the full arrays of a collective.

    Args:
      instruction: of a `collective_kind`.
      chips: that take part where it names no groups.
    """
    kind, started = collective_kind(instruction), instruction.op.endswith("-start")
    sizes = [a.unpadded for a in instruction.arrays]
    # A `-start` operation returns its operand too, except for an all-reduce.
    size = max(sizes, default=0) if started and kind != "all-reduce" else sum(sizes)
    if kind != "reduce-scatter" or started:
        return size
    return size * members(instruction, chips)


def members(instruction: Instruction, chips: int) -> int:
    """Chips of a collective's group; `chips` where it names no groups."""
    group = _GROUP.search(instruction.attributes)
    return chips if not group else int(group[2] or len(group[1].split(",")))


def chain(instruction: Instruction) -> str | None:
    """What the pieces of a collective that overlaps other operations have in common."""
    match = _CHAIN.search(instruction.attributes)
    return match[1] if match else None


def runs_inside(instruction: Instruction) -> tuple[str, ...]:
    """Computations that run when the instruction does, scalar functions aside; no loop's."""
    if collective_kind(instruction) or instruction.op in (*_SCALAR, "while"):
        return ()
    return instruction.called


def read_program(text: str, chips: int) -> Program:
    """Counts loops and collectives of `compiled.as_text()`; see `count_program`."""
    return count_program(parse(text), chips)


def count_program(module: Module, chips: int) -> Program:
    """Counts loops and collectives.

    Args:
      module: the program.
      chips: in a collective that names no groups.
    """
    # Runs and bytes of each collective. One that overlaps other operations, those of a loop too, is
    # written once for every piece of it; the pieces have a chain id in common.
    found: dict[tuple[str, str], tuple[int, int]] = {}
    trips: list[int] = []
    unknown = 0

    def visit(name: str, times: int) -> None:
        nonlocal unknown
        for instruction in module.computations.get(name, ()):
            if kind := collective_kind(instruction):
                size = collective_bytes(instruction, chips)
                key = kind, chain(instruction) or f"alone {len(found)}"
                found[key] = min((times, size), found.get(key, (times, size)))
            if instruction.op == "while":
                count = module.trips(instruction)
                unknown += count is None
                trips.extend([count or 1] * times)
                visit(instruction.attribute("body"), times * (count or 1))
            for called in runs_inside(instruction):
                visit(called, times)

    visit(module.entry, 1)
    totals: dict[str, Traffic] = {}
    for (kind, _), (times, size) in sorted(found.items()):
        runs, total, largest = totals.get(kind, Traffic(0, 0, 0))
        totals[kind] = Traffic(runs + times, total + times * size, max(largest, size))
    return Program(totals, trips, unknown)
