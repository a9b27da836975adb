"""All feature maps of a data set on the devices: whole on each, or a part of the images on each."""

from __future__ import annotations

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from dedn_jax.data.features import FeatureMaps
from dedn_jax.distributed import CUT, DATA, WHOLE, Layout

_BLOCK_BYTES = 256 * 2**20  # sent at a time


@functools.partial(jax.tree_util.register_dataclass, data_fields=["maps"], meta_fields=["axis"])
@dataclasses.dataclass(frozen=True)
class FeatureTable:
    """Feature maps that stay on the devices.

    Attributes:
      maps: `[images, channels, regions]`; filled up to equal parts where it is cut.
      axis: name of the mapped axis along which the images are cut; None where each has all.
    """

    maps: jax.Array
    axis: str | None = None


def table_spec(table: FeatureTable | None) -> PartitionSpec:
    """How a table lies on the devices."""
    return WHOLE if table is None or table.axis is None else CUT


def look_up(table: FeatureTable | None, inputs: jax.Array) -> jax.Array:
    """A device's part of a batch: from the table, or what was sent.

    Args:
      table: None where `inputs` are the feature maps themselves.
      inputs: else `[rows]` image indices.

    Returns:
      `[rows, channels, regions]`.
    """
    if table is None:
        return inputs
    if table.axis is None:
        return table.maps[inputs]
    # Some rows at a time: the images that all devices want have to fit beside the table.
    devices = jax.lax.psum(1, table.axis)
    image_bytes = table.maps[0].size * table.maps.dtype.itemsize
    most = max(1, _BLOCK_BYTES // (devices * image_bytes))
    rows = len(inputs)
    turn = max(n for n in range(1, rows + 1) if rows % n == 0 and n <= max(1, most))
    turns = inputs.reshape(-1, turn)
    if len(turns) == 1:
        return _exchange(table.maps, inputs, table.axis)
    found = jax.lax.map(lambda some: _exchange(table.maps, some, table.axis), turns)
    return found.reshape(rows, *found.shape[2:])


def _exchange(maps: jax.Array, wanted: jax.Array, axis: str) -> jax.Array:
    """Every device asks all for its rows, and gives what it has to all, in one reduce-scatter."""
    asked = jax.lax.all_gather(wanted, axis, tiled=True)
    place = asked - jax.lax.axis_index(axis) * len(maps)
    here = (place >= 0) & (place < len(maps))
    given = jnp.where(here[:, None, None], maps[jnp.where(here, place, 0)], 0)
    # A sum of one image and zeros: exact in any type.
    return jax.lax.psum_scatter(given, axis, scatter_dimension=0, tiled=True)


def make_table(inputs: FeatureMaps, layout: Layout, *, cut: bool) -> FeatureTable:
    """Sends the maps block by block; a process reads what its own devices keep."""
    images = layout.rows(len(inputs)) if cut else len(inputs)
    shape = (images, inputs.channels, inputs.regions)
    sharding = layout.by_batch if cut else layout.replicated
    # Devices that keep the same images are sent them together.
    sharing: dict[tuple[int, int], list[jax.Device]] = collections.defaultdict(list)
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        start, end, _ = index[0].indices(images) if index else (0, images, 1)
        sharing[start, end].append(device)
    parts = []
    for (start, end), devices in sharing.items():
        parts += _send(inputs, start, end, devices)
    maps = jax.make_array_from_single_device_arrays(shape, sharding, parts)
    return FeatureTable(maps, DATA if cut else None)


def _send(inputs: FeatureMaps, start: int, end: int, devices: list[jax.Device]) -> list[jax.Array]:
    """Images `start` to `end` on each device; zeros for those that there are not."""
    shape = (end - start, inputs.channels, inputs.regions)
    put = jax.jit(functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=0), donate_argnums=0)
    parts = [
        jax.jit(
            functools.partial(jnp.zeros, shape, inputs.dtype),
            out_shardings=jax.sharding.SingleDeviceSharding(device),
        )()
        for device in devices
    ]
    rows = max(1, _BLOCK_BYTES // (inputs.channels * inputs.regions * inputs.dtype.itemsize))
    last = min(end, len(inputs))
    for first in range(start, last, rows):
        block = inputs[np.arange(first, min(first + rows, last))]
        parts = [
            put(part, jax.device_put(block, device), first - start)
            for part, device in zip(parts, devices, strict=True)
        ]
    return parts
