"""What the GPU's kernels are written with: blocks of arrays, products, online softmaxes."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu


def _block(ref: Any, first: tuple[Any, ...], axes: tuple[Any, ...]) -> tuple[Any, Any]:
    """A block of an array, and which of its elements lie inside.

    Args:
      ref: the array.
      first: indices along the first axes.
      axes: start and size of the block along each of the others.
    """
    at = ref.at[(*map(jnp.int32, first), *(pl.ds(jnp.int32(start), size) for start, size in axes))]
    return at, _mask(ref.shape[len(first) :], *axes)


def load(ref: Any, *axes: tuple[Any, int], first: tuple[Any, ...] = ()) -> jax.Array:
    """A block, zero past the ends of the array; see `_block`."""
    at, mask = _block(ref, first, axes)
    return plgpu.load(at) if mask is None else plgpu.load(at, mask=mask, other=0)


def store(ref: Any, value: jax.Array, *axes: tuple[Any, int], first: tuple[Any, ...] = ()) -> None:
    """Stores what lies inside the array; see `_block`."""
    at, mask = _block(ref, first, axes)
    plgpu.store(at, value.astype(ref.dtype), mask=mask)


def _mask(shape: tuple[int, ...], *axes: tuple[Any, int]) -> jax.Array | None:
    """Which elements of a block lie inside an array of `shape`; None if all do for any start.

    Blocks start at multiples of their size.
    """
    mask = None
    sizes = tuple(size for _, size in axes)
    for axis, (start, size) in enumerate(axes):
        if shape[axis] % size:
            inside = start + lax.broadcasted_iota(jnp.int32, sizes, axis) < shape[axis]
            mask = inside if mask is None else mask & inside
    return mask


def dot(a: jax.Array, b: jax.Array, *, transpose_b: bool = False) -> jax.Array:
    """The product, accumulated in float32."""
    # None follows `jax.default_matmul_precision`, which does not apply to 16-bit products.
    precision = None if a.dtype == jnp.float32 else lax.Precision.DEFAULT
    return plgpu.dot(a, b, trans_b=transpose_b, precision=precision)


def within(logits: jax.Array, positions: tuple[Any, int], size: int) -> jax.Array:
    """A block of logits, whose positions lie along the last axis, and of them only the first `size`
    count.
    """
    start, length = positions
    if size % length == 0:
        return logits
    inside = start + lax.broadcasted_iota(jnp.int32, logits.shape, 1) < size
    return jnp.where(inside, logits, -jnp.inf)


class Softmax(NamedTuple):
    """A softmax, and its mean of the scores, over the positions so far; one number per attribute.

    Attributes:
      maximum: of the logits.
      total: `Σ exp(logits - maximum)`.
      mean: of the scores.
    """

    maximum: jax.Array
    total: jax.Array
    mean: jax.Array

    @classmethod
    def start(cls, attributes: int) -> Softmax:
        zero = jnp.zeros((attributes,), jnp.float32)
        return cls(jnp.full((attributes,), -jnp.inf, jnp.float32), zero, zero)

    def add(
        self, scores: jax.Array, logits: jax.Array, axis: int
    ) -> tuple[Softmax, jax.Array, jax.Array]:
        """With another block, whose positions lie along `axis`, attributes along the other one.

        Returns:
          The softmax, the block's weights `exp(logits - maximum)`, and what to multiply earlier
          ones with.
        """
        maximum = jnp.maximum(self.maximum, logits.max(axis))
        weights = jnp.exp(logits - jnp.expand_dims(maximum, axis))
        shrink = jnp.exp(self.maximum - maximum)
        total = self.total * shrink + weights.sum(axis)
        weighted = self.mean * self.total * shrink + (weights * scores).sum(axis)
        return Softmax(maximum, total, weighted / total), weights, shrink


def one_image(array: Any, axis: int) -> pl.BlockSpec:
    """One image's slice of an array; the image is the program's index along grid axis `axis`."""
    zeros = (0,) * (len(array.shape) - 1)
    return pl.BlockSpec((None, *array.shape[1:]), lambda *ids: (ids[axis], *zeros))
