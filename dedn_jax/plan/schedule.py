"""Replays the schedule of a compiled TPU program: when each operation would begin and end.

The compiler schedules instructions in the order of the text, with an estimate of cycles for each.
Copies that it starts ahead run beside them, through main memory, one after another; so do
collectives, through the links between chips. An operation takes the longer of its cycles and of
the bytes that it moves through main memory itself. Nothing here was measured on a chip.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dedn_jax.plan.chips import Slice
from dedn_jax.plan.collectives import chain, collective_bytes, collective_kind, members, runs_inside
from dedn_jax.plan.exchange import Exchange, exchange
from dedn_jax.plan.hbm import KERNEL, Moved, moved
from dedn_jax.plan.hlo import Instruction, Module

# The compiler estimates 1.21 microseconds for an operation on next to nothing, on every chip.
_STARTING = 1.25e-6


@dataclasses.dataclass(frozen=True)
class Operation:
    """An instruction, all its runs together.

    Attributes:
      name: of the instruction.
      kind: its HLO operation.
      runs: in one run of the program.
      cycles: of one run; None where the compiler gives no estimate.
      moved: bytes of main memory, of one run.
      compute: seconds of the cycles of one run.
      exchange: seconds of its collectives in one run.
    """

    name: str
    kind: str
    runs: int
    cycles: float | None
    moved: Moved
    compute: float
    exchange: Exchange


@dataclasses.dataclass(frozen=True)
class Schedule:
    """One run of a program on one chip.

    Attributes:
      seconds: from the first instruction to the last.
      compute: seconds of the cycles alone, without `latency`.
      memory: seconds of the bytes through main memory alone.
      exchange: seconds of the bytes of collectives alone.
      latency: seconds of operations so small that starting them is all they do, and of the hops of
        collectives.
      read, written: bytes of main memory.
      operations: in the order of the schedule.
      kernels: Pallas kernels without cycles; they count as their bytes.
    """

    seconds: float
    compute: float
    memory: float
    exchange: float
    latency: float
    read: int
    written: int
    operations: tuple[Operation, ...]
    kernels: int

    def numbers(self) -> dict[str, Any]:
        """The sums, for JSON."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        runs = sum(o.runs for o in found.pop("operations"))
        return found | {"operations": runs}


@dataclasses.dataclass
class _Clock:
    """Seconds at which the core, main memory and the links are free."""

    core: float = 0.0
    memory: float = 0.0
    links: float = 0.0

    def skip(self, other: _Clock, turns: int) -> None:
        """As `turns` times what went on since `other`."""
        for field in dataclasses.fields(self):
            now, before = getattr(self, field.name), getattr(other, field.name)
            setattr(self, field.name, now + turns * (now - before))


