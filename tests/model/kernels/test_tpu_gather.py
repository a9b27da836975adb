"""Kernels for TPUs that look the maps up while they compute, interpreted."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dedn_jax.model.attention import dual_attention, fused
from dedn_jax.model.attention.indexed import IndexedMaps
from dedn_jax.model.kernels import tpu_blocks
from tests.model.kernels.problems import Problem, Size, assert_close, problem, reference

# A step of one image; images of which several fit into a step, in equal parts; fewer channels.
SIZES = [Size(1, 1, 1, 1), Size(6, 37, 40, 12), Size(7, 85, 130, 49), Size(2, 17, 9, 40)]
look_up = functools.partial(fused.indexed_attention, interpret=True)


def indexed(of: Problem) -> IndexedMaps:
    """Its features among others in a table, whose padding must not be read."""
    maps = np.swapaxes(np.asarray(of.features), 1, 2)
    batch, regions, channels = maps.shape
    table = np.full((batch + 3, regions + 5, channels + 2), np.nan, maps.dtype)
    rows = np.random.default_rng(0).permutation(batch + 3)[:batch]
    table[rows, :regions, :channels] = maps
    return IndexedMaps(jnp.asarray(table), jnp.asarray(rows), (channels, regions))


@functools.partial(jax.jit, static_argnums=0)
def everything(pool: Any, of: Problem, features: Any) -> list[Any]:
    """Both values and the gradients in the rows."""
    value, vjp = jax.vjp(lambda r, c: pool(r, c, features), of.region, of.channel)
    return [*value, *vjp((of.by_region, of.by_channel))]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_value_and_gradients(size: Size, dtype: str) -> None:
    of = problem(size, dtype=dtype)
    arrays = of.arrays(dtype)
    features = indexed(arrays)
    found = everything(look_up, arrays, features)
    assert_close(found, reference(of)[:4], "float32" if dtype == "float16" else dtype)
    # As by the kernels that are given the maps, without a gradient as well.
    pool = functools.partial(fused.dual_attention, interpret="tpu")
    for x, y in zip(
        jax.tree.leaves([found, jax.jit(look_up)(*arrays[:2], features)]),
        jax.tree.leaves([everything(pool, arrays, arrays.features), jax.jit(pool)(*arrays[:3])]),
        strict=True,
    ):
        # Equal but for what XLA makes of products of one number.
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7)


def test_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that come again with every block of attributes, in steps that divide the batch."""
    several = tpu_blocks.Blocks(images=4, attributes=16, vmem=2**24)
    monkeypatch.setattr(tpu_blocks, "blocks", lambda *_, **__: several)
    of = problem(Size(9, 39, 75, 37))
    arrays = of.arrays()
    pool = functools.partial(fused.indexed_attention, interpret=True)
    assert_close(everything(pool, arrays, indexed(arrays)), reference(of)[:4])


@pytest.mark.parametrize("kernel", ["cpu", "tpu", "pallas", "pallas_gpu"])
def test_every_kernel_takes_them(kernel: Any) -> None:
    of = problem(SIZES[1])
    arrays = of.arrays()
    for branches in (arrays[:2], (None, arrays.channel), (arrays.region, None)):
        found = dual_attention(*branches, indexed(arrays), kernel)
        for x, y, kept in zip(found, reference(of)[:2], branches, strict=True):
            assert (x is None) == (kept is None)
            if x is not None:
                assert_close(x, y)


def test_no_images() -> None:
    arrays = problem(Size(2, 3, 9, 4)).arrays()
    empty = IndexedMaps(jnp.ones((5, 8, 128)), jnp.zeros(0, jnp.int32), (9, 4))
    region, channel = look_up(arrays.region, arrays.channel, empty)
    assert region.shape == (0, 3)
    assert channel.shape == (0, 4)
