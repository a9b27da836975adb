"""SIGTERM and Ctrl-C as a request to save and leave."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """The run was asked to stop and has saved its state.

    Attributes:
      signal_number: which signal asked.
    """

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.signal_number = signal_number


def stopped_run(signal_number: int, where: str) -> Interrupted:
    """What ends a run that the same command resumes; says `where` it stopped."""
    return Interrupted(signal_number, f"stopped {where}; give the same command to resume")


class Stopped(Exception):
    """An evaluation left off, as it was asked to; whether there is anything to save others know.

    Attributes:
      signal_number: which signal asked.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"signal {signal_number}")
        self.signal_number = signal_number


class StopRequest:
    """Remembers the signal that asked to stop; 0 while none did."""

    def __init__(self) -> None:
        self.signal_number = 0


@contextmanager
def ending_the_run(where: str) -> Iterator[None]:
    """Within the block `Stopped` ends the run, which has saved all it needs; says `where`."""
    try:
        yield
    except Stopped as stopped:
        raise stopped_run(stopped.signal_number, where) from None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within the block, SIGTERM and SIGINT only set a flag, for those who ask for it."""
    request = StopRequest()

    def note(number: int, _frame: FrameType | None) -> None:
        request.signal_number = number

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