class _Replay:
    """One pass over a program."""

    def __init__(self, module: Module, on: Slice, kernel_cycles: Mapping[str, float]) -> None:
        self.module, self.on, self.kernel_cycles = module, on, kernel_cycles
        self.clock = _Clock()
        self.done: dict[str, float] = {}
        self.chains: dict[str, tuple[str, float]] = {}
        self.operations: list[Operation] = []
        self.record = True

    def run(self, computation: str, times: int) -> None:
        for instruction in self.module.computations.get(computation, ()):
            if instruction.op == "while":
                self._loop(instruction, times)
            elif instruction.op in ("call", "conditional"):
                for called in instruction.called:
                    self.run(called, times)
            else:
                self._step(computation, instruction, times)

    def _loop(self, loop: Instruction, times: int) -> None:
        """The first turn, which may wait for what went before, and the others, all alike."""
        turns, body = self.module.trips(loop) or 1, loop.attribute("body")
        self.run(body, times * turns)
        if turns == 1:
            return
        before, record = dataclasses.replace(self.clock), self.record
        self.record = False
        self.run(body, times)
        self.record = record
        self.clock.skip(before, turns - 2)

    def _step(self, computation: str, instruction: Instruction, times: int) -> None:
        clock = self.clock
        if instruction.op.endswith("-done"):
            ready = [self.done.get(name, 0.0) for name in instruction.operands]
            clock.core = max(clock.core, *ready)
            return
        bytes_moved = moved(self.module, computation, instruction)
        memory = sum(bytes_moved) / self.on.chip.bandwidth
        cycles = self.kernel_cycles.get(instruction.name, instruction.cycles)
        compute = (cycles or 0.0) / self.on.chip.clock
        parts, ahead = self._exchange(computation, instruction)
        exchange = sum(parts)
        if memory:
            clock.memory = max(clock.memory, clock.core) + memory
        if exchange:
            clock.links = max(clock.links, clock.core) + exchange
        if instruction.op.endswith("-start"):
            self.done[instruction.name] = clock.links if exchange else clock.memory
        else:
            clock.core += max(compute, memory, 0.0 if ahead else exchange)
        self._end_chains(computation, instruction)
        kernel = instruction.attribute("custom_call_target") == KERNEL
        if self.record and (kernel or compute or memory or exchange):
            self.operations.append(
                Operation(
                    instruction.name,
                    KERNEL if kernel else instruction.op,
                    times,
                    cycles,
                    bytes_moved,
                    compute,
                    parts,
                )
            )

    def _exchange(self, computation: str, instruction: Instruction) -> tuple[Exchange, bool]:
        """Seconds of the collectives of an instruction, and whether others go on beside them.

        A collective in pieces is all in the first; it goes on to the last.
        """
        sending = latency = 0.0
        ahead = instruction.op.endswith("-start")
        for collective in _collectives(self.module, instruction):
            name = chain(collective)
            if name in self.chains:
                continue
            chips = members(collective, self.on.chips)
            size = collective_bytes(collective, self.on.chips)
            found = exchange(str(collective_kind(collective)), size, chips, self.on)
            sending, latency = sending + found.sending, latency + found.latency
            if name:
                ahead = True
                ready = max(self.clock.links, self.clock.core) + sending + latency
                self.chains[name] = computation, ready
        return Exchange(sending, latency), ahead

    def _end_chains(self, computation: str, instruction: Instruction) -> None:
        """Waits for the collectives whose last piece this is."""
        for collective in _collectives(self.module, instruction):
            name = chain(collective) or ""
            started_in, ready = self.chains.get(name, ("", 0.0))
            if started_in == computation and instruction is self._last(computation, name):
                self.clock.core = max(self.clock.core, ready)
                del self.chains[name]  # a loop's next turn starts it again

    def _last(self, computation: str, name: str) -> Instruction:
        """The last instruction of a computation with a piece of that chain."""
        body = self.module.computations[computation]
        return [i for i in body if any(chain(c) == name for c in _collectives(self.module, i))][-1]


def _collectives(module: Module, instruction: Instruction) -> list[Instruction]:
    """The collectives that an instruction is, or that the fusion that it is has in it."""
    if collective_kind(instruction):
        return [instruction]
    called = runs_inside(instruction)
    return [i for c in called for i in module.computations.get(c, ()) if collective_kind(i)]


def replay(module: Module, on: Slice, kernel_cycles: Mapping[str, float]) -> Schedule:
    """Replays a program.

    Args:
      module: compiled for a TPU.
      on: the slice that it was compiled for.
      kernel_cycles: of Pallas kernels by their instructions, as far as known.
    """
    run = _Replay(module, on, kernel_cycles)
    run.run(module.entry, 1)
    found = tuple(run.operations)
    read, written = (sum(o.runs * o.moved[i] for o in found) for i in (0, 1))
    starting = sum(o.runs * o.compute for o in found if o.compute <= _STARTING)
    return Schedule(
        seconds=max(dataclasses.astuple(run.clock)),
        compute=sum(o.runs * o.compute for o in found) - starting,
        memory=(read + written) / on.chip.bandwidth,
        exchange=sum(o.runs * o.exchange.sending for o in found),
        latency=starting + sum(o.runs * o.exchange.latency for o in found),
        read=read,
        written=written,
        operations=found,
        kernels=sum(o.kind == KERNEL and o.cycles is None for o in found),
    )
