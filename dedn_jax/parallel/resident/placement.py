"""Whether feature maps are kept on the devices for all steps, or read batch by batch."""

from __future__ import annotations

import sys

import jax
from ml_collections import ConfigDict

from dedn_jax.data.dataset import Inputs
from dedn_jax.data.features.maps import FeatureMaps
from dedn_jax.errors import InputError
from dedn_jax.parallel import processes
from dedn_jax.parallel.mesh import Layout
from dedn_jax.parallel.resident.rule import Residency, allowed, residency
from dedn_jax.parallel.resident.table import FeatureTable, make_table


def keep_features(
    inputs: Inputs, config: ConfigDict, layout: Layout, *, may_cut: bool = True
) -> FeatureTable | None:
    """Puts feature maps on the devices if they are to stay there, and says so.

    `config.data.on_device`: "auto" keeps all of them on every device where they take at most 60 %
    of the memory that is free on each; else a part of the images on every device, where that takes
    no more and the processes are few (`dedn_jax.parallel.resident.rule`). On a CPU, whose memory
    they are in already, they are read from there.

    Args:
      inputs: of the data set.
      config: of the run.
      layout: of the devices.
      may_cut: whether devices work on one batch together, so that each may have a part.

    Returns:
      The table of all maps; None where batches are read and sent.

    Raises:
      InputError: features that cannot stay on the device as the config wants it.
    """
    choice, parts = config.data.on_device, layout.parts if may_cut else 1
    pictures = not isinstance(inputs, FeatureMaps)
    kept = allowed(choice, config.distribution.strategy, pictures=pictures, parts=parts)
    if not isinstance(inputs, FeatureMaps) or kept == "never":
        return None
    needed = len(inputs) * inputs.channels * inputs.regions * inputs.dtype.itemsize
    kept = kept or _by_rule(needed, _free_bytes(), parts, layout.processes)
    if kept == "never":
        return None
    each = -(-needed // parts) if kept == "cut" else needed
    part = f"a part of {each / 1e9:.2f} GB on each" if kept == "cut" else "all on each"
    _say(f"feature maps stay on the device: {needed / 1e9:.2f} GB of {inputs.dtype}, {part}")
    try:
        return make_table(inputs, layout, cut=kept == "cut")
    except jax.errors.JaxRuntimeError as error:
        raise InputError(
            f"config.data.on_device={choice}: {each / 1e9:.1f} GB of feature maps do not fit; "
            "use never, or --config.data.dtype=bfloat16"
        ) from error


def _by_rule(needed: int, free: int | None, parts: int, processes: int) -> Residency:
    """What "auto" means here."""
    if free is None:
        return "never"
    chosen = residency(needed, free, parts, processes)
    if chosen == "never":
        _say(f"feature maps take {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free: read")
    return chosen


def _free_bytes() -> int | None:
    """The least memory that is free on any device; None where it cannot be told, or on a CPU."""
    free = []
    for device in jax.local_devices():
        statistics = device.memory_stats() if device.platform != "cpu" else None
        if not statistics or "bytes_limit" not in statistics:
            return None
        free.append(statistics["bytes_limit"] - statistics["bytes_in_use"])
    # All processes have to decide alike; in MiB, since they exchange 32-bit numbers.
    return -processes.largest(-(min(free) >> 20)) << 20


def _say(text: str) -> None:
    if processes.is_main():
        print(text, file=sys.stderr)
