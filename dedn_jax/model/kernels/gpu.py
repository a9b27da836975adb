"""Attention pooling for GPUs (Pallas, Triton).

One program per block of attributes and image; programs of one image run together, so that its map
comes from the second-level cache. Softmaxes over several blocks of positions are online ones
(Milakov and Gimelshein, arXiv 1805.02867). Maps have channels last: a row is then a multiple of 16
bytes, and is copied in pieces of that width.

An H100's bfloat16 products are all by wgmma, without spills; float32 ones spill, and exact ones, on
the ordinary cores, much: `auto` leaves these to XLA's own operations.

Triton's blocks have powers of two as sizes, hence the masks. JAX 0.11 warns that it will drop this
backend; its successor, Mosaic GPU, needs a Hopper.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float

from dedn_jax.model.kernels import gpu_blocks, gpu_passes
from dedn_jax.model.kernels.common import Maps, Pooled, Rows
from dedn_jax.model.kernels.triton import Softmax, dot, load, one_image, store, within


def _kernel_p(rows_ref: Any, maps_ref: Any, pooled_ref: Any, *kept_refs: Any) -> None:
    """Scores are `[p, attributes]`.

    The weights of a block of positions are those of the softmax so far; `_finish` corrects them.
    """
    p, q = maps_ref.shape
    width, side, step = (
        gpu_blocks.attributes_of(rows_ref),
        gpu_blocks.side(p, gpu_blocks.SIDE),
        gpu_blocks.along_q(maps_ref),
    )
    row = (pl.program_id(0) * width, width)

    def products(position: tuple[Any, int]) -> tuple[jax.Array, ...]:
        def add(i: Any, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            at = (i * step, step)
            block = load(maps_ref, position, at)
            return tuple(
                x + dot(block, load(rows_ref, row, at, first=(k,)), transpose_b=True)
                for k, x in enumerate(sums)
            )

        zero = jnp.zeros((side, width), jnp.float32)
        return lax.fori_loop(0, pl.cdiv(q, step), add, (zero, zero))

    def of_block(j: Any, before: Softmax) -> Softmax:
        position = (j * side, side)
        scores, logits = products(position)
        if p % side:
            inside = position[0] + lax.broadcasted_iota(jnp.int32, logits.shape, 0) < p
            logits = jnp.where(inside, logits, -jnp.inf)
        now, weights, _ = before.add(scores, logits, 0)
        if kept_refs:
            by_score, by_attention, *statistics = kept_refs
            weights /= now.total
            store(by_score, weights, position, row)
            store(by_attention, weights * (scores - now.mean), position, row)
            for ref, value in zip(statistics, now, strict=False):
                store(ref, value, row, first=(j,))
        return now

    start = Softmax.start(width)
    count = pl.cdiv(p, side)
    end = of_block(0, start) if count == 1 else lax.fori_loop(0, count, of_block, start)
    store(pooled_ref, end.mean, row)


def _finish(
    kept: list[Float[Array, "batch p attributes"]],
    blocks: Softmax,
    side: int,
) -> tuple[jax.Array, ...]:
    """The kept factors by the whole softmax, from those by the softmax up to each block.

    Args:
      kept: as `_kernel_p` leaves them.
      blocks: `[batch, blocks, attributes]` each.
      side: positions in a block.
    """
    weights, centred = (x.astype(jnp.float32) for x in kept)
    end = Softmax(*(x[:, -1:] for x in blocks))
    shrink = jnp.exp(blocks.maximum - end.maximum) * blocks.total / end.total
    shrink, moved = (
        jnp.repeat(x, side, axis=1)[:, : weights.shape[1]] for x in (shrink, blocks.mean - end.mean)
    )
    both = weights * shrink, (centred + weights * moved) * shrink
    return tuple(x.astype(kept[0].dtype) for x in both)


def _kernel_q(
    blocks: gpu_blocks.Blocks, rows_ref: Any, maps_ref: Any, pooled_ref: Any, *kept_refs: Any
) -> None:
    """Scores are `[attributes, q]`, accumulators `[attributes, pieces of p]`.

    The rows are the left side of all products: what is made of the scores goes from registers into
    the next product, and a block of the map serves both.

    `Σ β (s - mean) f` is made from `Σ β (s - near) f`, where `near` is the mean of the first block:
    `Σ β s f - mean Σ β f` would lose its digits where all scores have a value in common.
    """
    p, q = maps_ref.shape
    width, step = blocks.attributes, blocks.step
    row = (pl.program_id(0) * width, width)
    whole = gpu_blocks.pieces(p)
    mine = whole if kept_refs else []
    rows = [[load(rows_ref, row, at, first=(k,)) for at in whole] for k in range(2)]

    def of_block(i: Any, carry: tuple[Any, ...]) -> Any:
        before, near, *sums = carry
        position = (i * step, step)
        maps = [load(maps_ref, at, position) for at in whole]
        scores, logits = (functools.reduce(jnp.add, map(dot, of, maps)) for of in rows)
        now, weights, shrink = before.add(scores, within(logits, position, q), 1)
        near = jnp.where(i == 0, now.mean, near)
        factors = weights, weights * (scores - near[:, None])
        products = itertools.product(maps if kept_refs else [], factors)
        sums = [
            x * shrink[:, None] + dot(factor.astype(block.dtype), block, transpose_b=True)
            for x, (block, factor) in zip(sums, products, strict=True)
        ]
        return now, near, *sums

    zeros = [jnp.zeros((width, size), jnp.float32) for _, size in mine for _ in range(2)]
    start = Softmax.start(width), jnp.zeros((width,), jnp.float32), *zeros
    end, near, *sums = lax.fori_loop(0, pl.cdiv(q, step), of_block, start)
    store(pooled_ref, end.mean, row)
    for at, first, second in zip(mine, sums[::2], sums[1::2], strict=True):
        second -= (end.mean - near)[:, None] * first
        for ref, value in zip(kept_refs, (first, second), strict=True):
            store(ref, (value / end.total[:, None]).T, at, row)


def pool_p(rows: Rows, maps: Maps, *, keep: bool, interpret: bool) -> Pooled:
    """See `Backend.pool_p`."""
    batch, p, _ = maps.shape
    both = jnp.stack(rows)
    attributes = both.shape[1]
    side = gpu_blocks.side(p, gpu_blocks.SIDE)
    count = pl.cdiv(p, side)
    out = [jax.ShapeDtypeStruct((batch, attributes), jnp.float32)]
    if keep:
        out += [jax.ShapeDtypeStruct((batch, p, attributes), maps.dtype)] * 2
        if count > 1:
            out += [jax.ShapeDtypeStruct((batch, count, attributes), jnp.float32)] * 3
    pooled, *kept = pl.pallas_call(
        _kernel_p,
        grid=(pl.cdiv(attributes, gpu_blocks.attributes_of(both)), batch),
        in_specs=[pl.BlockSpec(both.shape, lambda *_: (0, 0, 0)), one_image(maps, 1)],
        out_specs=[one_image(x, 1) for x in out],
        out_shape=out,
        compiler_params=plgpu.CompilerParams(
            num_warps=gpu_blocks.WARPS, num_stages=gpu_blocks.STAGES
        ),
        interpret=interpret,
        name="attention_pool_p",
    )(both, maps)
    if len(kept) > 2:
        return pooled, _finish(kept[:2], Softmax(*kept[2:]), side)
    return pooled, tuple(kept)


def pool_q(rows: Rows, maps: Maps, *, keep: bool, interpret: bool) -> Pooled:
    """See `Backend.pool_q`."""
    batch, p, _ = maps.shape
    both = jnp.stack(rows)
    attributes = both.shape[1]
    # Rows of a multiple of 16 bytes too.
    width = gpu_blocks.COPY_BYTES // both.dtype.itemsize
    both = jnp.pad(both, ((0, 0), (0, 0), (0, -p % width)))
    if keep and gpu_blocks.takes_two_passes(p):
        return gpu_passes.pool_q(both, maps, interpret=interpret)
    out = [jax.ShapeDtypeStruct((batch, attributes), jnp.float32)]
    if keep:
        out += [jax.ShapeDtypeStruct((batch, p, attributes), maps.dtype)] * 2
    blocks = gpu_blocks.blocks(both, maps, keep=keep)
    pooled, *kept = pl.pallas_call(
        functools.partial(_kernel_q, blocks),
        grid=(pl.cdiv(attributes, blocks.attributes), batch),
        in_specs=[pl.BlockSpec(both.shape, lambda *_: (0, 0, 0)), one_image(maps, 1)],
        out_specs=[one_image(x, 1) for x in out],
        out_shape=out,
        compiler_params=plgpu.CompilerParams(
            num_warps=blocks.warps, num_stages=gpu_blocks.STAGES_Q
        ),
        interpret=interpret,
        name="attention_pool_q",
    )(both, maps)
    return pooled, tuple(kept)


def contract(
    kept: tuple[Float[Array, "batch p attributes"], ...],
    cotangent: Float[Array, "batch attributes"],
    *,
    interpret: bool,
) -> tuple[Float[Array, "p attributes"], ...]:
    """See `Backend.contract`; by XLA, which fuses it into one pass."""
    del interpret
    return tuple((cotangent[:, None] * k.astype(jnp.float32)).sum(0) for k in kept)
