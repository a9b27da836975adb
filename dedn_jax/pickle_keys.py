"""How large the keys of a pickle's dicts are, followed before anything is unpickled.

Python hashes a tuple, as a key of a dict or in a set, by hashing what is in it, in C and without a
limit: one nested a million deep, which takes a megabyte, ends the process, and one that holds
another twice, which does so in turn, takes for ever after sixty of them.
"""

from __future__ import annotations

import pickletools
from typing import Any

_MOST = 100  # values in a key; names and numbers are 1
_MARK = 0


class Keys:
    """Follows the instructions of a pickle on a stack of sizes: values, counted wherever they are.

    Lists, dicts and sets have no hash, whatever is put in them later.
    """

    def __init__(self) -> None:
        self._stack: list[int] = []
        self._memo: dict[int, int] = {}

    def follow(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Takes the next instruction.

        Raises:
          ValueError: it hashes a value that is too large.
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
            self._stack.append(self._memo.get(int(argument), 1))
        else:
            taken = self._taken(opcode)
            if max(_hashed(name, taken), default=0) > _MOST:
                raise ValueError(f"a key of more than {_MOST} values")
            if name.startswith("TUPLE"):
                size = 1 + sum(taken)
            else:
                # A number of megabytes (LONG4) is slow to hash as well.
                size = _MOST + 1 if name == "LONG4" else max(taken, default=1)
            # No more is told apart, and doubled often it would be a number of megabytes itself.
            self._stack += [min(size, _MOST + 1)] * len(opcode.stack_after)

    def _taken(self, opcode: pickletools.OpcodeInfo) -> list[int]:
        """The sizes of what an instruction takes from the stack, the last one first."""
        before = list(opcode.stack_before)
        taken = []
        if pickletools.markobject in before:
            while (size := self._stack.pop()) != _MARK:
                taken.append(size)
            before = before[: before.index(pickletools.markobject)]
        return taken + [self._stack.pop() for _ in before]


def _hashed(name: str, taken: list[int]) -> list[int]:
    """Of what an instruction takes, the keys: each is followed by its value."""
    if name in ("SETITEM", "SETITEMS", "DICT"):
        return taken[1::2]
    return taken[:-1] if name == "ADDITEMS" else []
