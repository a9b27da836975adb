"""Feature maps moved on CPUs: transposed, and taken one at a time.

XLA for CPUs neither slices nor transposes bfloat16: it converts the whole array to float32 before,
and back after. As integers of 16 bits they are moved as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

_Result = TypeVar("_Result")


@jax.custom_vjp
def swap_map_axes(maps: Shaped[Array, "batch a b"]) -> Shaped[Array, "batch b a"]:
    """Each map transposed."""
    return _from_bits(jnp.swapaxes(_bits(maps), 1, 2), maps.dtype)


# A bit pattern has no gradient, so that JAX would derive 0.
swap_map_axes.defvjp(lambda maps: (swap_map_axes(maps), None), lambda _, g: (swap_map_axes(g),))


def map_images(
    function: Callable[[Shaped[Array, "a b"]], _Result], maps: Shaped[Array, "batch a b"]
) -> _Result:
    """`jax.lax.map`, without a gradient in the maps: for functions that define their own."""
    return jax.lax.map(lambda bits: function(_from_bits(bits, maps.dtype)), _bits(maps))


def _bits(x: Array) -> Array:
    return jax.lax.bitcast_convert_type(x, jnp.uint16) if x.dtype == jnp.bfloat16 else x


def _from_bits(x: Array, dtype: jnp.dtype) -> Array:
    return jax.lax.bitcast_convert_type(x, jnp.bfloat16) if dtype == jnp.bfloat16 else x
