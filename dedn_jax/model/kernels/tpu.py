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

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from dedn_jax.errors import InputError
from dedn_jax.model.kernels.common import Maps, Pooled, Rows

# Sublanes of a tile of 16-bit numbers, and lanes.
_SUBLANES, _LANES = 16, 128
# A grid step shorter than this at the matrix units' peak takes several images: its latencies, and
# about 0.35 µs for the step itself, are then hidden. By the schedule of a v6e two images gain 7 %
# (positions along p, CUB); a v5e, five times slower, gains nothing.
_STEP_SECONDS = 2e-6
_MOST_IMAGES = 10
# Attributes of a block where nothing but sums is made of them.
_CONTRACTED = 1024
# Attributes whose products along q are made at once by matrix units of 256 x 256. The schedule of a
# v6e has fewest cycles an image like that (624 attributes 6,170; all at once 6,590, 256 at once
# 6,340); the smaller units of other chips want all at once.
_PART = 208


# What XLA gives a kernel by itself.
_LEAST_VMEM = 16 * 2**20


class Chip(NamedTuple):
    """What block sizes depend on, of one core.

    Attributes:
      vmem: bytes of vector memory.
      flops: peak of bfloat16 products, FLOP/s.
      columns: of a matrix unit.
    """

    vmem: int
    flops: float
    columns: int = 128

    @property
    def is_wide(self) -> bool:
        """Whether its matrix units are wider than the lanes."""
        return self.columns > _LANES


# Where the chip is not known: the least of the newer generations.
_UNKNOWN = Chip(64 * 2**20, 200e12)


def _chip() -> Chip:
    """The chip of the mesh that is compiled for, or of the default device."""
    if not pltpu.is_tpu_device():
        return _UNKNOWN
    info = pltpu.get_tpu_info()
    return Chip(info.vmem_capacity_bytes, info.bf16_ops_per_second, info.mxu_column_size)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


class Blocks(NamedTuple):
    """A grid step.

    Attributes:
      images: in it.
      attributes: likewise.
      vmem: bytes that the kernel may take. With all of them XLA kept nothing in vector memory from
        one kernel to the next (a scheduled step of CUB on a v5e took 4 % longer).
    """

    images: int
    attributes: int
    vmem: int


