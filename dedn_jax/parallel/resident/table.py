"""All feature maps of a data set on the devices: whole on each, or a part of the images on each."""

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
from dedn_jax.parallel.mesh import CUT, DATA, WHOLE, Layout

_BLOCK_BYTES = 256 * 2**20  # sent at a time
_LINE = 128  # numbers that a TPU lays side by side


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["bits"],
    meta_fields=["shape", "dtype", "axis"],
)
@dataclasses.dataclass(frozen=True)
class FeatureTable:
    """Feature maps that stay on the devices.

    They are kept as bits, in lines. Of numbers, XLA would turn the whole table into the type of the
    products before the steps, and of maps with 196 regions it would pad each channel to 256, or
    turn the whole table around; either way it would be in memory twice.

    Attributes:
      bits: `[images, lines, 128]` unsigned; filled up to equal parts where it is cut.
      shape: (channels, regions) of a map.
      dtype: of a map, as wide as the bits.
      axis: name of the mapped axis along which the images are cut; None where each has all.
    """

    bits: Any
    shape: tuple[int, int]
    dtype: str
    axis: str | None = None

    @classmethod
    def like(cls, images: int, shape: tuple[int, int], dtype: Any, axis: str | None) -> Any:
        """A table that has a form and no content."""
        kind = jnp.dtype(dtype)
        lines = -(-shape[0] * shape[1] // _LINE)
        bits = jax.ShapeDtypeStruct((images, lines, _LINE), jnp.dtype(f"uint{8 * kind.itemsize}"))
        return cls(bits, shape, kind.name, axis)

    @property
    def nbytes(self) -> int:
        """Of all its parts together."""
        return int(self.bits.size) * self.bits.dtype.itemsize

    def pack(self, maps: np.ndarray) -> np.ndarray:
        """`[n, channels, regions]` as they are kept."""
        flat = np.ascontiguousarray(maps).reshape(len(maps), -1).view(self.bits.dtype)
        missing = self.bits.shape[1] * _LINE - flat.shape[1]
        if missing:
            flat = np.pad(flat, ((0, 0), (0, missing)))
        return flat.reshape(len(maps), -1, _LINE)

    def maps(self, images: jax.Array) -> jax.Array:
        """`[n, channels, regions]` of images that are here, `[n]` places in `bits`."""

        def unpacked(bits: jax.Array) -> jax.Array:
            numbers = jax.lax.bitcast_convert_type(bits, jnp.dtype(self.dtype))
            flat = numbers.reshape(*bits.shape[:-2], -1)[..., : self.shape[0] * self.shape[1]]
            return flat.reshape(*bits.shape[:-2], *self.shape)

        def one_by_one(bits: jax.Array, images: jax.Array) -> jax.Array:
            def one(image: jax.Array) -> jax.Array:
                return unpacked(jax.lax.dynamic_index_in_dim(bits, image, keepdims=False))

            return jax.lax.map(one, images)

        # A TPU's gather moves the whole table; elsewhere each image would wait for the one before.
        return jax.lax.platform_dependent(
            self.bits,
            images,
            tpu=one_by_one,
            default=lambda bits, images: unpacked(bits[images]),
        )


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
        return table.maps(inputs)
    # Some rows at a time: the images that all devices want have to fit beside the table.
    devices = jax.lax.psum(1, table.axis)
    image_bytes = table.nbytes // len(table.bits)
    most = max(1, _BLOCK_BYTES // (devices * image_bytes))
    rows = len(inputs)
    turn = max(n for n in range(1, rows + 1) if rows % n == 0 and n <= most)
    turns = inputs.reshape(-1, turn)
    if len(turns) == 1:
        return _exchange(table, inputs, table.axis)
    found = jax.lax.map(functools.partial(_exchange, table, axis=table.axis), turns)
    return found.reshape(rows, *found.shape[2:])


def _exchange(table: FeatureTable, wanted: jax.Array, axis: str) -> jax.Array:
    """Every device asks all for its rows, and gives what it has to all, in one reduce-scatter."""
    asked = jax.lax.all_gather(wanted, axis, tiled=True)
    place = asked - jax.lax.axis_index(axis) * len(table.bits)
    here = (place >= 0) & (place < len(table.bits))
    given = jnp.where(here[:, None, None], table.maps(jnp.where(here, place, 0)), 0)
    # A sum of one image and zeros: exact in any type.
    return jax.lax.psum_scatter(given, axis, scatter_dimension=0, tiled=True)


def make_table(inputs: FeatureMaps, layout: Layout, *, cut: bool) -> FeatureTable:
    """Sends the maps block by block; a process reads what its own devices keep."""
    images = layout.rows(len(inputs)) if cut else len(inputs)
    form: FeatureTable = FeatureTable.like(
        images, (inputs.channels, inputs.regions), inputs.dtype, DATA if cut else None
    )
    sharding = layout.by_batch if cut else layout.replicated
    # Devices that keep the same images are sent them together.
    sharing: dict[tuple[int, int], list[jax.Device]] = collections.defaultdict(list)
    for device, index in sharding.addressable_devices_indices_map(form.bits.shape).items():
        start, end, _ = index[0].indices(images) if index else (0, images, 1)
        sharing[start, end].append(device)
    parts = []
    for (start, end), devices in sharing.items():
        parts += _send(inputs, form, start, end, devices)
    bits = jax.make_array_from_single_device_arrays(form.bits.shape, sharding, parts)
    return dataclasses.replace(form, bits=bits)


def _send(
    inputs: FeatureMaps, form: FeatureTable, start: int, end: int, devices: list[jax.Device]
) -> list[jax.Array]:
    """Images `start` to `end` on each device; zeros for those that there are not."""
    shape = (end - start, *form.bits.shape[1:])
    put = jax.jit(functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=0), donate_argnums=0)
    parts = [
        jax.jit(
            functools.partial(jnp.zeros, shape, form.bits.dtype),
            out_shardings=jax.sharding.SingleDeviceSharding(device),
        )()
        for device in devices
    ]
    rows = max(1, _BLOCK_BYTES // (inputs.channels * inputs.regions * inputs.dtype.itemsize))
    last = min(end, len(inputs))
    for first in range(start, last, rows):
        block = form.pack(inputs[np.arange(first, min(first + rows, last))])
        parts = [
            put(part, jax.device_put(block, device), first - start)
            for part, device in zip(parts, devices, strict=True)
        ]
    return parts
