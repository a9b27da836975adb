"""Attention pooling for TPUs (Pallas, Mosaic).

Grid: blocks of rows, images, blocks of positions; the last varies fastest. A block of rows stays in
VMEM for all images, so the feature map is read once per block of rows; several blocks of positions
make an online softmax (Milakov and Gimelshein, arXiv 1805.02867).

Arrays with numbers per image and attribute are passed as `[blocks, batch, n, row block]`: a block
then spans their last two axes, and the row block need not be a multiple of 128 lanes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dedn_jax.model.kernels.common import Features, Rows, Statistics

# XLA gives a kernel 16 MiB of VMEM by default (the smallest chips have no more); the compiler needs
# the rest.
_VMEM_BYTES = 13 * 2**20
# Sublanes of a tile of 16-bit numbers, and lanes.
_SUBLANES, _LANES = 16, 128
# Rows per block, forward and backward, from which on matrix units do not wait for memory: a row
# takes 2 operations per byte of bfloat16 features forward and 6 backward, and chips do 170 to 570
# operations in the time of reading a byte.
_ENOUGH_ROWS = {False: 256, True: 128}
# Smaller blocks of positions would leave most of a 128 x 128 matrix unit idle.
_FEWEST_POSITIONS = 96


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def blocks(
    attributes: int,
    dim: int,
    positions: int,
    itemsize: int,
    *,
    transposed: bool,
    backward: bool,
    exact: bool = False,
) -> tuple[int, int]:
    """Rows and positions of a block, such that one grid step fits into VMEM.

    Positions are split only where too few rows would fit otherwise. Rows are then split into as few
    blocks of equal size as possible, since each block reads all features once.

    Args:
      attributes: number of rows.
      dim: length of a row.
      positions: per image.
      itemsize: bytes of a feature.
      transposed: whether features are `[positions, dim]`.
      backward: whether the block is for the gradient.
      exact: float32 products in several passes of bfloat16, which need room for the parts.
    """
    unit = _SUBLANES if transposed else _LANES
    cuts = (_up(-(-positions // n), unit) for n in range(2, 65))
    choices = [positions, *(n for n in cuts if _FEWEST_POSITIONS <= n < positions)]
    lanes = _up(dim, _LANES)

    def rows(block: int) -> int:
        width = _up(block, _LANES)
        image = _up(block, _SUBLANES) * lanes if transposed else _up(dim, _SUBLANES) * width
        fixed = 2 * image * itemsize
        # The rows; scores, logits, weights and their products with scores; columns of one lane.
        one_row = 2 * lanes * itemsize + 4 * width * 4 + 8 * _LANES * 4
        if backward:
            # The gradient's two buffers and the product that is added; the weights once more.
            one_row += 3 * 2 * lanes * 4 + 2 * width * itemsize
        if exact:
            fixed += 2 * image * itemsize
            one_row += 3 * lanes * itemsize + (3 * width * itemsize if backward else 0)
        return max((_VMEM_BYTES - fixed) // one_row // _SUBLANES, 1) * _SUBLANES

    enough = min(attributes, _ENOUGH_ROWS[backward])
    block = next((n for n in choices if rows(n) >= enough), max(choices, key=rows))
    count = -(-attributes // rows(block))
    return _up(-(-attributes // count), _SUBLANES), block


def _compact(features: jax.Array, transposed: bool) -> tuple[jax.Array, bool]:
    """The features with the axis last that needs less padding to lanes, and whether positions come
    first then.

    XLA's layout on a TPU is the same whatever the order of the axes, 2048 x 196 with the 196 on
    sublanes: the swap costs nothing there, and saves a copy.
    """

    def padded(rows: int, columns: int) -> int:
        return _up(rows, 8) * _up(columns, _LANES)

    _, rows, columns = features.shape
    if padded(columns, rows) < padded(rows, columns):
        return jnp.swapaxes(features, 1, 2), not transposed
    return features, transposed


def _precision(dtype: Any) -> lax.Precision:
    """Mosaic multiplies in one pass of bfloat16 or in full float32, with nothing in between."""
    wanted = str(jax.config.jax_default_matmul_precision or "default")  # type: ignore[attr-defined]
    if dtype != jnp.float32 or wanted in ("default", "bfloat16", "fastest"):
        return lax.Precision.DEFAULT
    return lax.Precision.HIGHEST


def _product(a: jax.Array, b: jax.Array, contract_b: int) -> jax.Array:
    """`a` `[m, k]` times `b`, `[k, n]` or `[n, k]`, in float32."""
    return lax.dot_general(
        a,
        b,
        (((1,), (contract_b,)), ((), ())),
        precision=_precision(a.dtype),
        preferred_element_type=jnp.float32,
    )


def _load(
    rows_ref: Any, features_ref: Any, positions: int, transposed: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A block of features, and its scores and logits, `[row block, position block]`.

    Past the last position the block is undefined: features are set to 0 there, logits to -inf.
    """
    features = features_ref[...]
    axis = 0 if transposed else 1
    size = features.shape[axis]
    left = positions - pl.program_id(2) * size
    if positions % size:
        at = lax.broadcasted_iota(jnp.int32, features.shape, axis)
        features = jnp.where(at < left, features, jnp.zeros_like(features))
    _, block, dim = rows_ref.shape
    # One product for both, so that the features are loaded into the matrix unit once.
    both = _product(rows_ref[...].reshape(2 * block, dim), features, 1 - axis)
    scores, logits = both[:block], both[block:]
    if positions % size:
        at = lax.broadcasted_iota(jnp.int32, logits.shape, 1)
        logits = jnp.where(at < left, logits, -jnp.inf)
    return features, scores, logits


