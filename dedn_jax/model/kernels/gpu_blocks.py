"""How the GPU's kernels are divided into programs and blocks, and where they are the fastest."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from dedn_jax.errors import InputError

# Triton's matrix product takes no side below 16.
SMALLEST = 16
# Of `pool_p`: attributes and positions of a program, half as many in float32 (two accumulators of
# 64 x 256 take 128 registers per thread), its warps, and blocks of q on their way.
_ATTRIBUTES, SIDE, WARPS, STAGES = 64, 256, 8, 3
# Of `pool_q`, as an H100 and an H200 are fastest: attributes of a program, which has a warp for 16
# of them, and blocks of q on their way.
_MOST, STAGES_Q = 128, 2
# Its two passes: above which side of p there are two, attributes of a program (two of them share a
# processor), and blocks of q on their way in the first pass.
_ONE_PASS, _MOST_TWICE, _STAGES_FIRST = 128, 64, 3
# The side of p that a program accumulates, and what it has of it where p is larger.
_ALL, CHUNK = 256, 128
# Bytes of q per block, half as many where they would be padded: shared memory's widest swizzle,
# and twice that where nothing is accumulated.
_Q_BYTES = 128
# Bytes of shared memory that a program may take; an H100 has 232,448.
_SHARED = 225_000
# Bytes of the widest copy.
COPY_BYTES = 16
# Parts of `device_kind`: what the kernels were measured on, and the same chip with more memory.
_CARDS = ("H100", "H200")


def wins(map_shape: tuple[int, int], precision: str) -> bool:
    """Whether these kernels are the fastest on the card that is compiled for.

    Measured by `python -m benchmarks.gpu`, in bfloat16: on an H200 a step of CUB takes 1.00 ms, and
    1.66 by XLA's own operations; before there were two passes, on an H100 AWA2's 0.44 and 0.65.
    In tensorfloat32 they were slower then (CUB, H200: 4.57 ms; XLA's own, H100: 2.48). Not measured
    on cards before the Hopper generation, which have less shared memory.
    """
    if precision != "bfloat16" or not any(card in _device_kind() for card in _CARDS):
        return False
    p, q = sorted(map_shape)
    maps = jax.ShapeDtypeStruct((1, p, q), jnp.float32)
    try:
        for keep in (False, True):
            blocks(jax.ShapeDtypeStruct((2, SMALLEST, p), jnp.float32), maps, keep=keep)
    except InputError:
        return False
    return True


def _device_kind() -> str:
    """The kind of the device of the mesh that is compiled for, or of the default one."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return (device or jax.devices()[0]).device_kind


def side(size: int, most: int) -> int:
    """Of the smallest block that covers `size`, at most `most`."""
    return min(most, max(SMALLEST, pl.next_power_of_2(size)))


def attributes_of(rows: Any) -> int:
    """Of a program of `pool_p`."""
    return side(rows.shape[1], _ATTRIBUTES * 2 // rows.dtype.itemsize)


def along_q(maps: Any, times: int = 1) -> int:
    """How much of q a block has."""
    most = times * _Q_BYTES // maps.dtype.itemsize
    q = maps.shape[-1]
    return side(q, most if q % most == 0 else most // 2)


def pieces(size: int) -> list[tuple[int, int]]:
    """Starts and sizes of blocks that cover an axis, with as little beyond it as may be."""
    found, start = [], 0
    while start < size:
        piece = max(SMALLEST, pl.next_power_of_2(size - start + 1) // 2)
        found.append((start, piece))
        start += piece
    single = pl.next_power_of_2(start)
    return [(0, single)] if single == start else found


def _whole(p: int) -> int:
    return sum(size for _, size in pieces(p))


def takes_two_passes(p: int) -> bool:
    """Whether `pool_q` does, where it keeps what the gradient needs; see `gpu_passes`."""
    return _whole(p) > _ONE_PASS


def chunks(p: int) -> int:
    """How many programs of the two passes share the accumulators of an image."""
    return 1 if _whole(p) <= _ALL else pl.cdiv(p, CHUNK)


def first_stages(p: int) -> int:
    """Blocks of q on their way in the first pass; what is read in chunks leaves room for fewer."""
    return _STAGES_FIRST if chunks(p) == 1 else STAGES_Q


class Blocks(NamedTuple):
    """Of `pool_q`.

    Attributes:
      attributes: of a program.
      step: how much of q it has at a time.
    """

    attributes: int
    step: int

    @property
    def warps(self) -> int:
        return max(4, self.attributes // 16)


def blocks(rows: Any, maps: Any, *, keep: bool) -> Blocks:
    """The blocks that pad the attributes least, of these the widest, that fit into shared memory.

    Fewer than 64 attributes would still take the time of 64: the matrix units have no smaller side.

    Raises:
      InputError: none does.
    """
    _, p, _ = maps.shape
    attributes, itemsize, whole = rows.shape[1], maps.dtype.itemsize, _whole(p)
    twice = keep and takes_two_passes(p)
    of_map = whole + (CHUNK if twice and chunks(p) > 1 else 0)
    widest = side(attributes, _MOST_TWICE if twice else _MOST * 2 // itemsize)

    def fits(width: int, step: int) -> bool:
        taken = 2 * width * whole + step * of_map * STAGES_Q
        if twice:
            taken = max(taken, width * whole + step * of_map * first_stages(p))
        return taken * itemsize <= _SHARED

    found = []
    step = along_q(maps, 1 if keep else 2)
    while step >= SMALLEST:
        width = widest
        while width >= SMALLEST:
            if fits(width, step):
                found.append(Blocks(width, step))
            width //= 2
        step //= 2
    if not found:
        raise InputError(
            f"feature maps of {p} x {maps.shape[2]} numbers in {maps.dtype} do not fit into the "
            "GPU's shared memory; use config.model.kernel=xla"
        )

    def padded(width: int) -> int:
        return pl.cdiv(attributes, width) * max(width, 64)

    return min(found, key=lambda b: (padded(b.attributes), -b.attributes, -b.step))
