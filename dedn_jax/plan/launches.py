"""What a program for a GPU launches and moves, and what its kernels use; none of it timed."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dedn_jax.plan.hbm import FREE, moved
from dedn_jax.plan.hlo import Instruction, Module

# They launch nothing, or what they launch is in what they call.
_NOTHING = FREE - {"iota"}
_ENTRY = re.compile(r"\.entry\s+([\w$]+)")
_TARGET = re.compile(r"\.target\s+(\w+)")
_REGISTERS = re.compile(r"Used (\d+) registers")
_SPILLED = re.compile(r"(\d+) bytes spill (?:stores|loads)")


class Kernel(NamedTuple):
    """What the assembler says of a kernel.

    Attributes:
      name: of its function.
      registers: of a thread.
      spilled: bytes that a thread stores and loads because it lacks registers.
      matrix_units: whether it multiplies by `wgmma` or `mma`.
    """

    name: str
    registers: int
    spilled: int
    matrix_units: bool


def count_launches(module: Module) -> dict[str, int]:
    """Launches of a step, those in loops as often as they run, and the bytes that they move.

    XLA may put several into a CUDA graph, which is launched as one: the text does not say which.
    """
    launches = looped = read = written = 0
    for computation, instruction, runs, in_loop in _executed(module, module.entry, 1, False):
        here = moved(module, computation, instruction)
        launches += runs
        looped += runs * in_loop
        read += runs * here.read
        written += runs * here.written
    return {"launches": launches, "in_loops": looped, "read": read, "written": written}


def _executed(
    module: Module, computation: str, runs: int, in_loop: bool
) -> Iterator[tuple[str, Instruction, int, bool]]:
    """Instructions that launch something, how often they run, and whether in a loop."""
    for instruction in module.computations.get(computation, ()):
        if instruction.op == "while":
            turns = module.trips(instruction) or 1
            for name in ("body", "condition"):
                called = instruction.attribute(name)
                yield from _executed(module, called, runs * turns, True)
        elif instruction.op in ("call", "conditional"):
            for called in instruction.called:
                yield from _executed(module, called, runs, in_loop)
        elif instruction.op not in _NOTHING and not instruction.op.endswith("-done"):
            yield computation, instruction, runs, in_loop


def assemble(folder: Path, tools: Path) -> list[Kernel]:
    """Assembles the kernels that XLA wrote into `folder` as PTX.

    Args:
      folder: of `--xla_dump_to`.
      tools: of `gpus.cuda_tools`.
    """
    return [
        kernel
        for path in sorted(folder.glob("*.ptx"))
        if (kernel := _assemble(path, tools / "bin/ptxas")) is not None
    ]


def _assemble(path: Path, assembler: Path) -> Kernel | None:
    text = path.read_text(errors="replace")
    entry, target = _ENTRY.search(text), _TARGET.search(text)
    if not entry or not target:
        return None  # constants alone
    command = [str(assembler), "-v", f"-arch={target[1]}", str(path), "-o", "/dev/null"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    registers = _REGISTERS.search(done.stderr + done.stdout)
    if not registers:
        return None
    spilled = sum(map(int, _SPILLED.findall(done.stderr + done.stdout)))
    units = "wgmma." in text or "mma.sync" in text
    return Kernel(entry[1], int(registers[1]), spilled, units)


def summary(kernels: list[Kernel]) -> dict[str, Any]:
    """Of all kernels, for JSON."""
    return {
        "kernels": len(kernels),
        "most_registers": max((k.registers for k in kernels), default=0),
        "spilling": {k.name: k.spilled for k in kernels if k.spilled},
        "with_matrix_units": sum(k.matrix_units for k in kernels),
    }
