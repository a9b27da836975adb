"""Processes, devices and where arrays lie on them; the only place that knows how many there are."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dedn_jax.errors import InputError

_DATA = "data"


@functools.cache
def mesh() -> Mesh:
    """This process's devices in a row, along the axis `data`."""
    return Mesh(np.asarray(jax.local_devices()), (_DATA,))


def shard_batch(tree: Any) -> Any:
    """Host arrays onto the devices, each cut along its first axis.

    An array whose first axis the devices do not divide is given whole to each of them: the result
    is the same, and takes as long as on one device.
    """

    def put(array: Any) -> jax.Array:
        divides = np.ndim(array) > 0 and len(array) % mesh().size == 0
        spec = PartitionSpec(_DATA) if divides else PartitionSpec()
        return jax.device_put(array, NamedSharding(mesh(), spec))

    return jax.tree.map(put, tree)


def replicate(tree: Any) -> Any:
    """A copy of every array on every device."""
    return jax.device_put(tree, NamedSharding(mesh(), PartitionSpec()))


def initialize(coordinator: str, processes: int, process: int) -> None:
    """Joins this process to the others of a run; before anything else uses JAX.

    Args:
      coordinator: `host:port` of process 0.
      processes: how many there are.
      process: which one this is, from 0.

    Raises:
      InputError: the others cannot be reached, or numbers that do not fit.
    """
    if not 0 <= process < processes:
        raise InputError(f"--process={process}, expected 0 to {processes - 1} (--processes - 1)")
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"--coordinator={coordinator}: process {process} of {processes} cannot join: {reason}"
        ) from error


def process() -> tuple[int, int]:
    """Which process this is, and how many there are."""
    return jax.process_index(), jax.process_count()


def barrier(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
