"""The interface of a platform's kernels, and the arithmetic that they share."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float

# `[batch, dim, positions]`, or `[batch, positions, dim]` if transposed.
Features = Float[Array, "batch _ _"]
# Score rows, then attention rows, in the dtype of the features.
Rows = Float[Array, "2 attributes dim"]


class Statistics(NamedTuple):
    """What the backward pass needs of each image and attribute, all of one shape and float32.

    Attributes:
      cotangent: of `pooled`.
      pooled: the result.
      maximum: of the logits.
      total: `Σ exp(logits - maximum)`.
    """

    cotangent: Float[Array, "*shape"]
    pooled: Float[Array, "*shape"]
    maximum: Float[Array, "*shape"]
    total: Float[Array, "*shape"]

    def columns(self) -> Statistics:
        """`[attributes]` as `[attributes, 1]`."""
        return Statistics(*(x[:, None] for x in self))

    def weights(
        self,
        scores: Float[Array, "attributes positions"],
        logits: Float[Array, "attributes positions"],
    ) -> tuple[Float[Array, "attributes positions"], Float[Array, "attributes positions"]]:
        """`c β` and `c β (s - p)`, the derivatives in the scores and in the logits.

        These statistics are columns, `[attributes, 1]`.
        """
        by_score = jnp.exp(logits - self.maximum) * (self.cotangent / self.total)
        return by_score, by_score * (scores - self.pooled)


class Backend(Protocol):
    """A platform's kernels: the modules `gpu` and `tpu`.

    `transposed` says that features are `[batch, positions, dim]`; with `interpret` the kernels run
    in interpret mode, which any platform can.
    """

    def forward(
        self, rows: Rows, features: Features, *, transposed: bool, interpret: bool
    ) -> tuple[
        Float[Array, "batch attributes"],
        Float[Array, "batch attributes"],
        Float[Array, "batch attributes"],
    ]:
        """The pooled scores, and maximum and sum of the softmax, all float32."""
        ...

    def row_gradient(
        self,
        rows: Rows,
        features: Features,
        statistics: Statistics,
        *,
        transposed: bool,
        interpret: bool,
    ) -> Float[Array, "2 attributes dim"]:
        """The gradient in the rows, float32, from statistics `[batch, attributes]`."""
        ...


def products(
    rows: Rows, image: Float[Array, "_ _"], transposed: bool
) -> tuple[Float[Array, "attributes positions"], Float[Array, "attributes positions"]]:
    """Scores and logits of one image, float32.

    Args:
      rows: score and attention rows.
      image: `[dim, positions]`, or `[positions, dim]` if `transposed`.
      transposed: the layout of the image.
    """
    scores, logits = jnp.einsum(
        "zad,pd->zap" if transposed else "zad,dp->zap",
        rows,
        image,
        preferred_element_type=jnp.float32,
    )
    return scores, logits
