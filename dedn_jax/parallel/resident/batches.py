"""Training images that stay on the devices, which draw their batches themselves."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dedn_jax.data.pipeline import Batch
from dedn_jax.data.sampler import Pool, Sampler
from dedn_jax.parallel.resident.table import FeatureTable


class Resident(NamedTuple):
    """What a program needs to make batches without the host.

    Attributes:
      table: all feature maps.
      sampler: which of them each step takes.
      most: steps that a call may run.
    """

    table: FeatureTable
    sampler: Sampler
    most: int


def draw_batches(
    sampler: Sampler, pool: Pool, done: jax.Array, most: int, parts: int = 1, axis: str = ""
) -> Batch:
    """The batches of a call's steps, before their images are looked up.

    Drawn for all steps at once, which costs less than one by one, and in full on every device,
    which costs less than sending them.

    Args:
      sampler: of the images.
      pool: the sampler's, on the device.
      done: steps before these.
      most: steps to draw for.
      parts: devices that share out every batch.
      axis: the mapped axis that these lie along, where they are several.

    Returns:
      Image indices as `inputs`, labels and weights of this device's rows, each `[most, rows]`;
      filled up as `Layout.batch` does.
    """
    positions = sampler.draw(pool, done.astype(jnp.uint32) + jnp.arange(most, dtype=jnp.uint32))
    batch = Batch(pool.images[positions], pool.labels[positions])
    each = -(-sampler.size // parts)
    if filled := parts * each - sampler.size:
        weights = jnp.ones(positions.shape, jnp.float32)
        batch = batch._replace(weights=weights)
        batch = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, filled))), batch)
    if parts == 1:
        return batch
    first = jax.lax.axis_index(axis) * each
    own = functools.partial(
        jax.lax.dynamic_slice_in_dim, start_index=first, slice_size=each, axis=1
    )
    return jax.tree.map(own, batch)