def blocks(
    attributes: int,
    maps: jax.ShapeDtypeStruct | jax.Array,
    chip: Chip,
    *,
    along_q: bool,
    exact: bool = False,
) -> Blocks:
    """The largest block of attributes that fits into VMEM, all blocks of about one size.

    Args:
      attributes: rows of each of the two matrices.
      maps: `[batch, p, q]`.
      chip: what it has to fit.
      along_q: whether positions lie along q.
      exact: float32 products in several passes of bfloat16, which need room for the parts.

    Raises:
      InputError: an image does not fit.
    """
    itemsize = maps.dtype.itemsize
    batch, p, q = maps.shape
    flops = 2 * p * q * 2 * attributes * (2 if along_q else 1)
    images = min(batch, _MOST_IMAGES, max(1, round(_STEP_SECONDS * chip.flops / flops)))
    images = -(-batch // -(-batch // images))
    p, q = _up(p, _SUBLANES), _up(q, _LANES)
    # Two buffers of the maps, and their parts.
    fixed = p * q * (2 * images * itemsize + 6 * exact)
    positions, dim = (q, p) if along_q else (p, q)
    # Rows, of which there is one buffer; results; scores, logits, weights and what is made of them.
    one = dim * 2 * (itemsize + 6 * exact) + 4 * images * p * itemsize
    one += positions * (4 * 4 + 2 * itemsize + 12 * exact) + 2 * 4 * p
    fits = (3 * chip.vmem // 4 - fixed) // one

    def of(block: int) -> Blocks:
        needed = max(_LEAST_VMEM, 3 * (fixed + _up(block, _LANES) * one) // 2)
        return Blocks(images, block, min(needed, 9 * chip.vmem // 10))

    if fits >= attributes:
        return of(attributes)
    if fits < _LANES:
        raise InputError(
            f"model.kernel=pallas: an image of {maps.shape[1]} x {maps.shape[2]} numbers in "
            f"{maps.dtype} does not fit into the {chip.vmem // 2**20} MiB of a TPU core's vector "
            "memory; use model.kernel=xla"
        )
    count = -(-attributes // (fits // _LANES * _LANES))
    return of(_up(-(-attributes // count), _LANES))


def fits(map_shape: tuple[int, int]) -> bool:
    """Whether images of this shape fit into this chip's vector memory, whatever their dtype."""
    p, q = sorted(map_shape)
    maps = jax.ShapeDtypeStruct((1, p, q), jnp.float32)
    try:
        for along_q in (False, True):
            blocks(_LANES, maps, _chip(), along_q=along_q, exact=True)
    except InputError:
        return False
    return True


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


def _parts(block: int, *, wide: bool) -> list[slice]:
    """The attributes of a block by what is multiplied at once, of about one size."""
    count = -(-block // _PART) if wide else 1
    size = _up(-(-block // count), _SUBLANES)
    return [slice(first, min(first + size, block)) for first in range(0, block, size)]


def _kernel_q(
    score_ref: Any,
    attention_ref: Any,
    maps_ref: Any,
    pooled_ref: Any,
    *kept_refs: Any,
    wide: bool,
) -> None:
    """Rows are `[attributes, p]`.

    The order of the products is the compiler's as well, and what it computes beside them follows:
    with all logits first a v6e computes their exponentials beside the scores' products, and takes
    21 % fewer cycles (scheduled, 624 attributes; 11 to 20 % for other numbers of them, 49 regions
    and float32). A v5e and a v5p would take 4 and 13 % more.
    """
    parts = _parts(score_ref.shape[0], wide=wide)
    for i in range(maps_ref.shape[0]):
        image = maps_ref[i]

        def rows(ref: Any, image: jax.Array = image) -> list[jax.Array]:
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
        if kept_refs:
            deviations = [
                w * (s - mean) for w, s, mean in zip(weights, scores, pooled, strict=True)
            ]
            for ref, factors in zip(kept_refs, (weights, deviations), strict=True):
                for part, factor, scale in zip(parts, factors, scales, strict=True):
                    kept = _product(image, factor.astype(image.dtype), 1) * scale.T
                    ref[i, :, part] = kept.astype(ref.dtype)


def _call(
    kernel: Callable[..., None],
    rows: Rows,
    maps: Maps,
    *,
    along_q: bool,
    keep: bool,
    interpret: bool,
) -> Pooled:
    batch, p, q = maps.shape
    attributes, dim = rows[0].shape
    exact = _precision(maps.dtype) == lax.Precision.HIGHEST
    images, block, vmem = blocks(attributes, maps, _chip(), along_q=along_q, exact=exact)

    def per_image(n: int) -> pl.BlockSpec:
        return pl.BlockSpec((images, n, block), lambda a, b: (b, 0, a))

    # One buffer: a block of rows serves all images, so there is nothing to prefetch.
    once = pl.Buffered(1)
    rows_spec = pl.BlockSpec((block, dim), lambda a, b: (a, 0), pipeline_mode=once)
    kept = jax.ShapeDtypeStruct((batch, p, attributes), maps.dtype)
    one_product = 2 * batch * attributes * p * q
    pooled, *factors = pl.pallas_call(
        kernel,
        grid=(pl.cdiv(attributes, block), pl.cdiv(batch, images)),
        in_specs=[rows_spec, rows_spec, pl.BlockSpec((images, p, q), lambda a, b: (b, 0, 0))],
        out_specs=[per_image(1), *(per_image(p) for _ in range(2 * keep))],
        out_shape=[
            jax.ShapeDtypeStruct((batch, 1, attributes), jnp.float32),
            *(kept for _ in range(2 * keep)),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=vmem
        ),
        # For XLA's scheduler.
        cost_estimate=pl.CostEstimate(
            flops=(4 if along_q and keep else 2) * one_product,
            transcendentals=batch * attributes * (q if along_q else p),
            bytes_accessed=maps.nbytes
            + 2 * rows[0].nbytes
            + 2 * keep * kept.size * maps.dtype.itemsize,
        ),
        interpret=interpret,
        name="attention_pool_q" if along_q else "attention_pool_p",
    )(*rows, maps)
    return pooled[:, 0], tuple(factors)


def pool_p(rows: Rows, maps: Maps, *, keep: bool, interpret: bool) -> Pooled:
    """See `Backend.pool_p`."""
    return _call(_kernel_p, rows, maps, along_q=False, keep=keep, interpret=interpret)


def pool_q(rows: Rows, maps: Maps, *, keep: bool, interpret: bool) -> Pooled:
    """See `Backend.pool_q`."""
    kernel = functools.partial(_kernel_q, wide=_chip().is_wide)
    return _call(kernel, rows, maps, along_q=True, keep=keep, interpret=interpret)


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


def contract_blocks(kept: jax.ShapeDtypeStruct | jax.Array, count: int, vmem: int) -> Blocks:
    """All attributes at once if they fit into a quarter of VMEM; blocks of one size.

    No more of it is asked for: what XLA keeps there, it would move out for this kernel (scheduled
    step, v5e, 50 images of CUB: 538 MB of main memory instead of 374).
    """
    batch, p, attributes = kept.shape
    # Two buffers of each array, and of the sums.
    one = 2 * count * _up(p, _SUBLANES) * kept.dtype.itemsize
    most = max(_LANES, min(_CONTRACTED, vmem // 4 // one // _LANES * _LANES))
    block = attributes
    if attributes > most:
        block = _up(-(-attributes // -(-attributes // most)), _LANES)
    width = _up(block, _LANES)
    # Images that are not there must not be added.
    most = min(_MOST_IMAGES, max(1, vmem // 4 // (one * width)))
    images = max(n for n in range(1, most + 1) if batch % n == 0)
    needed = width * (images * one + 2 * count * _up(p, _SUBLANES) * 4)
    return Blocks(images, block, min(max(_LEAST_VMEM, 3 * needed // 2), 9 * vmem // 10))


def contract(
    kept: tuple[Float[Array, "batch p attributes"], ...],
    cotangent: Float[Array, "batch attributes"],
    *,
    interpret: bool,
) -> tuple[Float[Array, "p attributes"], ...]:
    """See `Backend.contract`. XLA's reduction takes three times as long as reading its operands."""
    batch, p, attributes = kept[0].shape
    images, block, vmem = contract_blocks(kept[0], len(kept), _chip().vmem)

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
