"""Random views of a batch of feature maps: dropped regions, and images mixed with their neighbours.

Drawn by seed, step and the image's place in the global batch: the same whatever devices it is on.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from dedn_jax.model.losses import BatchMean
from dedn_jax.model.picture_model import normalize_regions

_DROPPED, _MIXED = 0, 1  # streams


class Mixed(NamedTuple):
    """With what each image is mixed, and how much of it is left.

    Attributes:
      labels: class ids of the other images.
      share: λ of the image itself, 1/2 to 1; 1 where there is no other image.
    """

    labels: Int[Array, " b"]
    share: Float[Array, " b"]


def kept_regions(
    seed: int,
    step: Int[Array, ""],
    maps: Float[Array, "b channels *regions"],
    dropped: float,
    axis: str | None,
) -> Bool[Array, "b regions"]:
    """Which regions of each image are not dropped in a step.

    Args:
      seed: of the run.
      step: number of steps taken before.
      maps: of this device's images.
      dropped: share of regions that are dropped.
      axis: along which the batch is sharded.
    """
    keys = _keys(seed, _DROPPED, step, len(maps), axis)
    return jax.vmap(lambda k: jax.random.bernoulli(k, 1.0 - dropped, maps.shape[2:]))(keys)


def mixing(
    seed: int, step: Int[Array, ""], labels: Int[Array, " b"], alpha: float, mean: BatchMean
) -> Mixed:
    """Mixes each image with the next of the batch, the last with none: λ of Beta(α, α).

    Of λ and 1 - λ the larger is the image's own share, so that its label is the one that counts
    most. Source: mixup, arXiv 1710.09412; as a companion of distillation, arXiv 2211.03946.

    Args:
      seed: of the run.
      step: number of steps taken before.
      labels: of this device's images.
      alpha: α, more than 0.
      mean: of the batch: where it is sharded, and which rows pad it.
    """
    keys = _keys(seed, _MIXED, step, len(labels), mean.axis)
    share = jax.vmap(lambda k: jax.random.beta(k, alpha, alpha))(keys)
    share = jnp.maximum(share, 1.0 - share)
    weights = jnp.ones(len(labels)) if mean.weights is None else mean.weights
    there = next_rows(weights, mean.axis) > 0
    last = _first(len(labels), mean.axis) + jnp.arange(len(labels)) + 1 == (
        len(labels) * _devices(mean.axis)
    )
    return Mixed(next_rows(labels, mean.axis), jnp.where(there & ~last, share, 1.0))


def mixed_maps(
    maps: Float[Array, "b channels regions"], mixed: Mixed, axis: str | None
) -> Float[Array, "b channels regions"]:
    """`λ · f + (1 - λ) · f_next`, each region L2-normalised again."""
    share = mixed.share[:, None, None]
    both = share * maps + (1.0 - share) * next_rows(maps, axis)
    return normalize_regions(both).astype(maps.dtype)


def next_rows(rows: Array, axis: str | None) -> Array:
    """The row after each of the global batch, the first after the last."""
    first = rows[:1]
    if axis is not None:
        n = _devices(axis)
        first = jax.lax.ppermute(first, axis, [(i, (i - 1) % n) for i in range(n)])
    return jnp.concatenate([rows[1:], first])


def _keys(
    seed: int, stream: int, step: Int[Array, ""], count: int, axis: str | None
) -> Key[Array, " b"]:
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), step)
    places = _first(count, axis) + jnp.arange(count)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(places)


def _first(count: int, axis: str | None) -> Int[Array, ""] | int:
    """The place of this device's first image in the global batch."""
    return 0 if axis is None else jax.lax.axis_index(axis) * count


def _devices(axis: str | None) -> int:
    return 1 if axis is None else jax.lax.psum(1, axis)
