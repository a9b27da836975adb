"""The processes of a run: joining them, waiting for them, and which of them writes."""

from __future__ import annotations

import jax
import numpy as np
from jax.experimental import multihost_utils

from dedn_jax.errors import InputError, one_line

# Seconds without a sign of life after which a process counts as dead, and the others end.
_HEARTBEAT = 60


def initialize(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Joins this process to the others of a run; before anything else uses JAX.

    Without arguments they are found by JAX, which knows Cloud TPU pods, GKE and Slurm.

    Args:
      coordinator: `host:port` of process 0.
      processes: how many there are.
      process: which one this is, from 0.

    Raises:
      InputError: the others cannot be reached, or numbers that do not fit.
    """
    if processes is not None and process is not None and not 0 <= process < processes:
        raise InputError(f"--process={process}, expected 0 to {processes - 1} (--processes - 1)")
    try:
        jax.distributed.initialize(
            coordinator, processes, process, heartbeat_timeout_seconds=_HEARTBEAT
        )
    except (RuntimeError, ValueError) as error:
        where = f"--coordinator={coordinator}" if coordinator else "--distributed"
        raise InputError(
            f"{where}: this process cannot join the others: {one_line(error)}"
        ) from error


def process() -> tuple[int, int]:
    """Which process this is, and how many there are."""
    return jax.process_index(), jax.process_count()


def is_main() -> bool:
    """Whether this process writes logs, reports and results."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def max_over_processes(value: int) -> int:
    """The largest `value` of all processes; every process has to ask."""
    if jax.process_count() == 1:
        return value
    return int(np.max(multihost_utils.process_allgather(np.asarray(value))))
