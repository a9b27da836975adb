"""Columns of the region branch's matrices sharded over devices, each of which trains its own.

The matrices are most of what a model learns: `[word_dim, channels]`, against `[word_dim, regions]`
of the channel branch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dedn_jax.model.gradients import shared_gradient, summed_gradient

_SHARDED = frozenset({"region_score", "region_score_right", "region_attention"})
_REPLICATED = frozenset({"channel_score", "channel_attention"})


class ColumnShards(NamedTuple):
    """Columns sharded along a mapped axis, along which batches are sharded as well.

    Attributes:
      axis: name of the mapped axis.
      num_shards: its size, which divides the number of columns.
    """

    axis: str
    num_shards: int

    def gather(
        self, x: Float[Array, "rows local_columns"], dtype: jnp.dtype | None = None
    ) -> Float[Array, "rows columns"]:
        """All columns, on every device.

        The gradient of this device's columns is that of all devices, summed.

        Args:
          x: this device's columns.
          dtype: in which they are sent; None: their own. Gradients are sent in that of `x`.
        """
        return _gathered(x, self.axis, dtype or x.dtype)

    def sum(self, x: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
        """What every device has all of, its gradient summed over them."""
        return summed_gradient(x, self.axis)

    def shared(self, x: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
        """What every device computes the same rows from, once they have been summed."""
        return shared_gradient(x, self.num_shards)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(x: Array, axis: str, dtype: jnp.dtype) -> Array:
    with jax.named_scope("exchange"):
        return jax.lax.all_gather(x.astype(dtype), axis, axis=1, tiled=True).astype(x.dtype)


def _forward(x: Array, axis: str, dtype: jnp.dtype) -> tuple[Array, None]:
    return _gathered(x, axis, dtype), None


def _backward(axis: str, dtype: jnp.dtype, _: None, cotangent: Array) -> tuple[Array]:
    with jax.named_scope("exchange"):
        return (jax.lax.psum_scatter(cotangent, axis, scatter_dimension=1, tiled=True),)


_gathered.defvjp(_forward, _backward)


def has_column_shards(path: Sequence[object], _: object = None) -> bool:
    """Whether a parameter, by its path, is sharded where columns are. A filter of Flax."""
    return not _SHARDED.isdisjoint(path)


def is_summed(path: Sequence[object], _: object = None) -> bool:
    """Whether a parameter's gradient is that of all devices where columns are sharded.

    Of other parameters (word vectors, left factors, heads) each device has a part of it. A filter
    of Flax.
    """
    return not (_SHARDED | _REPLICATED).isdisjoint(path)
