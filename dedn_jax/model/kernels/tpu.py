"""Attention pooling for TPUs (Pallas, Mosaic).

Grid: blocks of rows, images, blocks of positions; the last runs fastest. A block of rows stays in
VMEM while all images pass by, so the feature map is read once per block of rows; a softmax over
several blocks of positions is the online one (Milakov and Gimelshein, arXiv 1805.02867).

Arrays of one number per image and attribute go in and out as `[blocks, batch, n, row block]`: their
last two axes are then whole in each block, and the row block need not be a multiple of 128 lanes.
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

from dedn_jax.model.kernels.common import Statistics

# A kernel gets 16 MiB of VMEM unless XLA is told otherwise (the smallest of the generations has no
# more). The rest is for what the compiler itself needs.
_VMEM_BYTES = 13 * 2**20
# Sublanes of a tile of 16-bit numbers, and lanes.
_SUBLANES, _LANES = 16, 128
# Rows that a block should have, forward and backward, for the matrix units not to wait for memory:
# per byte of bfloat16 features 2 operations a row forward and 6 backward; the chips do 170 to 570
# in the time of reading one.
_ENOUGH_ROWS = {False: 256, True: 128}
# Fewer positions at a time leave most of a 128 x 128 matrix unit empty.
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
    """Rows and positions of a block, so that one grid step fits into VMEM.

    Positions are cut only if fewer rows than enough would fit otherwise. Then as many rows as fit,
    in blocks of one size: each block reads all features once.

    Args:
      attributes: rows.
      dim: of a row.
      positions: of an image.
      itemsize: bytes of a feature.
      transposed: positions before `dim` in the features.
      backward: for the gradient, not the value.
      exact: float32 products that Mosaic makes of bfloat16 parts, which take room too.
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
    """The features with that axis last which lanes pad less, and whether positions come first.

    XLA lays arrays out so as well on a TPU, whatever the order of their axes: 2048 x 196 with the
    196 on sublanes. The swap is therefore a change of name there, and what saves a copy.
    """

    def padded(rows: int, columns: int) -> int:
        return _up(rows, 8) * _up(columns, _LANES)

    _, rows, columns = features.shape
    if padded(columns, rows) < padded(rows, columns):
        return jnp.swapaxes(features, 1, 2), not transposed
    return features, transposed


def _precision(dtype: Any) -> lax.Precision:
    """Mosaic multiplies in one pass of bfloat16 or in as many as float32 takes; nothing between."""
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

    Past the last position memory is undefined: features there become 0, logits -inf.
    """
    features = features_ref[...]
    axis = 0 if transposed else 1
    size = features.shape[axis]
    left = positions - pl.program_id(2) * size
    if positions % size:
        at = lax.broadcasted_iota(jnp.int32, features.shape, axis)
        features = jnp.where(at < left, features, jnp.zeros_like(features))
    _, block, dim = rows_ref.shape
    # One product, so that the features enter the matrix unit once.
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
    cotangent, pooled, maximum, total = _columns(statistics_ref[...])
    by_score = jnp.exp(logits - maximum) * (cotangent / total)
    by_attention = by_score * (scores - pooled)
    weights = jnp.concatenate([by_score, by_attention]).astype(features.dtype)
    gradient = _product(weights, features, 0 if transposed else 1)
    out_ref[...] += gradient.reshape(out_ref.shape)


class _Plan:
    """Blocks, grid and the parts of a call that both passes share."""

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
        # One buffer: a block of rows stays for all images, there is nothing to fetch ahead.
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
        """`function` with what it is compiled for."""
        return functools.partial(function, positions=self.positions, transposed=self.transposed)

    def per_image(self, n: int) -> tuple[tuple[int, ...], pl.BlockSpec]:
        """Shape and blocks of an array of n numbers per image and attribute."""
        spec = pl.BlockSpec((None, None, n, self.block), lambda i, b, p: (i, b, 0, 0))
        return (self.count, self.batch, n, self.block), spec

    def cost(self, products: int) -> pl.CostEstimate:
        """What XLA's scheduler wants to know; `products` of `rows x dim x positions` per image."""
        one = self.batch * self.rows.shape[1] * self.positions
        return pl.CostEstimate(
            flops=2 * products * one * self.dim,
            transcendentals=one,
            bytes_accessed=self.rows.dtype.itemsize
            * (self.rows.size + self.count * self.batch * self.dim * self.positions),
        )


def forward(
    rows: jax.Array, features: jax.Array, *, transposed: bool, interpret: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The result, and maximum and sum of the softmax, `[batch, attributes]` float32 each.

    Args:
      rows: `[2, attributes, dim]` of the features' dtype.
      features: `[batch, dim, positions]`, or `[batch, positions, dim]` if `transposed`.
      transposed: how the features lie.
      interpret: whether to interpret, on any platform.
    """
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
    whole = jnp.transpose(out, (2, 1, 0, 3)).reshape(3, plan.batch, -1)[..., : plan.attributes]
    return whole[0], whole[1], whole[2]


def row_gradient(
    rows: jax.Array,
    features: jax.Array,
    statistics: Statistics,
    *,
    transposed: bool,
    interpret: bool,
) -> jax.Array:
    """The gradient in the rows, `[2, attributes, dim]` float32.

    Args:
      rows: `[2, attributes, dim]` of the features' dtype.
      features: `[batch, dim, positions]`, or `[batch, positions, dim]` if `transposed`.
      statistics: `[batch, attributes]` each.
      transposed: how the features lie.
      interpret: whether to interpret, on any platform.
    """
    plan = _Plan(rows, features, transposed, backward=True)
    shape, spec = plan.per_image(4)
    added = plan.count * plan.block - plan.attributes
    # Ones, as the sum of a softmax is a divisor.
    stacked = jnp.pad(jnp.stack(statistics), ((0, 0), (0, 0), (0, added)), constant_values=1)
    stacked = stacked.reshape(4, plan.batch, plan.count, plan.block)
    gradient = pl.pallas_call(
        plan.kernel(_gradient_kernel),
        grid=plan.grid,
        in_specs=[plan.rows_spec, plan.features_spec, spec],
        out_specs=pl.BlockSpec((2, plan.block, plan.dim), lambda i, b, p: (0, i, 0)),
        out_shape=jax.ShapeDtypeStruct(plan.rows.shape, jnp.float32),
        # The gradient of a block of rows is added up over the images and positions, in order.
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary")
        ),
        cost_estimate=plan.cost(4),
        interpret=interpret,
        name="attention_pool_row_gradient",
    )(plan.rows, plan.features, jnp.transpose(stacked, (2, 1, 0, 3)).reshape(shape))
    return gradient[:, : plan.attributes]
