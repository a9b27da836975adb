"""The rows of attributes shared out among devices, each of which folds and pools a part of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp


class RowShards(NamedTuple):
    """Which rows are this device's, within a mapped axis.

    Every attribute set is cut into equal parts, filled up with rows of zeros, so that all devices
    run one program whatever the sizes of the sets.

    Attributes:
      axis: name of the mapped axis.
      devices: how many there are along it.
    """

    axis: str
    devices: int

    def _each(self, attributes: int) -> int:
        return -(-attributes // self.devices)

    def own(self, vectors: jax.Array) -> jax.Array:
        """This device's part of a set's word vectors, `[attributes, word_dim]`."""
        each = self._each(len(vectors))
        filled = jnp.pad(vectors, ((0, each * self.devices - len(vectors)), (0, 0)))
        return jax.lax.dynamic_slice_in_dim(filled, jax.lax.axis_index(self.axis) * each, each)

    def gather(self, scores: jax.Array, sizes: Sequence[int]) -> jax.Array:
        """Scores of all rows on every device.

        Args:
          scores: `[batch, own rows]`, the sets' parts one after another.
          sizes: attributes of each set.

        Returns:
          `[batch, Σ sizes]`, the sets one after another.
        """
        parts = jax.lax.all_gather(scores, self.axis, axis=1)  # [batch, devices, own rows]
        whole, start = [], 0
        for size in sizes:
            end = start + self._each(size)
            one_set = parts[:, :, start:end].reshape(len(scores), -1)
            whole.append(one_set[:, :size])
            start = end
        return jnp.concatenate(whole, axis=1)
