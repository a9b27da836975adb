"""Places feature maps in device memory for all steps, or decides to stream them."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dedn_jax.data.dataset import Inputs
from dedn_jax.data.features.maps import FeatureMaps
from dedn_jax.errors import InputError
from dedn_jax.parallel import processes
from dedn_jax.parallel.mesh import Layout
from dedn_jax.parallel.resident.features import ResidentFeatures, make_resident
from dedn_jax.parallel.resident.rule import (
    SHARE,
    Residency,
    half_is_enough,
    requested,
    residency,
)


def place_features(
    inputs: Inputs, config: ConfigDict, layout: Layout, *, may_shard: bool = True
) -> ResidentFeatures | None:
    """Puts feature maps in device memory if they are to be resident, and says so.

    `config.data.on_device`: "auto" replicates them where they take at most 60 % of the free memory
    of each device; else as bfloat16, where products would round them to it; else it shards the
    images, where that takes no more and the processes are few (`dedn_jax.parallel.resident.rule`);
    else they are streamed. On a CPU they are streamed: its
    memory is where they are already.

    Args:
      inputs: of the data set.
      config: of the run.
      layout: of the devices.
      may_shard: whether devices work on one batch together, so that each may hold a shard.

    Returns:
      The resident features; None where batches are streamed.

    Raises:
      InputError: the config asks for what is not possible, or does not fit.
    """
    choice, shards = config.data.on_device, layout.num_shards if may_shard else 1
    pictures = not isinstance(inputs, FeatureMaps)
    chosen = requested(choice, config.distribution.strategy, pictures=pictures, shards=shards)
    if not isinstance(inputs, FeatureMaps) or chosen == "never":
        return None
    needed = len(inputs) * inputs.channels * inputs.regions * inputs.dtype.itemsize
    dtype = inputs.dtype
    if chosen is None:
        half = half_is_enough(dtype.name, config.model.precision)
        chosen, halved = _by_rule(needed, _free_bytes(), shards, layout.num_processes, half=half)
        if halved:
            dtype, needed = np.dtype(jnp.bfloat16), needed // 2
    if chosen == "never":
        return None
    per_device = -(-needed // shards) if chosen == "sharded" else needed
    how = f"sharded, {per_device / 1e9:.2f} GB a device" if chosen == "sharded" else "replicated"
    rounded = "" if dtype == inputs.dtype else ", as model.precision would round them"
    _say(f"resident features: {needed / 1e9:.2f} GB of {dtype}{rounded}, {how}")
    try:
        return make_resident(inputs, layout, dtype, shard=chosen == "sharded")
    except jax.errors.JaxRuntimeError as error:
        raise InputError(
            f"config.data.on_device={choice}: {per_device / 1e9:.1f} GB of feature maps do not fit "
            "in device memory; use never, or --config.data.dtype=bfloat16"
        ) from error


def _by_rule(
    needed: int, free: int | None, shards: int, num_processes: int, *, half: bool
) -> tuple[Residency, bool]:
    """What "auto" means here, and whether in half the bits."""
    if free is None:
        return "never", False
    chosen, halved = residency(needed, free, shards, num_processes, half=half)
    if chosen == "never":
        _say(
            f"streaming features from the host: {needed / 1e9:.1f} GB, more than {SHARE:.0%} of "
            f"the {free / 1e9:.1f} GB that are free on a device"
        )
    return chosen, halved


def _free_bytes() -> int | None:
    """The least free memory of any device; None where it is not known, or on a CPU."""
    free = []
    for device in jax.local_devices():
        statistics = device.memory_stats() if device.platform != "cpu" else None
        if not statistics or "bytes_limit" not in statistics:
            return None
        free.append(statistics["bytes_limit"] - statistics["bytes_in_use"])
    # All processes have to decide alike; in MiB, since they exchange 32-bit numbers.
    return -processes.max_over_processes(-(min(free) >> 20)) << 20


def _say(text: str) -> None:
    if processes.is_main():
        print(text, file=sys.stderr)
