"""Attention pooling by one kernel a branch, whose scores never reach main memory.

The kernels pool, and make the factors that the gradient in the rows is linear in; with those of the
backward pass there are four matrix products a branch, and no softmax is computed again. Gradients
are otherwise those of `attention.blocks`.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dedn_jax.model.attention.blocks import (
    Way,
    maps_gradient,
    transposed_like,
    weights_gradient,
)
from dedn_jax.model.attention.indexed import IndexedMaps
from dedn_jax.model.attention.rows import BranchRows
from dedn_jax.model.kernels import gpu, tpu, tpu_gather
from dedn_jax.model.kernels.common import Backend, Maps, Pooled

Interpreted = Literal["gpu", "tpu"]
_BACKENDS: dict[str, Backend] = {"gpu": gpu, "tpu": tpu}
_Scores = Float[Array, "batch attributes"]


def dual_attention(
    region: BranchRows | None,
    channel: BranchRows | None,
    features: Float[Array, "batch channels regions"],
    interpret: Interpreted | None = None,
) -> tuple[_Scores | None, _Scores | None]:
    """See `attention.dual_attention`. Kernels are compiled on GPUs and TPUs, interpreted elsewhere.

    Products are in the features' dtype, accumulated in float32; float32 products follow
    `jax.default_matmul_precision`.

    Args:
      region, channel, features: as there; features float32 or bfloat16, others are converted to
        float32.
      interpret: the backend whose kernels to interpret, on any platform.

    Raises:
      InputError: an image is too large for the device.
    """
    if features.dtype not in (jnp.float32, jnp.bfloat16):
        features = features.astype(jnp.float32)
    _, channels, regions = features.shape
    # The longer axis last, where a TPU's lanes need the least padding. XLA stores the map like
    # that anyway, whatever the order of its axes.
    swapped = regions <= channels
    maps = jnp.swapaxes(features, 1, 2) if swapped else features

    def pool(name: str, rows: BranchRows | None, positions: Literal["p", "q"]) -> _Scores | None:
        if rows is None:
            return None
        if 0 in (*maps.shape, len(rows.score)):
            return jnp.zeros((len(maps), len(rows.score)), jnp.float32)
        with jax.named_scope(name):
            # Two images at once where the gradient in the features is computed.
            return _pool(Way(positions, 2), interpret, rows, maps)

    return (
        pool("region", region, "p" if swapped else "q"),
        pool("channel", channel, "q" if swapped else "p"),
    )


def indexed_attention(
    region: BranchRows | None,
    channel: BranchRows | None,
    features: IndexedMaps,
    interpret: bool = False,
) -> tuple[_Scores | None, _Scores | None]:
    """`dual_attention` on TPUs of maps that the channel branch's kernel looks up.

    Args:
      region, channel: as there.
      features: without a gradient.
      interpret: the kernels on any platform.
    """
    backend: Interpreted | None = "tpu" if interpret else None
    batch, channels, regions = features.shape
    fits = features.dtype in (jnp.float32, jnp.bfloat16) and regions <= channels
    if channel is None or not fits or 0 in (batch, regions, len(channel.score)):
        return dual_attention(region, channel, features.array(), backend)
    with jax.named_scope("channel"):
        p_channel, maps = _gather_pool(interpret, channel, features)
    p_region, _ = dual_attention(region, None, jnp.swapaxes(maps, 1, 2), backend)
    return p_region, p_channel


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gather_pool(interpret: bool, rows: BranchRows, features: IndexedMaps) -> tuple[_Scores, Maps]:
    """What is pooled, and the maps."""
    (pooled, _), maps = _gather_pooled(interpret, rows, features, keep=False)
    return pooled, maps


def _gather_pooled(
    interpret: bool, rows: BranchRows, features: IndexedMaps, *, keep: bool
) -> tuple[Pooled, Maps]:
    both = rows.score.astype(features.dtype), rows.attention.astype(features.dtype)

    def of(interpret: bool) -> Any:
        return functools.partial(
            tpu_gather.gather_pool_q,
            map_shape=features.map_shape[::-1],
            keep=keep,
            interpret=interpret,
        )

    arguments = both, features.table, features.rows
    if interpret:
        found = of(True)(*arguments)
    else:
        found = jax.lax.platform_dependent(*arguments, tpu=of(False), default=of(True))
    return cast("tuple[Pooled, Maps]", found)


def _gather_pool_forward(
    interpret: bool, rows: BranchRows, features: IndexedMaps
) -> tuple[tuple[_Scores, Maps], tuple[BranchRows, tuple[Array, ...]]]:
    (pooled, kept), maps = _gather_pooled(interpret, rows, features, keep=True)
    return (pooled, maps), (rows, kept)


def _gather_pool_backward(
    interpret: bool,
    saved: tuple[BranchRows, tuple[Array, ...]],
    cotangents: tuple[_Scores, Maps],
) -> tuple[BranchRows, None]:
    rows, kept = saved
    by_rows = _on_platform("contract", "tpu" if interpret else None, kept, cotangents[0])
    return transposed_like(rows, by_rows), None


_gather_pool.defvjp(_gather_pool_forward, _gather_pool_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _pool(way: Way, interpret: Interpreted | None, rows: BranchRows, maps: Maps) -> _Scores:
    return _pooled(way, interpret, rows, maps, keep=False)[0]


def _pooled(
    way: Way, interpret: Interpreted | None, rows: BranchRows, maps: Maps, *, keep: bool
) -> Pooled:
    name: Literal["pool_p", "pool_q"] = "pool_p" if way.positions == "p" else "pool_q"
    both = rows.score.astype(maps.dtype), rows.attention.astype(maps.dtype)
    pooled: Pooled = _on_platform(name, interpret, both, maps, keep=keep)
    return pooled


def _on_platform(
    name: Literal["pool_p", "pool_q", "contract"],
    interpret: Interpreted | None,
    *arguments: Any,
    **options: Any,
) -> Any:
    """A function of the platform's backend, chosen when the program is lowered."""

    def of(backend: Backend, interpret: bool) -> Any:
        return functools.partial(getattr(backend, name), interpret=interpret, **options)

    if interpret:
        return of(_BACKENDS[interpret], True)(*arguments)
    return jax.lax.platform_dependent(
        *arguments,
        tpu=of(tpu, False),
        cuda=of(gpu, False),
        rocm=of(gpu, False),
        default=of(tpu, True),
    )


_Saved = tuple[BranchRows, Maps, tuple[Array, ...]]


def _pool_forward(
    way: Way, interpret: Interpreted | None, rows: BranchRows, maps: Maps
) -> tuple[_Scores, _Saved]:
    pooled, kept = _pooled(way, interpret, rows, maps, keep=True)
    return pooled, (rows, maps, kept)


def _pool_backward(
    way: Way, interpret: Interpreted | None, saved: _Saved, cotangent: _Scores
) -> tuple[BranchRows, Maps]:
    if way.positions == "p":
        return weights_gradient(way, saved, cotangent)
    rows, maps, kept = saved
    by_rows = _on_platform("contract", interpret, kept, cotangent)
    return transposed_like(rows, by_rows), maps_gradient(way, rows, maps, cotangent)


_pool.defvjp(_pool_forward, _pool_backward)