def _columns(values: jax.Array) -> list[jax.Array]:
    """`[n, row block]` as n columns `[row block, 1]`."""
    columns = values.T
    return [columns[:, i : i + 1] for i in range(len(values))]


def _forward_kernel(
    rows_ref: Any,
    features_ref: Any,
    out_ref: Any,
    maximum_ref: Any,
    total_ref: Any,
    weighted_ref: Any,
    *,
    positions: int,
    transposed: bool,
) -> None:
    step = pl.program_id(2)

    @pl.when(step == 0)
    def _start() -> None:
        maximum_ref[...] = jnp.full_like(maximum_ref, -jnp.inf)
        total_ref[...] = jnp.zeros_like(total_ref)
        weighted_ref[...] = jnp.zeros_like(weighted_ref)

    _, scores, logits = _load(rows_ref, features_ref, positions, transposed)
    before = maximum_ref[...]
    maximum = jnp.maximum(before, logits.max(1, keepdims=True))
    weights = jnp.exp(logits - maximum)
    shrink = jnp.exp(before - maximum)
    maximum_ref[...] = maximum
    total_ref[...] = total_ref[...] * shrink + weights.sum(1, keepdims=True)
    weighted_ref[...] = weighted_ref[...] * shrink + (weights * scores).sum(1, keepdims=True)

    @pl.when(step == pl.num_programs(2) - 1)
    def _end() -> None:
        total = total_ref[...]
        columns = [weighted_ref[...] / total, maximum_ref[...], total]
        out_ref[...] = jnp.concatenate(columns, 1).T


def _gradient_kernel(
    rows_ref: Any,
    features_ref: Any,
    statistics_ref: Any,
    out_ref: Any,
    *,
    positions: int,
    transposed: bool,
) -> None:
    @pl.when((pl.program_id(1) == 0) & (pl.program_id(2) == 0))
    def _start() -> None:
        out_ref[...] = jnp.zeros_like(out_ref)

    features, scores, logits = _load(rows_ref, features_ref, positions, transposed)
    statistics = Statistics(*_columns(statistics_ref[...]))
    weights = jnp.concatenate(statistics.weights(scores, logits)).astype(features.dtype)
    gradient = _product(weights, features, 0 if transposed else 1)
    out_ref[...] += gradient.reshape(out_ref.shape)


