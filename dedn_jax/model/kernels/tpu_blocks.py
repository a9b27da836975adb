"""How the kernels for TPUs are divided into blocks, by what a chip has."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

from dedn_jax.errors import InputError

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


def chip() -> Chip:
    """The chip of the mesh that is compiled for, or of the default device."""
    if not pltpu.is_tpu_device():
        return _UNKNOWN
    info = pltpu.get_tpu_info()
    return Chip(info.vmem_capacity_bytes, info.bf16_ops_per_second, info.mxu_column_size)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def padded_bytes(x: jax.ShapeDtypeStruct | jax.Array) -> int:
    """Of an array in main memory, where the last two axes are padded to whole tiles."""
    *rest, rows, columns = x.shape
    # One row is not padded to eight.
    rows = rows if rows == 1 else _up(rows, 8)
    return math.prod(rest) * rows * _up(columns, _LANES) * x.dtype.itemsize


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
    on: Chip,
    *,
    along_q: bool,
    exact: bool = False,
) -> Blocks:
    """The largest block of attributes that fits into VMEM, all blocks of about one size.

    Args:
      attributes: rows of each of the two matrices.
      maps: `[batch, p, q]`.
      on: what it has to fit.
      along_q: whether positions lie along q.
      exact: float32 products in several passes of bfloat16, which need room for the parts.

    Raises:
      InputError: an image does not fit.
    """
    itemsize = maps.dtype.itemsize
    batch, p, q = maps.shape
    flops = 2 * p * q * 2 * attributes * (2 if along_q else 1)
    images = min(batch, _MOST_IMAGES, max(1, round(_STEP_SECONDS * on.flops / flops)))
    images = -(-batch // -(-batch // images))
    p, q = _up(p, _SUBLANES), _up(q, _LANES)
    # Two buffers of the maps, and their parts.
    fixed = p * q * (2 * images * itemsize + 6 * exact)
    positions, dim = (q, p) if along_q else (p, q)
    # Rows, of which there is one buffer; results; scores, logits, weights and what is made of them.
    one = dim * 2 * (itemsize + 6 * exact) + 4 * images * p * itemsize
    one += positions * (4 * 4 + 2 * itemsize + 12 * exact) + 2 * 4 * p
    fits = (3 * on.vmem // 4 - fixed) // one

    def of(block: int) -> Blocks:
        needed = max(_LEAST_VMEM, 3 * (fixed + _up(block, _LANES) * one) // 2)
        return Blocks(images, block, min(needed, 9 * on.vmem // 10))

    if fits >= attributes:
        return of(attributes)
    if fits < _LANES:
        raise InputError(
            f"model.kernel=pallas: an image of {maps.shape[1]} x {maps.shape[2]} numbers in "
            f"{maps.dtype} does not fit into the {on.vmem // 2**20} MiB of a TPU core's vector "
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
            blocks(_LANES, maps, chip(), along_q=along_q, exact=True)
    except InputError:
        return False
    return True


def parts(block: int, *, wide: bool) -> list[slice]:
    """The attributes of a block by what is multiplied at once, of about one size."""
    count = -(-block // _PART) if wide else 1
    size = _up(-(-block // count), _SUBLANES)
    return [slice(first, min(first + size, block)) for first in range(0, block, size)]


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
