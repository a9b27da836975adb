"""Parses a compiled program's HLO text: its loops and its collectives."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
)
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_SHAPE = re.compile(r"\b(pred|bf16|[fsuc]\d+\w*)\[([\d,]*)\]")
_OPERATION = re.compile(r"= (.+?) (" + "|".join(COLLECTIVES) + r")(-start)?\(")
_WHILE = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_KNOWN = re.compile(r"known_trip_count\D+?n\D+?(\d+)")
_CALLED = re.compile(r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_CHAIN = re.compile(r'\bchain_id="(\d+)"')
_GROUP = re.compile(r"replica_groups=\{\{([\d,]+)\}|replica_groups=\[\d+,(\d+)\]")
_CONSTANT = re.compile(r"= s\d+\[\]\S* constant\((\d+)\)")


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


def shape_bytes(text: str) -> list[int]:
    """Bytes of every array of a shape such as `(f32[2,3]{1,0}, bf16[4])`."""
    sizes = []
    for dtype, dims in _SHAPE.findall(text):
        bits = re.search(r"\d+", dtype)  # as in f32, f8e4m3fn; a pred takes a byte
        count = math.prod(map(int, filter(None, dims.split(","))))
        sizes.append(count * (int(bits[0]) if bits else 8) // 8)
    return sizes


def read_program(text: str, chips: int) -> Program:
    """Counts loops and collectives.

    Args:
      text: `compiled.as_text()`.
      chips: in a collective that names no groups.
    """
    bodies, entry = _computations(text)
    # Runs and bytes of each collective. One that overlaps other operations, those of a loop too, is
    # written once for every piece of it; the pieces have a chain id in common.
    found: dict[tuple[str, str], tuple[int, int]] = {}
    trips: list[int] = []
    unknown = 0

    def visit(name: str, times: int) -> None:
        nonlocal unknown
        for line in bodies.get(name, ()):
            if match := _OPERATION.search(line):
                kind, size = match[2], _bytes(line, match[1], match[2], bool(match[3]), chips)
                chain = _CHAIN.search(line)
                key = kind, chain[1] if chain else f"alone {len(found)}"
                found[key] = min((times, size), found.get(key, (times, size)))
            if match := _WHILE.search(line):
                count = _trips(line, bodies.get(match[1], []))
                unknown += count is None
                trips.extend([count or 1] * times)
                visit(match[2], times * (count or 1))
                continue
            for called in _called(line):
                visit(called, times)

    visit(entry, 1)
    totals: dict[str, Traffic] = {}
    for (kind, _), (times, size) in sorted(found.items()):
        runs, total, largest = totals.get(kind, Traffic(0, 0, 0))
        totals[kind] = Traffic(runs + times, total + times * size, max(largest, size))
    return Program(totals, trips, unknown)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of every computation, and the name of the entry."""
    bodies: dict[str, list[str]] = {}
    entry, name = "", ""
    for line in text.splitlines():
        if match := _HEAD.match(line):
            name = match[2]
            bodies[name] = []
            entry = name if match[1] else entry
        elif line.startswith("}"):
            name = ""
        elif name:
            bodies[name].append(line)
    return bodies, entry


def _called(line: str) -> list[str]:
    """Computations that a line calls, other than the scalar function of a reduction."""
    if _OPERATION.search(line) or " reduce(" in line or " scatter(" in line or " sort(" in line:
        return []
    names = _CALLED.findall(line)
    if match := _BRANCHES.search(line):
        names += [n.strip().lstrip("%") for n in match[1].split(",")]
    return names


def _trips(line: str, condition: list[str]) -> int | None:
    """Iterations of a loop: its known trip count, or its only constant bound."""
    if match := _KNOWN.search(line):
        return int(match[1])
    bounds = [int(m[1]) for c in condition if (m := _CONSTANT.search(c))]
    counts_up = any("direction=LT" in c for c in condition)
    return bounds[0] if len(bounds) == 1 and counts_up else None


def _bytes(line: str, shape: str, kind: str, started: bool, chips: int) -> int:
    sizes = shape_bytes(shape)
    # A `-start` operation returns its operand too, except for an all-reduce.
    size = max(sizes, default=0) if started and kind != "all-reduce" else sum(sizes)
    if kind != "reduce-scatter" or started:
        return size
    group = _GROUP.search(line)
    members = chips if not group else int(group[2] or len(group[1].split(",")))
    return size * members
