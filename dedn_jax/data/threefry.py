"""A counter-based random number generator: NumPy on the host and JAX on devices agree."""

from __future__ import annotations

from typing import Any

from jaxtyping import UInt32

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def threefry(
    key: UInt32[Any, " 2"], first: UInt32[Any, "*counters"], second: UInt32[Any, "*counters"]
) -> tuple[UInt32[Any, "*counters"], UInt32[Any, "*counters"]]:
    """Threefry-2x32 with 20 rounds, elementwise.

    Uses operators only, which NumPy and JAX arrays share.

    Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC 2011); the generator of
    `jax.random`.

    Args:
      key: two words.
      first, second: words of the counter, arrays of at least one axis, broadcast together.

    Returns:
      Two words of random bits for every counter.
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
