"""The rows that attention pooling multiplies with a feature map."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class BranchRows(NamedTuple):
    """Folded matrices of one branch, one row per attribute.

    Attributes:
      score: `[attributes, dim]`, V·H of the scores.
      attention: `[attributes, dim]`, V·H of the attention logits.
    """

    score: Float[Array, "attributes dim"]
    attention: Float[Array, "attributes dim"]


def stack_rows(sets: list[BranchRows]) -> BranchRows:
    """Stacks the rows of several attribute sets, so that the feature map is read once for all."""
    return BranchRows(
        jnp.concatenate([s.score for s in sets]), jnp.concatenate([s.attention for s in sets])
    )


def factor_dtype(features: jnp.dtype | None) -> jnp.dtype | None:
    """In which factors are multiplied with features of a dtype; None: in their own."""
    return features if features == jnp.bfloat16 else None


def as_factor(x: Float[Array, "*shape"], features: Array) -> Float[Array, "*shape"]:
    """`x` in the dtype in which it is multiplied with `features`."""
    return x.astype(factor_dtype(features.dtype) or x.dtype)
