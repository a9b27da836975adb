"""A request to save and leave: by SIGTERM and Ctrl-C, or by other code."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self


class Interrupted(Exception):
    """The run was asked to stop and has saved its state.

    Examples:
      >>> import dedn_jax
      >>> stop = dedn_jax.StopRequest()
      >>> stop.request()
      >>> dedn_jax.train(config, "runs/stopped", dataset=dataset, stop=stop)
      Traceback (most recent call last):
      dedn_jax.training.interrupt.Interrupted: stopped at step ... of 12 of phase final; ...

    Attributes:
      signal_number: the signal that asked to stop.
    """

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.signal_number = signal_number


def stopped_run(signal_number: int, where: str) -> Interrupted:
    """What ends a run that the same command resumes; its message says `where` it stopped."""
    return Interrupted(signal_number, f"stopped {where}; give the same command to resume")


class Stopped(Exception):
    """An evaluation ended early because `should_stop` said so; the caller knows what to save.

    Attributes:
      signal_number: the signal that asked to stop.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"signal {signal_number}")
        self.signal_number = signal_number


@contextmanager
def ending_the_run(where: str) -> Iterator[None]:
    """Turns `Stopped` into `Interrupted`, for a run that has saved all it needs; says `where`."""
    try:
        yield
    except Stopped as stopped:
        raise stopped_run(stopped.signal_number, where) from None


class StopRequest:
    """A request to stop, which a training answers by saving and raising `Interrupted`.

    Another thread, or a callback, stops a training by `request()`. That cannot be taken back: make
    a new request for the next training. A training enters it as a context while it can answer it.

    Attributes:
      signal_number: the signal that asked; 0 while none did.

    Examples:
      >>> stop = StopRequest()
      >>> stop.request()
      >>> stop.signal_number
      15
    """

    def __init__(self) -> None:
        self.signal_number = 0

    def request(self, signal_number: int = signal.SIGTERM) -> None:
        """Asks to stop."""
        self.signal_number = int(signal_number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


class StopOnSignals(StopRequest):
    """SIGTERM and Ctrl-C as a request to stop while it is entered; for the main thread only.

    Outside the context the signals keep their usual handlers: a command that still reads its data
    set has nothing to save.
    """

    def __init__(self) -> None:
        super().__init__()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        def note(number: int, _frame: FrameType | None) -> None:
            self.request(number)

        self._previous = {n: signal.signal(n, note) for n in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
