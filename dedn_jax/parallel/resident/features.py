"""All feature maps of a data set in device memory: replicated, or the images sharded."""

from __future__ import annotations

import collections
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from dedn_jax.data.features.maps import FeatureMaps
from dedn_jax.model.attention.indexed import IndexedMaps, as_array, unpadded
from dedn_jax.parallel.mesh import DATA, REPLICATED, SHARDED, Layout

_BLOCK_BYTES = 256 * 2**20  # transferred at a time
_TILE = 8, 128  # regions and channels that a TPU lays side by side
_UNPADDED = 1, 1


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["maps"], meta_fields=["shape", "axis"]
)
@dataclasses.dataclass(frozen=True)
class ResidentFeatures:
    """Feature maps in device memory.

    Each is padded to whole tiles, channels last: else a TPU keeps tiles of several images, and lays
    each out anew when it is looked up (1.8 ms for 50 maps of CUB where a gather of tiles takes
    0.05, scheduled for a v5e). Not on a GPU, where taking the padding off is a copy of the batch.

    Attributes:
      maps: `[images, regions, channels]`, the last two padded. Where the images are sharded, in
        equal shards that end with a map of zeros, which a device sends for those of the others.
      shape: (channels, regions) of a map.
      axis: the mapped axis along which the images are sharded; None where they are replicated.
    """

    maps: Any
    shape: tuple[int, int]
    axis: str | None = None

    @classmethod
    def abstract(
        cls, images: int, shape: tuple[int, int], dtype: Any, layout: Layout, *, shard: bool
    ) -> ResidentFeatures:
        """Features on the devices of `layout`, whose maps are a `ShapeDtypeStruct`."""
        rows = layout.padded_rows(images) + layout.num_shards if shard else images
        tile = _UNPADDED if layout.on_gpus else _TILE
        tiles = (-(-size // each) * each for size, each in zip(shape[::-1], tile, strict=True))
        maps = jax.ShapeDtypeStruct((rows, *tiles), jnp.dtype(dtype))
        return cls(maps, shape, DATA if shard else None)

    @property
    def nbytes(self) -> int:
        """Of all shards together."""
        return int(self.maps.size) * self.maps.dtype.itemsize

    def pad(self, maps: jax.Array) -> jax.Array:
        """`[n, channels, regions]` as rows of `maps`."""
        added = [(0, b - n) for b, n in zip(self.maps.shape[1:], self.shape[::-1], strict=True)]
        return jnp.pad(jnp.swapaxes(maps, 1, 2), [(0, 0), *added])


def features_spec(features: ResidentFeatures | None) -> PartitionSpec:
    """How resident features lie on the devices."""
    return REPLICATED if features is None or features.axis is None else SHARDED


def lookup(features: ResidentFeatures | None, inputs: jax.Array) -> jax.Array:
    """A device's shard of a batch: looked up in resident features, or as it was streamed.

    Args:
      features: None where `inputs` are the feature maps themselves.
      inputs: else `[rows]` image indices.

    Returns:
      `[rows, channels, regions]`.
    """
    return as_array(indexed(features, inputs))


def indexed(features: ResidentFeatures | None, inputs: jax.Array) -> jax.Array | IndexedMaps:
    """As `lookup`; from replicated features maps that are still to be looked up, as the train step
    takes them: the fused kernels of TPUs do that while they compute.
    """
    if features is None:
        return inputs
    if features.axis is None:
        return IndexedMaps(features.maps, inputs, features.shape)
    return _from_shards(features, inputs, features.axis)


@jax.named_scope("lookup")
def _from_shards(features: ResidentFeatures, inputs: jax.Array, axis: str) -> jax.Array:
    # A few rows at a time: those of all devices have to fit beside the features.
    devices = jax.lax.psum(1, axis)
    image_bytes = features.nbytes // len(features.maps)
    max_rows = max(1, _BLOCK_BYTES // (devices * image_bytes))
    rows = len(inputs)
    block = max(n for n in range(1, rows + 1) if rows % n == 0 and n <= max_rows)
    blocks = inputs.reshape(-1, block)
    if len(blocks) == 1:
        return _exchange(features, inputs, axis)
    found = jax.lax.map(functools.partial(_exchange, features, axis=axis), blocks)
    return found.reshape(rows, *found.shape[2:])


@jax.named_scope("exchange")
def _exchange(features: ResidentFeatures, rows: jax.Array, axis: str) -> jax.Array:
    """Every device asks all for its rows and sends what it holds, in one reduce-scatter."""
    of_all = jax.lax.all_gather(rows, axis, tiled=True)
    images = len(features.maps) - 1
    local = of_all - jax.lax.axis_index(axis) * images
    held = (local >= 0) & (local < images)
    # A sum of one map and zeros: exact in any type.
    maps = features.maps[jnp.where(held, local, images)]
    found = jax.lax.psum_scatter(maps, axis, scatter_dimension=0, tiled=True)
    return unpadded(found, features.shape)


def make_resident(
    inputs: FeatureMaps, layout: Layout, dtype: Any = None, *, shard: bool
) -> ResidentFeatures:
    """Transfers the maps block by block; a process reads those of its own devices.

    Args:
      inputs: to read.
      layout: of the devices.
      dtype: on the devices; by default as they are read.
      shard: whether each device holds a part of the images.
    """
    shape = inputs.channels, inputs.regions
    kept_as = inputs.dtype if dtype is None else dtype
    abstract = ResidentFeatures.abstract(len(inputs), shape, kept_as, layout, shard=shard)
    rows = abstract.maps.shape[0]
    sharding = layout.sharded if shard else layout.replicated
    # Devices that hold the same images receive them together.
    sharing: dict[tuple[int, int], list[jax.Device]] = collections.defaultdict(list)
    for device, index in sharding.addressable_devices_indices_map(abstract.maps.shape).items():
        start, end, _ = index[0].indices(rows) if index else (0, rows, 1)
        sharing[start, end].append(device)
    shards = []
    for (start, end), devices in sharing.items():
        zeros = start // (end - start) if shard else 0  # maps of zeros in the shards before
        images = range(start - zeros, min(end - zeros - shard, len(inputs)))
        shards += _transfer(inputs, abstract, images, end - start, devices)
    maps = jax.make_array_from_single_device_arrays(abstract.maps.shape, sharding, shards)
    return dataclasses.replace(abstract, maps=maps)


def _transfer(
    inputs: FeatureMaps,
    abstract: ResidentFeatures,
    images: range,
    rows: int,
    devices: list[jax.Device],
) -> list[jax.Array]:
    """A shard of so many rows on each device: these images, then zeros."""
    shape = (rows, *abstract.maps.shape[1:])

    @functools.partial(jax.jit, donate_argnums=0)
    def put(part: jax.Array, maps: jax.Array, first: jax.Array) -> jax.Array:
        rows = abstract.pad(maps.astype(part.dtype))
        return jax.lax.dynamic_update_slice_in_dim(part, rows, first, axis=0)

    shards = [
        jax.jit(
            functools.partial(jnp.zeros, shape, abstract.maps.dtype),
            out_shardings=jax.sharding.SingleDeviceSharding(device),
        )()
        for device in devices
    ]
    size = max(1, _BLOCK_BYTES // (inputs.channels * inputs.regions * inputs.dtype.itemsize))
    for first in range(0, len(images), size):
        block = inputs[np.asarray(images[first : first + size])]
        shards = [
            put(part, jax.device_put(block, device), first)
            for part, device in zip(shards, devices, strict=True)
        ]
    return shards
