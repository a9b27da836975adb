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
from dedn_jax.parallel.mesh import DATA, REPLICATED, SHARDED, Layout

_BLOCK_BYTES = 256 * 2**20  # transferred at a time
_LANES = 128  # numbers that a TPU lays side by side


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["bits"],
    meta_fields=["shape", "dtype", "axis"],
)
@dataclasses.dataclass(frozen=True)
class ResidentFeatures:
    """Feature maps in device memory.

    They are stored as bits, in lines of 128. Of numbers, XLA would convert all before the steps to
    the type of the products; and of maps with 196 regions it would pad each channel to 256, or
    transpose all of them. Either way they would be in memory twice.

    Attributes:
      bits: `[images, lines, 128]` unsigned; padded to equal shards where the images are sharded.
      shape: (channels, regions) of a map.
      dtype: of a map, as wide as the bits.
      axis: the mapped axis along which the images are sharded; None where they are replicated.
    """

    bits: Any
    shape: tuple[int, int]
    dtype: str
    axis: str | None = None

    @classmethod
    def abstract(
        cls, images: int, shape: tuple[int, int], dtype: Any, axis: str | None
    ) -> ResidentFeatures:
        """Features whose bits are a `ShapeDtypeStruct`."""
        kind = jnp.dtype(dtype)
        lines = -(-shape[0] * shape[1] // _LANES)
        bits = jax.ShapeDtypeStruct((images, lines, _LANES), jnp.dtype(f"uint{8 * kind.itemsize}"))
        return cls(bits, shape, kind.name, axis)

    @property
    def nbytes(self) -> int:
        """Of all shards together."""
        return int(self.bits.size) * self.bits.dtype.itemsize

    def pack(self, maps: np.ndarray) -> np.ndarray:
        """`[n, channels, regions]` maps as rows of `bits`."""
        flat = np.ascontiguousarray(maps).reshape(len(maps), -1).view(self.bits.dtype)
        missing = self.bits.shape[1] * _LANES - flat.shape[1]
        if missing:
            flat = np.pad(flat, ((0, 0), (0, missing)))
        return flat.reshape(len(maps), -1, _LANES)

    def gather(self, images: jax.Array) -> jax.Array:
        """`[n, channels, regions]` maps of images that this device holds, `[n]` rows of `bits`."""

        def unpacked(bits: jax.Array) -> jax.Array:
            numbers = jax.lax.bitcast_convert_type(bits, jnp.dtype(self.dtype))
            flat = numbers.reshape(*bits.shape[:-2], -1)[..., : self.shape[0] * self.shape[1]]
            return flat.reshape(*bits.shape[:-2], *self.shape)

        def one_by_one(bits: jax.Array, images: jax.Array) -> jax.Array:
            def one(image: jax.Array) -> jax.Array:
                return unpacked(jax.lax.dynamic_index_in_dim(bits, image, keepdims=False))

            return jax.lax.map(one, images)

        # A TPU's gather copies the whole array; elsewhere a loop would do one image at a time.
        return jax.lax.platform_dependent(
            self.bits,
            images,
            tpu=one_by_one,
            default=lambda bits, images: unpacked(bits[images]),
        )


def features_spec(features: ResidentFeatures | None) -> PartitionSpec:
    """How resident features lie on the devices."""
    return REPLICATED if features is None or features.axis is None else SHARDED


@jax.named_scope("lookup")
def lookup(features: ResidentFeatures | None, inputs: jax.Array) -> jax.Array:
    """A device's shard of a batch: looked up in resident features, or as it was streamed.

    Args:
      features: None where `inputs` are the feature maps themselves.
      inputs: else `[rows]` image indices.

    Returns:
      `[rows, channels, regions]`.
    """
    if features is None:
        return inputs
    if features.axis is None:
        return features.gather(inputs)
    # A few rows at a time: those of all devices have to fit beside the features.
    devices = jax.lax.psum(1, features.axis)
    image_bytes = features.nbytes // len(features.bits)
    max_rows = max(1, _BLOCK_BYTES // (devices * image_bytes))
    rows = len(inputs)
    block = max(n for n in range(1, rows + 1) if rows % n == 0 and n <= max_rows)
    blocks = inputs.reshape(-1, block)
    if len(blocks) == 1:
        return _exchange(features, inputs, features.axis)
    found = jax.lax.map(functools.partial(_exchange, features, axis=features.axis), blocks)
    return found.reshape(rows, *found.shape[2:])


@jax.named_scope("exchange")
def _exchange(features: ResidentFeatures, rows: jax.Array, axis: str) -> jax.Array:
    """Every device asks all for its rows and sends what it holds, in one reduce-scatter."""
    of_all = jax.lax.all_gather(rows, axis, tiled=True)
    local = of_all - jax.lax.axis_index(axis) * len(features.bits)
    held = (local >= 0) & (local < len(features.bits))
    maps = jnp.where(held[:, None, None], features.gather(jnp.where(held, local, 0)), 0)
    # A sum of one map and zeros: exact in any type.
    return jax.lax.psum_scatter(maps, axis, scatter_dimension=0, tiled=True)


def make_resident(inputs: FeatureMaps, layout: Layout, *, shard: bool) -> ResidentFeatures:
    """Transfers the maps block by block; a process reads those of its own devices."""
    images = layout.padded_rows(len(inputs)) if shard else len(inputs)
    abstract = ResidentFeatures.abstract(
        images, (inputs.channels, inputs.regions), inputs.dtype, DATA if shard else None
    )
    sharding = layout.sharded if shard else layout.replicated
    # Devices that hold the same images receive them together.
    sharing: dict[tuple[int, int], list[jax.Device]] = collections.defaultdict(list)
    for device, index in sharding.addressable_devices_indices_map(abstract.bits.shape).items():
        start, end, _ = index[0].indices(images) if index else (0, images, 1)
        sharing[start, end].append(device)
    shards = []
    for (start, end), devices in sharing.items():
        shards += _transfer(inputs, abstract, start, end, devices)
    bits = jax.make_array_from_single_device_arrays(abstract.bits.shape, sharding, shards)
    return dataclasses.replace(abstract, bits=bits)


def _transfer(
    inputs: FeatureMaps,
    abstract: ResidentFeatures,
    start: int,
    end: int,
    devices: list[jax.Device],
) -> list[jax.Array]:
    """Images `start` to `end` on each device; zeros past the last image."""
    shape = (end - start, *abstract.bits.shape[1:])
    put = jax.jit(functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=0), donate_argnums=0)
    shards = [
        jax.jit(
            functools.partial(jnp.zeros, shape, abstract.bits.dtype),
            out_shardings=jax.sharding.SingleDeviceSharding(device),
        )()
        for device in devices
    ]
    rows = max(1, _BLOCK_BYTES // (inputs.channels * inputs.regions * inputs.dtype.itemsize))
    last = min(end, len(inputs))
    for first in range(start, last, rows):
        block = abstract.pack(inputs[np.arange(first, min(first + rows, last))])
        shards = [
            put(part, jax.device_put(block, device), first - start)
            for part, device in zip(shards, devices, strict=True)
        ]
    return shards
