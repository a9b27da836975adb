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


class StopRequest:
    """Remembers the signal that asked to stop; 0 while none did."""

    def __init__(self) -> None:
        self.signal_number = 0


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within the block, SIGTERM and SIGINT only set a flag, which the training loop reads."""
    request = StopRequest()

    def note(number: int, _frame: FrameType | None) -> None:
        request.signal_number = number

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
