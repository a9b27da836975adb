"""`pool_q` of the GPU's kernels in two passes, for maps with many rows.

Both factors that the gradient needs do not fit into a program's registers then. Programs that share
them would each compute all scores; two passes compute the logits twice and the scores once: on an
H200 they take 0.30 ms for a batch of CUB in bfloat16, and such programs 0.46
(`python -m benchmarks.gpu --parts=kernels`).

The first pass accumulates `Σ β f`, from which the mean of the scores follows by the rows, and the
second one `Σ β (s - mean) f`, with the softmax of the first.
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

from dedn_jax.model.kernels import gpu_blocks
from dedn_jax.model.kernels.common import Maps, Pooled
from dedn_jax.model.kernels.triton import dot, load, one_image, store, within


def _mine(p: int) -> list[tuple[Any, int]]:
    """The pieces of p that this program accumulates."""
    if gpu_blocks.chunks(p) == 1:
        return gpu_blocks.pieces(p)
    return [(pl.program_id(1) * gpu_blocks.CHUNK, gpu_blocks.CHUNK)]


def _first(
    blocks: gpu_blocks.Blocks,
    rows_ref: Any,
    maps_ref: Any,
    pooled_ref: Any,
    log_sum_ref: Any,
    kept_ref: Any,
) -> None:
    """`Σ β f`, this program's term of `Σ β s`, and the logarithm of the sum of `exp(logits)`.

    Weights are summed as the product takes them: rounded ones, with the sum of exact ones, would
    move the mean of scores that have a value in common.
    """
    p, q = maps_ref.shape
    width, step = blocks.attributes, blocks.step
    row = (pl.program_id(0) * width, width)
    whole, mine = gpu_blocks.pieces(p), _mine(p)
    rows = [load(rows_ref, row, at, first=(1,)) for at in whole]

    def of_block(i: Any, carry: tuple[Any, ...]) -> Any:
        maximum, total, *sums = carry
        position = (i * step, step)
        maps = [load(maps_ref, at, position) for at in whole]
        logits = within(functools.reduce(jnp.add, map(dot, rows, maps)), position, q)
        before, maximum = maximum, jnp.maximum(maximum, logits.max(1))
        weights = jnp.exp(logits - maximum[:, None]).astype(maps_ref.dtype)
        shrink = jnp.exp(before - maximum)
        total = total * shrink + weights.astype(jnp.float32).sum(1)
        if gpu_blocks.chunks(p) > 1:
            maps = [load(maps_ref, at, position) for at in mine]
        sums = [
            x * shrink[:, None] + dot(weights, block, transpose_b=True)
            for x, block in zip(sums, maps, strict=True)
        ]
        return maximum, total, *sums

    zeros = [jnp.zeros((width, size), jnp.float32) for _, size in mine]
    start = jnp.full((width,), -jnp.inf, jnp.float32), jnp.zeros((width,), jnp.float32), *zeros
    maximum, total, *sums = lax.fori_loop(0, pl.cdiv(q, step), of_block, start)
    pooled = jnp.zeros((width,), jnp.float32)
    for at, x in zip(mine, sums, strict=True):
        kept = x / total[:, None]
        pooled += (load(rows_ref, row, at, first=(0,)).astype(jnp.float32) * kept).sum(1)
        store(kept_ref, kept.T, at, row)
    store(pooled_ref, pooled, row, first=(pl.program_id(1),))
    store(log_sum_ref, maximum + jnp.log(total), row)


def _second(
    blocks: gpu_blocks.Blocks,
    rows_ref: Any,
    maps_ref: Any,
    pooled_ref: Any,
    log_sum_ref: Any,
    kept_ref: Any,
) -> None:
    """`Σ β (s - mean) f`."""
    p, q = maps_ref.shape
    width, step = blocks.attributes, blocks.step
    row = (pl.program_id(0) * width, width)
    whole, mine = gpu_blocks.pieces(p), _mine(p)
    rows = [[load(rows_ref, row, at, first=(k,)) for at in whole] for k in range(2)]
    mean, log_sum = load(pooled_ref, row), load(log_sum_ref, row)

    def of_block(i: Any, sums: tuple[Any, ...]) -> tuple[Any, ...]:
        position = (i * step, step)
        maps = [load(maps_ref, at, position) for at in whole]
        scores, logits = (functools.reduce(jnp.add, map(dot, of, maps)) for of in rows)
        weights = jnp.exp(within(logits, position, q) - log_sum[:, None])
        factor = (weights * (scores - mean[:, None])).astype(maps_ref.dtype)
        if gpu_blocks.chunks(p) > 1:
            maps = [load(maps_ref, at, position) for at in mine]
        return tuple(
            x + dot(factor, block, transpose_b=True) for x, block in zip(sums, maps, strict=True)
        )

    zeros = tuple(jnp.zeros((width, size), jnp.float32) for _, size in mine)
    sums = lax.fori_loop(0, pl.cdiv(q, step), of_block, zeros)
    for at, x in zip(mine, sums, strict=True):
        store(kept_ref, x.T, at, row)


def pool_q(rows: Float[Array, "2 attributes padded_p"], maps: Maps, *, interpret: bool) -> Pooled:
    """See `Backend.pool_q`; score and attention rows in one array, padded to whole copies."""
    batch, p, _ = maps.shape
    attributes = rows.shape[1]
    blocks, chunks = gpu_blocks.blocks(rows, maps, keep=True), gpu_blocks.chunks(p)

    def call(kernel: Any, name: str, stages: int, out: list[Any], *arrays: Any) -> list[Any]:
        found: list[Any] = pl.pallas_call(
            functools.partial(kernel, blocks),
            grid=(pl.cdiv(attributes, blocks.attributes), chunks, batch),
            in_specs=[
                pl.BlockSpec(rows.shape, lambda *_: (0, 0, 0)),
                *(one_image(x, 2) for x in (maps, *arrays)),
            ],
            out_specs=[one_image(x, 2) for x in out],
            out_shape=out,
            compiler_params=plgpu.CompilerParams(num_warps=blocks.warps, num_stages=stages),
            interpret=interpret,
            name=name,
        )(rows, maps, *arrays)
        return found

    factor = jax.ShapeDtypeStruct((batch, p, attributes), maps.dtype)
    terms = jax.ShapeDtypeStruct((batch, chunks, attributes), jnp.float32)
    one = jax.ShapeDtypeStruct((batch, attributes), jnp.float32)
    stages = gpu_blocks.first_stages(p)
    found, log_sum, first = call(_first, "attention_pool_q", stages, [terms, one, factor])
    pooled = found.sum(1)
    (second,) = call(
        _second, "attention_pool_q_second", gpu_blocks.STAGES_Q, [factor], pooled, log_sum
    )
    return pooled, (first, second)
