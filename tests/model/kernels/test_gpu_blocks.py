"""How the GPU's channel kernel is divided into programs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from dedn_jax.errors import InputError
from dedn_jax.model.kernels import gpu_blocks


def blocks(attributes: int, p: int, q: int, dtype: str, keep: bool = True) -> tuple[int, ...]:
    rows = jax.ShapeDtypeStruct((2, attributes, p), jnp.dtype(dtype))
    maps = jax.ShapeDtypeStruct((50, p, q), jnp.dtype(dtype))
    return tuple(gpu_blocks.blocks(rows, maps, keep=keep))


def test_pieces_cover_an_axis_once() -> None:
    assert gpu_blocks.pieces(196) == [(0, 128), (128, 64), (192, 16)]
    assert gpu_blocks.pieces(49) == [(0, 64)]  # 32 + 16 + 16 would be as much
    assert gpu_blocks.pieces(1) == [(0, 16)]
    for size in range(1, 600):
        pieces = gpu_blocks.pieces(size)
        ends = [start + length for start, length in pieces]
        assert [start for start, _ in pieces] == [0, *ends[:-1]]
        assert size <= ends[-1] < max(2 * size, 17)
        assert all(length >= 16 and length & (length - 1) == 0 for _, length in pieces)


def test_published_sizes() -> None:
    assert blocks(624, 196, 2048, "bfloat16") == (64, 64)
    assert blocks(624, 196, 2048, "bfloat16", keep=False) == (128, 128)
    assert blocks(204, 196, 2048, "bfloat16") == (64, 64)
    assert blocks(170, 49, 2048, "bfloat16") == (64, 64)  # 192 rows and not 256
    assert blocks(624, 196, 2048, "float32") == (64, 32)


def test_passes() -> None:
    assert not gpu_blocks.takes_two_passes(128)
    assert gpu_blocks.takes_two_passes(129)
    assert [gpu_blocks.chunks(p) for p in (196, 256, 257, 784)] == [1, 1, 3, 7]


def test_larger_maps_have_narrower_programs() -> None:
    assert blocks(624, 400, 2048, "bfloat16") == (64, 32)
    assert blocks(624, 784, 2048, "bfloat16") == (32, 32)
    assert blocks(624, 784, 2048, "float32") == (16, 16)
    with pytest.raises(InputError, match=r"2048 x 2048 numbers in float32 .*kernel=xla"):
        blocks(624, 2048, 2048, "float32")
