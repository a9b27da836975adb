"""Cycles of Pallas kernels, from the instruction bundles that libtpu writes where it is asked to.

HLO has no estimate for a kernel. Its final code has: a bundle takes a cycle, a loop's as often as
the loop runs. Waiting for copies between main memory and the chip is not in it. A loop that copies
what there is of a block at an array's end has no known length; it is short, and counts as one turn.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

_PASS = "final_bundles"
_FILE = re.compile(rf"-([\w.\-]+)-\d+-{_PASS}\.txt$")
_BUNDLE = re.compile(r"^\s*(?:0x)?[0-9a-f]+\s+(?:[A-Z]{2})?\s*:\s*(>*) *\{(\}?)")
_EXIT = re.compile(r"totalorder %\w+, (\d+) /\* loop exit test")
_PIPELINED = "stage = 1"
_COMPUTES = re.compile(r"= v(?!(?:ld|st)\b)")  # a vector instruction but loads and stores


def libtpu_arguments(folder: Path) -> str:
    """`LIBTPU_INIT_ARGS` that write the final code of every instruction into `folder`."""
    return (
        f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true "
        f"--xla_jf_dump_llo_pass_label_regex=^{_PASS}$"
    )


def kernel_cycles(folder: Path, kernels: Iterable[str]) -> dict[str, float]:
    """Cycles of one run of each kernel whose code is in `folder`.

    Args:
      folder: of `libtpu_arguments`.
      kernels: names of their instructions.
    """
    wanted, found = set(kernels), {}
    for path in sorted(folder.iterdir()) if wanted and folder.is_dir() else ():
        match = _FILE.search(path.name)
        name = match[1].removesuffix("-schedule-analysis") if match else ""
        if name in wanted and "schedule-analysis" not in path.name:
            cycles = count_cycles(path.read_text(errors="replace"))
            if cycles is not None:
                found[name] = cycles
    return found


@dataclasses.dataclass
class _Loop:
    """A loop whose end is not reached yet.

    Attributes:
      pipelined: whether it is that of the grid, whose copies run a turn ahead and a turn behind.
      cycles: of a turn, as far as read.
      turns: None while unknown.
      computes: whether there is more in it than copies.
    """

    pipelined: bool = False
    cycles: float = 0.0
    turns: int | None = None
    computes: bool = False


def count_cycles(text: str) -> float | None:
    """Cycles of a kernel's final code; None where a loop's length is not in it."""
    stack = [_Loop(turns=1)]
    for line in text.splitlines():
        match = _BUNDLE.match(line)
        if not match:
            continue
        # An empty bundle, a delay, is not marked with the loops that it is in.
        depth = len(stack) - 1 if match[2] else len(match[1])
        if not _close(stack, depth):
            return None
        while len(stack) - 1 < depth:
            stack.append(_Loop(pipelined=len(stack) == 1 and _PIPELINED in line))
        stack[-1].cycles += 1
        stack[-1].computes |= bool(_COMPUTES.search(line))
        if depth and (bound := _EXIT.search(line)):
            # The first and the last turn of the grid only copy.
            stack[-1].turns = max(1, int(bound[1]) - 2 * stack[-1].pipelined)
    return stack[0].cycles or None if _close(stack, 0) else None


def _close(stack: list[_Loop], depth: int) -> bool:
    """Adds loops deeper than `depth` to those around them; False where one of unknown length
    computes.
    """
    while len(stack) - 1 > depth:
        loop = stack.pop()
        if loop.turns is None and loop.computes:
            return False
        stack[-1].cycles += loop.cycles * (loop.turns or 1)
        stack[-1].computes |= loop.computes
    return True
