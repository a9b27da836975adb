"""Bytes that an instruction of a TPU program moves through main memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from dedn_jax.plan.hlo import Instruction, Module

# They move nothing, or what they move is counted where it is started or in what they call.
FREE = frozenset(
    (
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota", "while"),
        *("call", "conditional", "partition-id", "replica-id", "after-all", "add-dependency"),
        *("opt-barrier", "async-update"),
    )
)
_NAMES_ONLY = frozenset(("bitcast", "reshape", "get-tuple-element"))
_SLICES = frozenset(("dynamic-slice", "slice", "gather"))
KERNEL = "tpu_custom_call"  # of Pallas on a TPU
_LIBRARIES = (KERNEL, "__")  # and of GPUs; other custom calls are the compiler's own bookkeeping


class Moved(NamedTuple):
    """Bytes of main memory that an instruction reads and writes in one run."""

    read: int = 0
    written: int = 0


def moved(module: Module, computation: str, instruction: Instruction) -> Moved:
    """What an instruction moves through main memory; arrays that stay on the chip do not count.

    Args:
      module: the program.
      computation: name of the one that the instruction is in.
      instruction: without the bodies of a loop, which are instructions of their own.
    """
    op, here = instruction.op, module.by_name[computation]
    if op in FREE or op.endswith("-done"):
        return Moved()
    if op == "fusion":
        return Moved(_read_by_fusion(module, here, instruction), _written(module, instruction))
    if op in ("copy-start", "slice-start"):
        return _copied(instruction)
    if op == "async-start":
        return _started(module, instruction)
    target = instruction.attribute("custom_call_target")
    if op == "custom-call" and not target.startswith(_LIBRARIES):
        return Moved()
    if op in _SLICES:
        result = instruction.arrays[0]
        source = _in_hbm(here, instruction.operands[0])
        return Moved(min(source, result.nbytes), result.in_hbm)
    if op == "dynamic-update-slice":
        update = here[instruction.operands[1]].arrays[0]
        return Moved(update.in_hbm, update.nbytes if instruction.arrays[0].in_hbm else 0)
    read = sum(_in_hbm(here, name) for name in dict.fromkeys(instruction.operands))
    if target == KERNEL and instruction.accessed is not None:
        # Of a table a kernel reads what it looks up.
        read = min(read, max(0, instruction.accessed - sum(a.nbytes for a in instruction.arrays)))
    # The result of a `-start` is written when it is done; its operand is part of it.
    results = instruction.arrays[-1:] if op.endswith("-start") else instruction.arrays
    return Moved(read, sum(a.in_hbm for a in results))


def _in_hbm(here: dict[str, Instruction], name: str) -> int:
    """Bytes of an operand in main memory; of tuples only the parts are operands."""
    source = here.get(name)
    return source.arrays[0].in_hbm if source and len(source.arrays) == 1 else 0


def _copied(instruction: Instruction) -> Moved:
    """`copy-start` gives (copy, original, context), `slice-start` ((original), slice, context)."""
    first, second = instruction.arrays[:2]
    copy, original = (first, second) if instruction.op == "copy-start" else (second, first)
    return Moved(copy.nbytes if original.in_hbm else 0, copy.in_hbm)


def _started(module: Module, instruction: Instruction) -> Moved:
    """`async-start` gives ((operands), results, context) of the operation that it calls."""
    called = next(iter(instruction.called), "")
    root = next((i for i in module.computations.get(called, ()) if i.root), None)
    if root is None:
        return Moved()
    inner = moved(module, called, root)
    written = sum(a.in_hbm for a in instruction.arrays[len(root.operands) :])
    return Moved(inner.read, min(inner.written, written))


def _read_by_fusion(module: Module, here: dict[str, Instruction], fusion: Instruction) -> int:
    called = fusion.called[0]
    parameters = _parameters(module, called)
    total = 0
    for i, name in enumerate(fusion.operands):
        whole = _in_hbm(here, name)
        if whole and i in parameters:
            total += _read_of(module, called, parameters[i], whole)
        else:
            total += whole
    return total


def _parameters(module: Module, computation: str) -> dict[int, str]:
    body = module.computations.get(computation, ())
    return {int(i.inside): i.name for i in body if i.op == "parameter"}


def _read_of(module: Module, computation: str, name: str, whole: int) -> int:
    """Bytes that a fusion reads of a parameter: its slices where only those are used."""
    total = 0
    for user, position in _users(module, computation, name):
        if user.op in _SLICES and position == 0:
            total += user.arrays[0].nbytes
        elif user.op != "dynamic-update-slice" or position:
            return whole
    return min(total, whole)


def _users(module: Module, computation: str, name: str) -> Iterator[tuple[Instruction, int]]:
    """Instructions that use a value, under other names and in fusions too; as which operand."""
    for user in module.computations.get(computation, ()):
        for position, operand in enumerate(user.operands):
            if operand != name:
                continue
            if user.op in _NAMES_ONLY and not user.root:
                yield from _users(module, computation, user.name)
            elif user.op == "fusion" and user.called:
                inner = _parameters(module, user.called[0])
                yield from _users(module, user.called[0], inner.get(position, ""))
            else:
                yield user, position


def _written(module: Module, fusion: Instruction) -> int:
    """Bytes that a fusion writes; of an array that it updates in place only the update."""
    parts = list(_results(module, fusion.called[0]))
    total = 0
    for i, array in enumerate(fusion.arrays):
        update = parts[i] if i < len(parts) else None
        total += min(array.in_hbm, update) if update is not None else array.in_hbm
    return total


def _results(module: Module, computation: str) -> Iterator[int | None]:
    """For each result of a fusion, the bytes of the update where it updates in place."""
    here = module.by_name.get(computation, {})
    root = next((i for i in here.values() if i.root), None)
    if root is None:
        return
    for name in root.operands if root.op == "tuple" else (root.name,):
        result = here[name]
        while result.op in _NAMES_ONLY and result.operands and result.operands[0] in here:
            result = here[result.operands[0]]
        if result.op == "fusion" and len(result.arrays) == 1:
            yield from _results(module, result.called[0])
        elif result.op == "dynamic-update-slice":
            yield here[result.operands[1]].arrays[0].nbytes
        else:
            yield None