class _Plan:
    """Block sizes, grid and block specs of a call, for both passes."""

    def __init__(
        self, rows: jax.Array, features: jax.Array, transposed: bool, *, backward: bool
    ) -> None:
        self.features, transposed = _compact(features, transposed)
        _, self.attributes, self.dim = rows.shape
        self.batch = len(features)
        self.positions = self.features.shape[1 if transposed else 2]
        self.block, size = blocks(
            self.attributes,
            self.dim,
            self.positions,
            features.dtype.itemsize,
            transposed=transposed,
            backward=backward,
            exact=_precision(features.dtype) == lax.Precision.HIGHEST,
        )
        self.count = -(-self.attributes // self.block)
        self.grid = (self.count, self.batch, -(-self.positions // size))
        self.rows = jnp.pad(rows, ((0, 0), (0, self.count * self.block - self.attributes), (0, 0)))
        # One buffer: a block of rows serves all images, so there is nothing to prefetch.
        self.rows_spec = pl.BlockSpec(
            (2, self.block, self.dim), lambda i, b, p: (0, i, 0), pipeline_mode=pl.Buffered(1)
        )
        self.features_spec = (
            pl.BlockSpec((None, size, self.dim), lambda i, b, p: (b, p, 0))
            if transposed
            else pl.BlockSpec((None, self.dim, size), lambda i, b, p: (b, 0, p))
        )
        self.transposed = transposed

    def kernel(self, function: Callable[..., None]) -> Callable[..., None]:
        """`function` with its static arguments."""
        return functools.partial(function, positions=self.positions, transposed=self.transposed)

    def per_image(self, n: int) -> tuple[tuple[int, ...], pl.BlockSpec]:
        """Shape and block spec of an array with n numbers per image and attribute."""
        spec = pl.BlockSpec((None, None, n, self.block), lambda i, b, p: (i, b, 0, 0))
        return (self.count, self.batch, n, self.block), spec

    def cost(self, products: int) -> pl.CostEstimate:
        """For XLA's scheduler; `products` is the number of matrix products per image."""
        one = self.batch * self.rows.shape[1] * self.positions
        return pl.CostEstimate(
            flops=2 * products * one * self.dim,
            transcendentals=one,
            bytes_accessed=self.rows.dtype.itemsize
            * (self.rows.size + self.count * self.batch * self.dim * self.positions),
        )


def forward(
    rows: Rows, features: Features, *, transposed: bool, interpret: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """See `Backend.forward`."""
    plan = _Plan(rows, features, transposed, backward=False)
    shape, spec = plan.per_image(3)
    out = pl.pallas_call(
        plan.kernel(_forward_kernel),
        grid=plan.grid,
        in_specs=[plan.rows_spec, plan.features_spec],
        out_specs=spec,
        out_shape=jax.ShapeDtypeStruct(shape, jnp.float32),
        scratch_shapes=[pltpu.VMEM((plan.block, 1), jnp.float32)] * 3,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary")
        ),
        cost_estimate=plan.cost(2),
        interpret=interpret,
        name="attention_pool",
    )(plan.rows, plan.features)
    out = jnp.transpose(out, (2, 1, 0, 3)).reshape(3, plan.batch, -1)[..., : plan.attributes]
    return out[0], out[1], out[2]


def row_gradient(
    rows: Rows, features: Features, statistics: Statistics, *, transposed: bool, interpret: bool
) -> jax.Array:
    """See `Backend.row_gradient`."""
    plan = _Plan(rows, features, transposed, backward=True)
    shape, spec = plan.per_image(4)
    added = plan.count * plan.block - plan.attributes
    # Padded with ones, since the kernel divides by the sum of the softmax.
    stacked = jnp.pad(jnp.stack(statistics), ((0, 0), (0, 0), (0, added)), constant_values=1)
    stacked = stacked.reshape(4, plan.batch, plan.count, plan.block)
    gradient = pl.pallas_call(
        plan.kernel(_gradient_kernel),
        grid=plan.grid,
        in_specs=[plan.rows_spec, plan.features_spec, spec],
        out_specs=pl.BlockSpec((2, plan.block, plan.dim), lambda i, b, p: (0, i, 0)),
        out_shape=jax.ShapeDtypeStruct(plan.rows.shape, jnp.float32),
        # The gradient of a block of rows accumulates over images and positions, in order.
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary")
        ),
        cost_estimate=plan.cost(4),
        interpret=interpret,
        name="attention_pool_row_gradient",
    )(plan.rows, plan.features, jnp.transpose(stacked, (2, 1, 0, 3)).reshape(shape))
    return gradient[:, : plan.attributes]
