"""The processes of a run: which this is, waiting for the others, and which of them writes."""

from __future__ import annotations

import itertools

import jax
import numpy as np
from jax.experimental import multihost_utils

from dedn_jax.parallel import board
from dedn_jax.parallel.limits import MEETING_TIMEOUT

_meetings = itertools.count()


def process() -> tuple[int, int]:
    """Which process this is, and how many there are."""
    return jax.process_index(), jax.process_count()


def is_main() -> bool:
    """Whether this process writes logs, reports and results."""
    return jax.process_index() == 0


def barrier(name: str, seconds: float = MEETING_TIMEOUT) -> None:
    """Waits until every process is here, for so many seconds at most.

    Raises:
      OthersError: some did not come in time; it names them.
    """
    if jax.process_count() > 1:
        board.meet(f"{name} ({next(_meetings)})", seconds)


def max_over_processes(value: int) -> int:
    """The largest `value` of all processes; every process has to ask."""
    if jax.process_count() == 1:
        return value
    return int(np.max(multihost_utils.process_allgather(np.asarray(value))))
