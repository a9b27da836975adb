"""Attention pooling for TPUs (Pallas, Mosaic).

One kernel a branch, with all matrix products of the forward pass; a grid step takes a few images
and a block of attributes, whose rows stay in VMEM for all images. The factors for the gradient are
made along the way, so that the backward pass has two products and no softmax.

Positions along p (regions): scores are `[p, attributes]`, which fills the lanes and makes the
softmax a reduction over sublanes. Positions along q (channels): scores are `[attributes, q]`, for
which the map need not be transposed in front of the matrix unit; by libtpu's schedule this takes
0.51 ms on a v5e for 50 images of CUB, 0.57 with attributes on lanes. Blocks of positions with an
online softmax were no quicker, and `Σ β s f - p Σ β f` loses its digits where all scores have a
value in common. The products of the backward pass are left to XLA, which was quicker than a kernel
(0.28 to 0.31 ms).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from dedn_jax.model.kernels import tpu_blocks
from dedn_jax.model.kernels.common import Maps, Pooled, Rows


def _precision(dtype: Any) -> lax.Precision:
    """Mosaic multiplies in one pass of bfloat16 or in full float32, with nothing in between."""
    wanted = str(jax.config.jax_default_matmul_precision or "default")  # type: ignore[attr-defined]
    if dtype != jnp.float32 or wanted in ("default", "bfloat16", "fastest"):
        return lax.Precision.DEFAULT
    return lax.Precision.HIGHEST


def _product(a: jax.Array, b: jax.Array, contract_b: int = 0) -> jax.Array:
    """`a` `[m, k]` times `b`, `[k, n]` or `[n, k]`, in float32."""
    return lax.dot_general(
        a,
        b,
        (((1,), (contract_b,)), ((), ())),
        precision=_precision(a.dtype),
        preferred_element_type=jnp.float32,
    )


def _kernel_p(
    score_ref: Any, attention_ref: Any, maps_ref: Any, pooled_ref: Any, *kept_refs: Any
) -> None:
    """Rows are `[attributes, q]`."""
    for i in range(maps_ref.shape[0]):
        image = maps_ref[i]
        logits, scores = (_product(image, ref[...], 1) for ref in (attention_ref, score_ref))
        weights = jnp.exp(logits - logits.max(0, keepdims=True))
        weights *= 1.0 / weights.sum(0, keepdims=True)
        pooled = (weights * scores).sum(0, keepdims=True)
        pooled_ref[i] = pooled
        if kept_refs:
            by_score, by_attention = kept_refs
            by_score[i] = weights.astype(by_score.dtype)
            by_attention[i] = (weights * (scores - pooled)).astype(by_attention.dtype)


def image_q(
    i: int,
    image: jax.Array,
    score_ref: Any,
    attention_ref: Any,
    pooled_ref: Any,
    kept_refs: Sequence[Any],
) -> None:
    """Pools along q image `i` of a grid step, as `Backend.pool_q`. Rows are `[attributes, p]`.

    The order of the products is the compiler's as well, and what it computes beside them follows:
    with all logits first a v6e computes their exponentials beside the scores' products, and takes
    21 % fewer cycles (scheduled, 624 attributes; 11 to 20 % for other numbers of them, 49 regions
    and float32). A v5e and a v5p would take 4 and 13 % more.
    """
    wide = tpu_blocks.chip().is_wide
    parts = tpu_blocks.parts(score_ref.shape[0], wide=wide)

    def rows(ref: Any) -> list[jax.Array]:
        return [_product(ref[part, :], image) for part in parts]

    if wide:
        logits, scores = rows(attention_ref), rows(score_ref)
    else:
        scores, logits = rows(score_ref), rows(attention_ref)
    weights = [jnp.exp(x - x.max(1, keepdims=True)) for x in logits]
    scales = [1.0 / w.sum(1, keepdims=True) for w in weights]
    sums = zip(weights, scores, scales, strict=True)
    pooled = [(w * s).sum(1, keepdims=True) * scale for w, s, scale in sums]
    for part, mean in zip(parts, pooled, strict=True):
        pooled_ref[i, :, part] = mean.T
    if not kept_refs:
        return
    deviations = [w * (s - mean) for w, s, mean in zip(weights, scores, pooled, strict=True)]
    for ref, factors in zip(kept_refs, (weights, deviations), strict=True):
        for part, factor, scale in zip(parts, factors, scales, strict=True):
            kept = _product(image, factor.astype(image.dtype), 1) * scale.T
            ref[i, :, part] = kept.astype(ref.dtype)


def _kernel_q(
    score_ref: Any,
    attention_ref: Any,
    maps_ref: Any,
    pooled_ref: Any,
    *kept_refs: Any,
) -> None:
    for i in range(maps_ref.shape[0]):
        image_q(i, maps_ref[i], score_ref, attention_ref, pooled_ref, kept_refs)


class Call(NamedTuple):
    """What the calls of all kernels that pool have in common.

    Attributes:
      grid: blocks of attributes, then of images.
      images: of a grid step.
      rows: spec of both matrices.
      outputs, shapes: specs and shapes of what is pooled, then of what is kept.
      options: of `pl.pallas_call`.
    """

    grid: tuple[int, int]
    images: int
    rows: pl.BlockSpec
    outputs: list[pl.BlockSpec]
    shapes: list[jax.ShapeDtypeStruct]
    options: dict[str, Any]


def prepare(
    rows: Rows,
    maps: jax.ShapeDtypeStruct | jax.Array,
    *,
    along_q: bool,
    keep: bool,
    interpret: bool,
    copied: bool = False,
) -> Call:
    """The call for maps `[batch, p, q]`; where the kernel copies them out (`copied`), the images of
    a grid step divide the batch.
    """
    batch, p, q = maps.shape
    attributes, dim = rows[0].shape
    exact = _precision(maps.dtype) == lax.Precision.HIGHEST
    images, block, vmem = tpu_blocks.blocks(
        attributes, maps, tpu_blocks.chip(), along_q=along_q, exact=exact
    )
    if copied:
        images = max(n for n in range(1, images + 1) if batch % n == 0)

    def per_image(n: int) -> pl.BlockSpec:
        return pl.BlockSpec((images, n, block), lambda a, b, *_: (b, 0, a))

    # One buffer: a block of rows serves all images, so there is nothing to prefetch.
    once = pl.Buffered(1)
    pooled = jax.ShapeDtypeStruct((batch, 1, attributes), jnp.float32)
    kept = [jax.ShapeDtypeStruct((batch, p, attributes), maps.dtype)] * (2 * keep)
    one_product = 2 * batch * attributes * p * q
    moved = [*rows, maps, pooled, *kept, *([maps] if copied else [])]
    return Call(
        grid=(pl.cdiv(attributes, block), pl.cdiv(batch, images)),
        images=images,
        rows=pl.BlockSpec((block, dim), lambda a, *_: (a, 0), pipeline_mode=once),
        outputs=[per_image(1), *(per_image(p) for _ in kept)],
        shapes=[pooled, *kept],
        options={
            "compiler_params": pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=vmem
            ),
            # For XLA's scheduler.
            "cost_estimate": pl.CostEstimate(
                flops=(4 if along_q and keep else 2) * one_product,
                transcendentals=batch * attributes * (q if along_q else p),
                bytes_accessed=sum(map(tpu_blocks.padded_bytes, moved)),
            ),
            "name": "attention_pool_q" if along_q else "attention_pool_p",
            "interpret": interpret,
        },
    )


def _call(
    kernel: Callable[..., None],
    rows: Rows,
    maps: Maps,
    *,
    along_q: bool,
    keep: bool,
    interpret: bool,
) -> Pooled:
    call = prepare(rows, maps, along_q=along_q, keep=keep, interpret=interpret)
    image = pl.BlockSpec((call.images, *maps.shape[1:]), lambda a, b: (b, 0, 0))
    pooled, *kept = pl.pallas_call(
        kernel,
        grid=call.grid,
        in_specs=[call.rows, call.rows, image],
        out_specs=call.outputs,
        out_shape=call.shapes,
        **call.options,
    )(*rows, maps)
    return pooled[:, 0], tuple(kept)


def pool_p(rows: Rows, maps: Maps, *, keep: bool, interpret: bool) -> Pooled:
    """See `Backend.pool_p`."""
    return _call(_kernel_p, rows, maps, along_q=False, keep=keep, interpret=interpret)


def pool_q(rows: Rows, maps: Maps, *, keep: bool, interpret: bool) -> Pooled:
    """See `Backend.pool_q`."""
    return _call(_kernel_q, rows, maps, along_q=True, keep=keep, interpret=interpret)


def _contract_kernel(cotangent_ref: Any, *refs: Any) -> None:
    kept_refs, sum_refs = refs[: len(refs) // 2], refs[len(refs) // 2 :]

    @pl.when(pl.program_id(1) == 0)
    def _start() -> None:
        for ref in sum_refs:
            ref[...] = jnp.zeros_like(ref)

    for kept_ref, sum_ref in zip(kept_refs, sum_refs, strict=True):
        total = sum_ref[...]
        for i in range(kept_ref.shape[0]):
            total += cotangent_ref[i] * kept_ref[i].astype(jnp.float32)
        sum_ref[...] = total


def contract(
    kept: tuple[Float[Array, "batch p attributes"], ...],
    cotangent: Float[Array, "batch attributes"],
    *,
    interpret: bool,
) -> tuple[Float[Array, "p attributes"], ...]:
    """See `Backend.contract`. XLA's reduction takes three times as long as reading its operands."""
    batch, p, attributes = kept[0].shape
    images, block, vmem = tpu_blocks.contract_blocks(kept[0], len(kept), tpu_blocks.chip().vmem)

    def per_image(n: int) -> pl.BlockSpec:
        return pl.BlockSpec((images, n, block), lambda a, b: (b, 0, a))

    sums = pl.pallas_call(
        _contract_kernel,
        grid=(pl.cdiv(attributes, block), batch // images),
        in_specs=[per_image(1), *(per_image(p) for _ in kept)],
        out_specs=[pl.BlockSpec((p, block), lambda a, b: (0, a)) for _ in kept],
        out_shape=[jax.ShapeDtypeStruct((p, attributes), jnp.float32) for _ in kept],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=vmem
        ),
        interpret=interpret,
        name="attention_pool_contract",
    )(cotangent[:, None], *kept)
    return tuple(sums)
