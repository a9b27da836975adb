"""Attention pooling for GPUs (Pallas, Triton).

Forward: one program per block of rows and image; positions in blocks with the online softmax
(Milakov and Gimelshein, arXiv 1805.02867), scores and logits in registers. Programs of one image
run together, so that its features come from the second-level cache.

Backward: a kernel recomputes the weights `c β` and `c β (s - p)`, and XLA multiplies them with the
features, for so few images at a time that their weights stay in cache. A block of the gradient
itself, `2 x row block x dim` in float32, would not fit into registers, and atomic additions would
make training irreproducible.

Triton's blocks have powers of two as sizes, hence the masks.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float

from dedn_jax.model.kernels.common import Features, Rows, Statistics

# The largest blocks: two float32 accumulators of rows x positions take 64 registers per thread.
# Triton's matrix product takes no side below 16.
_ROWS, _POSITIONS = 64, 128
# Bytes of `dim` per block, half as many where they would be padded: shared memory's widest swizzle.
_DIM_BYTES = 128
_SMALLEST = 16
_WARPS, _STAGES = 8, 3
# Bytes of weights per product: they stay in the second-level cache (40 MB and more).
_WEIGHT_BYTES = 32 * 2**20


def _side(size: int, most: int) -> int:
    return min(most, max(_SMALLEST, pl.next_power_of_2(size)))


def _precision(dtype: Any) -> lax.Precision | None:
    """None follows `jax.default_matmul_precision`, which does not apply to 16-bit products."""
    return None if dtype == jnp.float32 else lax.Precision.DEFAULT


def _load(ref: Any, *axes: tuple[Any, int]) -> jax.Array:
    """A block of an array, zero past its ends.

    Args:
      ref: the array.
      axes: start and size of the block along each axis.
    """
    at = ref.at[tuple(pl.ds(start, size) for start, size in axes)]
    mask = _mask(ref.shape, *axes)
    return plgpu.load(at) if mask is None else plgpu.load(at, mask=mask, other=0)


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


def _products(
    score_ref: Any,
    attention_ref: Any,
    features_ref: Any,
    row: tuple[Any, int],
    position: tuple[Any, int],
    transposed: bool,
) -> tuple[jax.Array, jax.Array]:
    """Scores and logits of a block, `[rows, positions]` float32; logits -inf past the positions."""
    dim = score_ref.shape[1]
    positions = features_ref.shape[0 if transposed else 1]
    side = _DIM_BYTES // features_ref.dtype.itemsize
    side = _side(dim, side if dim % side == 0 else side // 2)

    def add(i: Any, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        at = (i * side, side)
        features = _load(features_ref, *((position, at) if transposed else (at, position)))
        multiply = functools.partial(
            plgpu.dot, b=features, trans_b=transposed, precision=_precision(features.dtype)
        )
        return (
            sums[0] + multiply(_load(score_ref, row, at)),
            sums[1] + multiply(_load(attention_ref, row, at)),
        )

    zero = jnp.zeros((row[1], position[1]), jnp.float32)
    scores, logits = lax.fori_loop(0, pl.cdiv(dim, side), add, (zero, zero))
    if positions % position[1]:
        inside = position[0] + lax.broadcasted_iota(jnp.int32, logits.shape, 1) < positions
        logits = jnp.where(inside, logits, -jnp.inf)
    return scores, logits


def _forward_kernel(
    score_ref: Any,
    attention_ref: Any,
    features_ref: Any,
    pooled_ref: Any,
    maximum_ref: Any,
    total_ref: Any,
    *,
    transposed: bool,
) -> None:
    positions = features_ref.shape[0 if transposed else 1]
    rows = _side(score_ref.shape[0], _ROWS)
    side = _side(positions, _POSITIONS)
    row = (pl.program_id(0) * rows, rows)

    def add(i: Any, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        before, total, weighted = sums
        scores, logits = _products(
            score_ref, attention_ref, features_ref, row, (i * side, side), transposed
        )
        maximum = jnp.maximum(before, logits.max(1))
        weights = jnp.exp(logits - maximum[:, None])
        shrink = jnp.exp(before - maximum)
        return (
            maximum,
            total * shrink + weights.sum(1),
            weighted * shrink + (weights * scores).sum(1),
        )

    zero = jnp.zeros((rows,), jnp.float32)
    start = (jnp.full((rows,), -jnp.inf, jnp.float32), zero, zero)
    maximum, total, weighted = lax.fori_loop(0, pl.cdiv(positions, side), add, start)
    inside = _mask(pooled_ref.shape, row)
    results = (pooled_ref, weighted / total), (maximum_ref, maximum), (total_ref, total)
    for ref, result in results:
        plgpu.store(ref.at[pl.ds(*row)], result, mask=inside)


def _weights_kernel(
    score_ref: Any,
    attention_ref: Any,
    features_ref: Any,
    cotangent_ref: Any,
    pooled_ref: Any,
    maximum_ref: Any,
    total_ref: Any,
    by_score_ref: Any,
    by_attention_ref: Any,
    *,
    transposed: bool,
) -> None:
    rows = _side(score_ref.shape[0], _ROWS)
    side = _side(features_ref.shape[0 if transposed else 1], _POSITIONS)
    row = (pl.program_id(0) * rows, rows)
    position = (pl.program_id(1) * side, side)
    scores, logits = _products(score_ref, attention_ref, features_ref, row, position, transposed)
    statistics = Statistics(
        *(_load(ref, row) for ref in (cotangent_ref, pooled_ref, maximum_ref, total_ref))
    )
    inside = _mask(by_score_ref.shape, row, position)
    both = statistics.columns().weights(scores, logits)
    for ref, result in zip((by_score_ref, by_attention_ref), both, strict=True):
        plgpu.store(ref.at[pl.ds(*row), pl.ds(*position)], result.astype(ref.dtype), mask=inside)


def _one_image(array: jax.Array | jax.ShapeDtypeStruct, axis: int) -> pl.BlockSpec:
    """One image's slice of an array; the image is the program's index along grid axis `axis`."""
    zeros = (0,) * (len(array.shape) - 1)
    return pl.BlockSpec((None, *array.shape[1:]), lambda *ids: (ids[axis], *zeros))


def _one_of_two(rows: Rows, which: int) -> pl.BlockSpec:
    return pl.BlockSpec((None, *rows.shape[1:]), lambda *ids: (which, 0, 0))


def forward(
    rows: Rows, features: Features, *, transposed: bool, interpret: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """See `Backend.forward`."""
    attributes, batch = rows.shape[1], len(features)
    out = jax.ShapeDtypeStruct((batch, attributes), jnp.float32)
    pooled, maximum, total = pl.pallas_call(
        functools.partial(_forward_kernel, transposed=transposed),
        grid=(pl.cdiv(attributes, _side(attributes, _ROWS)), batch),
        in_specs=[_one_of_two(rows, 0), _one_of_two(rows, 1), _one_image(features, 1)],
        out_specs=[_one_image(out, 1)] * 3,
        out_shape=[out] * 3,
        compiler_params=plgpu.CompilerParams(num_warps=_WARPS, num_stages=_STAGES),
        interpret=interpret,
        name="attention_pool",
    )(rows, rows, features)
    return pooled, maximum, total


def _weights(
    rows: Rows, features: Features, statistics: Statistics, transposed: bool, interpret: bool
) -> list[Float[Array, "batch attributes positions"]]:
    """`c β` and `c β (s - p)`, in the features' dtype."""
    attributes, batch = rows.shape[1], len(features)
    positions = features.shape[1 if transposed else 2]
    out = jax.ShapeDtypeStruct((batch, attributes, positions), features.dtype)
    grid = (
        pl.cdiv(attributes, _side(attributes, _ROWS)),
        pl.cdiv(positions, _side(positions, _POSITIONS)),
        batch,
    )
    result: list[jax.Array] = pl.pallas_call(
        functools.partial(_weights_kernel, transposed=transposed),
        grid=grid,
        in_specs=[
            _one_of_two(rows, 0),
            _one_of_two(rows, 1),
            _one_image(features, 2),
            *(_one_image(x, 2) for x in statistics),
        ],
        out_specs=[_one_image(out, 2)] * 2,
        out_shape=[out] * 2,
        compiler_params=plgpu.CompilerParams(num_warps=_WARPS, num_stages=_STAGES),
        interpret=interpret,
        name="attention_pool_weights",
    )(rows, rows, features, *statistics)
    return result


def row_gradient(
    rows: Rows, features: Features, statistics: Statistics, *, transposed: bool, interpret: bool
) -> jax.Array:
    """See `Backend.row_gradient`."""
    batch, positions = len(features), features.shape[1 if transposed else 2]
    one_image = 2 * rows.shape[1] * positions * features.dtype.itemsize
    images = min(batch, max(1, _WEIGHT_BYTES // one_image))
    formula = "bap,bpd->ad" if transposed else "bap,bdp->ad"

    def of_images(start: Any, size: int) -> jax.Array:
        f, s = jax.tree.map(
            lambda x: lax.dynamic_slice_in_dim(x, start, size), (features, statistics)
        )
        weights = _weights(rows, f, s, transposed, interpret)
        return jnp.stack(
            [jnp.einsum(formula, w, f, preferred_element_type=jnp.float32) for w in weights]
        )

    chunks, rest = divmod(batch, images)
    if chunks == 1 and not rest:
        return of_images(0, batch)
    total = lax.fori_loop(
        0,
        chunks,
        lambda i, total: total + of_images(i * images, images),
        jnp.zeros(rows.shape, jnp.float32),
    )
    return total + of_images(chunks * images, rest) if rest else total
