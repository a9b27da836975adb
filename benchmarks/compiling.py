"""How long this process has compiled."""

from __future__ import annotations

import functools

import jax


class _Compiling:
    """Listens to JAX for the seconds that it compiles.

    On a GPU these include trying out algorithms. A program that is found in the cache is read in a
    moment.

    Attributes:
      seconds: so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def _hear(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.seconds += duration_secs


@functools.cache
def compiling() -> _Compiling:
    """That of this process."""
    return _Compiling()
