"""Gradients that are summed over devices where they are small, and those that follow from them."""

from __future__ import annotations

import functools
from typing import TypeVar

import jax
from jaxtyping import Array

T = TypeVar("T")


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def summed_gradient(tree: T, axis: str) -> T:
    """The tree itself, whose gradient is summed along a mapped axis where it passes here.

    What it was computed from, by the same program on every device, then has the gradient of all
    devices without a sum of its own.
    """
    return tree


def _forward(tree: T, axis: str) -> tuple[T, None]:
    return tree, None


@jax.named_scope("exchange")
def _backward(axis: str, _: None, cotangent: T) -> tuple[T]:
    return (jax.lax.psum(cotangent, axis),)


summed_gradient.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def shared_gradient(x: Array, count: int) -> Array:
    """The array itself, whose gradient is divided by the number of devices that have all of it.

    Summed over them, with gradients of which each has a part, it counts once.
    """
    return x


def _share_forward(x: Array, count: int) -> tuple[Array, None]:
    return x, None


def _share_backward(count: int, _: None, cotangent: Array) -> tuple[Array]:
    return (cotangent / count,)


shared_gradient.defvjp(_share_forward, _share_backward)
