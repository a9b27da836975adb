"""How deep the tuples of a pickle nest, followed before anything is unpickled.

Python hashes a tuple, as a key of a dict or in a set, by hashing what is in it, in C and without a
limit: one nested a million deep, which takes a megabyte, ends the process.
"""

from __future__ import annotations

import pickletools
from typing import Any

_MOST = 100  # of a tensor or an array 3
_MARK = -1


class Nesting:
    """Follows the instructions of a pickle on a stack of depths."""

    def __init__(self) -> None:
        self._stack: list[int] = []
        self._memo: dict[int, int] = {}

    def follow(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Takes the next instruction.

        Raises:
          ValueError: it makes a tuple that is nested too deep.
          IndexError: it takes what is not there.
        """
        name = opcode.name
        if name == "MARK":
            self._stack.append(_MARK)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[int(argument)] = self._stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self._stack.append(self._memo.get(int(argument), 0))
        else:
            depth = max(self._taken(opcode), default=0) + name.startswith("TUPLE")
            if depth > _MOST:
                raise ValueError(f"tuples nested more than {_MOST} deep")
            self._stack += [depth] * len(opcode.stack_after)

    def _taken(self, opcode: pickletools.OpcodeInfo) -> list[int]:
        """The depths of what an instruction takes from the stack."""
        before = list(opcode.stack_before)
        taken = []
        if pickletools.markobject in before:
            while (depth := self._stack.pop()) != _MARK:
                taken.append(depth)
            before = before[: before.index(pickletools.markobject)]
        return taken + [self._stack.pop() for _ in before]
