"""Feature maps that are still to be looked up in a table."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["table", "rows"], meta_fields=["map_shape"]
)
@dataclasses.dataclass(frozen=True)
class IndexedMaps:
    """Feature maps by their rows in a table, which a kernel can look up while it computes.

    Attributes:
      table: `[images, regions, channels]`, the last two may be padded, with anything finite.
      rows: `[batch]`, of the table.
      map_shape: (channels, regions) without padding.
    """

    table: Float[Array, "images regions channels"]
    rows: Int[Array, " batch"]
    map_shape: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the maps: batch, channels, regions."""
        return (len(self.rows), *self.map_shape)

    @property
    def dtype(self) -> jnp.dtype:
        return self.table.dtype

    @jax.named_scope("lookup")
    def array(self) -> Float[Array, "batch channels regions"]:
        """The maps themselves."""
        return unpadded(self.table[self.rows], self.map_shape)


def as_array(
    maps: Float[Array, "batch channels regions"] | IndexedMaps,
) -> Float[Array, "batch channels regions"]:
    """Maps, looked up where they are not yet."""
    return maps.array() if isinstance(maps, IndexedMaps) else maps


def unpadded(
    maps: Float[Array, "batch padded_regions padded_channels"], map_shape: tuple[int, int]
) -> Float[Array, "batch channels regions"]:
    """Rows of a table as maps of (channels, regions)."""
    channels, regions = map_shape
    # Else XLA may convert the whole table to the type of the products before the first step, and
    # have it in memory twice.
    maps = jax.lax.optimization_barrier(maps)
    return jnp.swapaxes(maps[:, :regions, :channels], 1, 2)
