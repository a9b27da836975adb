"""What the backends of a kernel share."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Statistics(NamedTuple):
    """What the backward pass needs of each image and attribute, all of one shape and float32.

    Attributes:
      cotangent: of `pooled`.
      pooled: the result.
      maximum: of the logits.
      total: `Σ exp(logits - maximum)`.
    """

    cotangent: jax.Array
    pooled: jax.Array
    maximum: jax.Array
    total: jax.Array

    def weights(self, scores: jax.Array, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`c β` and `c β (s - p)`, the derivatives in the scores and in the logits.

        Args:
          scores: `[attributes, positions]`.
          logits: `[attributes, positions]`.
        """
        cotangent, pooled, maximum, total = (x[:, None] for x in self)
        by_score = jnp.exp(logits - maximum) * (cotangent / total)
        return by_score, by_score * (scores - pooled)


def products(rows: jax.Array, image: jax.Array, transposed: bool) -> tuple[jax.Array, jax.Array]:
    """Scores and logits, `[attributes, positions]` float32.

    Args:
      rows: `[2, attributes, dim]`.
      image: `[dim, positions]`, or `[positions, dim]` if `transposed`.
      transposed: how the image lies.
    """
    scores, logits = jnp.einsum(
        "zad,pd->zap" if transposed else "zad,dp->zap",
        rows,
        image,
        preferred_element_type=jnp.float32,
    )
    return scores, logits
