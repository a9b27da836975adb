"""Random numbers by counting, the same from NumPy on the host and from JAX on any device."""

from __future__ import annotations

from typing import Any

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def threefry(key: Any, first: Any, second: Any) -> tuple[Any, Any]:
    """Threefry-2x32 with 20 rounds, elementwise.

    Only operators are used, which mean the same for arrays of NumPy and of JAX.

    Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC 2011); the generator of
    `jax.random`.

    Args:
      key: `[2]` uint32.
      first, second: words of the counter, uint32 arrays of at least one axis, broadcast together.

    Returns:
      Two words of random bits for every counter, uint32.
    """
    keys = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    x, y = first + keys[0], second + keys[1]
    for turn in range(5):
        for distance in _ROTATIONS[turn % 2]:
            x = x + y
            y = (y << distance | y >> 32 - distance) ^ x
        x = x + keys[(turn + 1) % 3]
        y = y + keys[(turn + 2) % 3] + (turn + 1)
    return x, y
