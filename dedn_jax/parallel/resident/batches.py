"""Batches drawn on the devices, from features that are resident there."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dedn_jax.data.pipeline import Batch
from dedn_jax.data.sampler import Pool, Sampler
from dedn_jax.parallel.resident.features import ResidentFeatures


class ResidentBatches(NamedTuple):
    """What a program needs to make batches without the host.

    Attributes:
      features: all feature maps.
      sampler: which images each step takes.
      max_steps: steps that a call may run.
    """

    features: ResidentFeatures
    sampler: Sampler
    max_steps: int


def draw_batches(
    sampler: Sampler, pool: Pool, done: jax.Array, max_steps: int, shards: int = 1, axis: str = ""
) -> Batch:
    """The batches of a call's steps, before their images are looked up.

    They are drawn for all steps at once, which is cheaper than one by one, and in full on every
    device, which is cheaper than sending them.

    Args:
      sampler: of the images.
      pool: the sampler's, on the device.
      done: steps before these.
      max_steps: steps to draw for.
      shards: of every batch.
      axis: the mapped axis along which they lie, where there are several.

    Returns:
      Image indices as `inputs`, labels and weights of this device's rows, each `[max_steps, rows]`;
      padded as by `Layout.batch`.
    """
    steps = done.astype(jnp.uint32) + jnp.arange(max_steps, dtype=jnp.uint32)
    positions = sampler.draw(pool, steps)
    batch = Batch(pool.images[positions], pool.labels[positions])
    per_shard = -(-sampler.size // shards)
    if missing := shards * per_shard - sampler.size:
        weights = jnp.ones(positions.shape, jnp.float32)
        batch = batch._replace(weights=weights)
        batch = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, missing))), batch)
    if shards == 1:
        return batch
    first = jax.lax.axis_index(axis) * per_shard
    own = functools.partial(
        jax.lax.dynamic_slice_in_dim, start_index=first, slice_size=per_shard, axis=1
    )
    return jax.tree.map(own, batch)
