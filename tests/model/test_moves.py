"""Feature maps moved as they are, whatever their dtype."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dedn_jax.model.attention.moves import map_images, swap_map_axes

DTYPES = pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])


def maps(dtype: str) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal((3, 4, 5)), dtype)


@DTYPES
def test_swapped_with_its_gradient(dtype: str) -> None:
    found = jax.jit(swap_map_axes)(maps(dtype))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.swapaxes(np.asarray(maps(dtype)), 1, 2))
    weights = jnp.swapaxes(maps(dtype), 1, 2)
    slope = jax.jit(jax.grad(lambda x: (weights * swap_map_axes(x)).sum().astype(jnp.float32)))
    np.testing.assert_array_equal(slope(jnp.zeros_like(maps(dtype))), maps(dtype))


@DTYPES
def test_images_one_at_a_time(dtype: str) -> None:
    def both(image: jax.Array) -> tuple[jax.Array, jax.Array]:
        assert image.dtype == dtype
        return image.max(), image.T

    largest, transposed = jax.jit(lambda x: map_images(both, x))(maps(dtype))
    np.testing.assert_array_equal(largest, maps(dtype).max((1, 2)))
    np.testing.assert_array_equal(transposed, np.swapaxes(np.asarray(maps(dtype)), 1, 2))


def test_bfloat16_is_never_widened() -> None:
    """XLA for CPUs would move it as float32."""

    def bits(image: jax.Array) -> jax.Array:
        return jax.lax.bitcast_convert_type(image, jnp.uint16)

    program = jax.jit(lambda x: map_images(bits, swap_map_axes(x)))
    assert "f32" not in program.lower(maps("bfloat16")).compile().as_text()
