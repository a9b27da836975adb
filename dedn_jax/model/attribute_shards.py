"""Rows of attributes sharded over devices, each of which folds and pools its shard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class AttributeShards(NamedTuple):
    """Attribute rows sharded along a mapped axis.

    Every attribute set is padded with zero rows to equal shards, so that all devices run one
    program whatever the sizes of the sets.

    Attributes:
      axis: name of the mapped axis.
      num_shards: its size.
    """

    axis: str
    num_shards: int

    def _shard_size(self, attributes: int) -> int:
        return -(-attributes // self.num_shards)

    def local(
        self, vectors: Float[Array, "attributes word_dim"]
    ) -> Float[Array, "shard_size word_dim"]:
        """This device's shard of a set's word vectors."""
        size = self._shard_size(len(vectors))
        padded = jnp.pad(vectors, ((0, size * self.num_shards - len(vectors)), (0, 0)))
        return jax.lax.dynamic_slice_in_dim(padded, jax.lax.axis_index(self.axis) * size, size)

    @jax.named_scope("exchange")
    def gather(
        self, scores: Float[Array, "batch local_rows"], sizes: Sequence[int]
    ) -> Float[Array, "batch all_rows"]:
        """Scores of all rows, on every device.

        Args:
          scores: `[batch, local_rows]`, this device's shard of each set, one set after another.
          sizes: number of attributes of each set.

        Returns:
          `[batch, Σ sizes]`, one set after another.
        """
        shards = jax.lax.all_gather(scores, self.axis, axis=1)  # [batch, num_shards, local_rows]
        gathered, start = [], 0
        for size in sizes:
            end = start + self._shard_size(size)
            one_set = shards[:, :, start:end].reshape(len(scores), -1)
            gathered.append(one_set[:, :size])
            start = end
        return jnp.concatenate(gathered, axis=1)
