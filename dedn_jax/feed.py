"""Where a training's images come from: read batch by batch, or kept on the device for all steps."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dedn_jax import distributed
from dedn_jax.data.dataset import Inputs
from dedn_jax.data.features import FeatureMaps
from dedn_jax.distributed import Layout
from dedn_jax.errors import InputError

_SHARE = 0.6  # of the device memory that is free, for features that stay there
_BLOCK_BYTES = 256 * 2**20


class Indices:
    """Inputs that are image indices: what is sent where the feature maps are on the device."""

    def __init__(self, images: int) -> None:
        self._images = images

    def __len__(self) -> int:
        return self._images

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        return np.asarray(indices, np.int32)

    def training(self, indices: np.ndarray, seeds: Sequence[tuple[int, ...]]) -> np.ndarray:
        return self[indices]

    def fingerprint(self) -> dict[str, object]:
        return {"images": self._images}


class Feed(NamedTuple):
    """What batches are made of.

    Attributes:
      inputs: what batches are read from.
      table: `[images, channels, regions]` on the devices, where `inputs` are image indices.
    """

    inputs: Inputs
    table: jax.Array | None


def look_up(table: jax.Array | None, inputs: jax.Array) -> jax.Array:
    """A batch's feature maps: from the table, or what was sent."""
    return inputs if table is None else table[inputs]


def make_feed(inputs: Inputs, config: ConfigDict, layout: Layout) -> Feed:
    """Puts feature maps on the devices if they are to stay there, and says so.

    `config.data.on_device`: "auto" keeps them where all of them take at most 60 % of the memory
    that is free on every device; on a CPU, whose memory they are in already, they are read from
    there.

    Raises:
      InputError: "always" for pictures, or for more than fits.
    """
    choice = config.data.on_device
    if choice == "never" or config.distribution.strategy == "pmap":
        return Feed(inputs, None)
    if not isinstance(inputs, FeatureMaps):
        if choice == "always":
            raise InputError("config.data.on_device=always: pictures cannot stay on the device")
        return Feed(inputs, None)
    needed = len(inputs) * inputs.channels * inputs.regions * inputs.dtype.itemsize
    free = _free_bytes()
    if choice == "auto" and (free is None or needed > _SHARE * free):
        if free is not None:
            _say(f"feature maps take {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free: read")
        return Feed(inputs, None)
    _say(f"feature maps stay on the device: {needed / 1e9:.2f} GB of {inputs.dtype}")
    try:
        return Feed(Indices(len(inputs)), _table(inputs, layout))
    except jax.errors.JaxRuntimeError as error:
        raise InputError(
            f"config.data.on_device={choice}: {needed / 1e9:.1f} GB of feature maps do not fit; "
            "use never, or --config.data.dtype=bfloat16"
        ) from error


def _free_bytes() -> int | None:
    """The least memory that is free on a device; None where it cannot be told, or on a CPU."""
    free = []
    for device in jax.local_devices():
        statistics = device.memory_stats() if device.platform != "cpu" else None
        if not statistics or "bytes_limit" not in statistics:
            return None
        free.append(statistics["bytes_limit"] - statistics["bytes_in_use"])
    return min(free)


def _table(inputs: FeatureMaps, layout: Layout) -> jax.Array:
    """All feature maps on every device, sent block by block."""
    shape = (len(inputs), inputs.channels, inputs.regions)
    zeros = jax.jit(lambda: jnp.zeros(shape, inputs.dtype), out_shardings=layout.replicated)
    put = jax.jit(functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=0), donate_argnums=0)
    table = zeros()
    rows = max(1, _BLOCK_BYTES // (inputs.channels * inputs.regions * inputs.dtype.itemsize))
    for start in range(0, len(inputs), rows):
        block = inputs[np.arange(start, min(start + rows, len(inputs)))]
        table = put(table, layout.replicate(block), start)
    return table


def _say(text: str) -> None:
    if distributed.is_main():
        print(text, file=sys.stderr)
