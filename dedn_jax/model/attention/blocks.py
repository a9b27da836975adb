"""Attention pooling as XLA schedules it best on accelerators: attributes along the lanes.

The softmax runs over positions, so that with the attributes last it is a reduction over sublanes,
elementwise along the lanes, and every lane is in use; with 196 regions last a TPU used one sublane
of eight. Scores and logits are two products, since XLA fuses a softmax into the product that makes
its logits but not into half of a larger one. Figures: `python -m benchmarks.schedule`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dedn_jax.model.attention.rows import BranchRows, as_factor

_Pooled = Float[Array, "batch attributes"]
# Channels last, as they fill the lanes and as resident features are stored.
_Maps = Float[Array, "batch regions channels"]
_Image = Float[Array, "regions channels"]
_PerAttribute = Float[Array, " attributes"]


class Blocks(NamedTuple):
    """How many images are pooled at once, loops over the rest.

    Attributes:
      both: images for which both branches are pooled before the next ones.
      channel: of these, those whose channel branch is pooled together.
    """

    both: int
    channel: int


class Way(NamedTuple):
    """How one branch is pooled.

    Attributes:
      positions: the axis of an image that the softmax runs over: `p` regions, or `q` channels.
      block: images at once.
    """

    positions: Literal["p", "q"]
    block: int

    @property
    def dim(self) -> str:
        return "q" if self.positions == "p" else "p"

    def products(self, rows: Array, maps: Array) -> Array:
        """`[..., positions, attributes]` of maps `[..., regions, channels]`."""
        axes = f"...pq,a{self.dim}->...{self.positions}a"
        factor = as_factor(rows, maps)
        return jnp.einsum(axes, maps, factor, preferred_element_type=jnp.float32)


class _Softmax(NamedTuple):
    """Scores and softmax of one image.

    Attributes:
      scores: `[positions, attributes]`.
      weights: likewise, not normalised.
      total: the sum of the weights.
      pooled: the weighted mean of the scores.
    """

    scores: Float[Array, "positions attributes"]
    weights: Float[Array, "positions attributes"]
    total: _PerAttribute
    pooled: _PerAttribute


def dual_attention(
    region: BranchRows | None,
    channel: BranchRows | None,
    features: Float[Array, "batch channels regions"],
    blocks: Blocks,
) -> tuple[_Pooled | None, _Pooled | None]:
    """See `attention.dual_attention`."""
    batch, channels, regions = features.shape

    def both(maps: _Maps) -> tuple[_Pooled | None, _Pooled | None]:
        # What is kept of an image is [positions, attributes] twice, or [dim, attributes] twice.
        with jax.named_scope("region"):
            pool = _keep_weights if regions <= 2 * channels else _keep_jacobian
            p_region = None if region is None else pool(Way("p", blocks.both), region, maps)
        with jax.named_scope("channel"):
            pool = _keep_weights if channels <= 2 * regions else _keep_jacobian
            p_channel = None if channel is None else pool(Way("q", blocks.channel), channel, maps)
        return p_region, p_channel

    maps = jnp.swapaxes(features, 1, 2)
    count = -(-batch // blocks.both)
    if count == 1:
        return both(maps)
    size = -(-batch // count)
    if missing := count * size - batch:
        maps = jnp.pad(maps, ((0, missing), (0, 0), (0, 0)))
    pooled = jax.lax.map(both, maps.reshape(count, size, regions, channels))
    return jax.tree.map(lambda p: p.reshape(count * size, -1)[:batch], pooled)


def _softmax(way: Way, rows: BranchRows, image: _Image) -> _Softmax:
    scores, logits = (way.products(r, image) for r in rows)
    weights = jnp.exp(logits - logits.max(0))
    total = weights.sum(0)
    return _Softmax(scores, weights, total, (weights * scores).sum(0) / total)


def _map(function: Callable[[Any], Any], images: Any, block: int) -> Any:
    """`function` of every image, `block` of them at once."""
    if len(jax.tree.leaves(images)[0]) <= block:
        return jax.vmap(function)(images)
    return jax.lax.map(function, images, batch_size=block)


def _pooled(way: Way, rows: BranchRows, maps: _Maps) -> _Pooled:
    return _map(lambda image: _softmax(way, rows, image).pooled, maps, way.block)


# What the backward pass needs: the arguments, and two factors in the features' dtype.
_Saved = tuple[BranchRows, _Maps, tuple[Array, ...]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _keep_weights(way: Way, rows: BranchRows, maps: _Maps) -> _Pooled:
    """For few positions: `∂p/∂score_a = Σ β f` and `∂p/∂attention_a = Σ β (s - p) f`, of which
    β and β (s - p) are kept, `[batch, positions, attributes]` each.
    """
    return _pooled(way, rows, maps)


def _keep_weights_forward(way: Way, rows: BranchRows, maps: _Maps) -> tuple[_Pooled, _Saved]:
    def one(image: _Image) -> tuple[_PerAttribute, tuple[Array, Array]]:
        of = _softmax(way, rows, image)
        mean = of.weights / of.total
        return of.pooled, (as_factor(mean, image), as_factor(mean * (of.scores - of.pooled), image))

    pooled, kept = _map(one, maps, way.block)
    return pooled, (rows, maps, kept)


def weights_gradient(way: Way, saved: _Saved, cotangent: _Pooled) -> tuple[BranchRows, _Maps]:
    """The gradient in rows and maps, where β and β (s - p) were kept."""
    rows, maps, kept = saved
    factors = [as_factor(k * cotangent[:, None], maps) for k in kept]

    def product(axes: str, a: Array, b: Array) -> Array:
        return jnp.einsum(axes, a, b, preferred_element_type=jnp.float32)

    by_rows = [product(f"b{way.positions}a,bpq->a{way.dim}", f, maps) for f in factors]
    # Used only while a backbone is fine-tuned; with frozen features XLA removes it as dead code.
    # Rows last: einsum may swap the factors, and XLA for CPUs has no such product of bfloat16.
    by_score, by_attention = (
        product(f"b{way.positions}a,a{way.dim}->b{way.positions}{way.dim}", f, as_factor(r, maps))
        for f, r in zip(factors, rows, strict=True)
    )
    by_maps = (by_score + by_attention).astype(maps.dtype)
    return _like(rows, by_rows), by_maps if way.positions == "p" else by_maps.swapaxes(1, 2)


_keep_weights.defvjp(_keep_weights_forward, weights_gradient)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _keep_jacobian(way: Way, rows: BranchRows, maps: _Maps) -> _Pooled:
    """For many positions: `∂p/∂score_a` and `∂p/∂attention_a` are made going forward and kept,
    `[batch, dim, attributes]` each. `Σ β s f - p Σ β f` would not wait for p, but loses its digits
    where all scores have a value in common, and the schedule is no better.
    """
    return _pooled(way, rows, maps)


def _keep_jacobian_forward(way: Way, rows: BranchRows, maps: _Maps) -> tuple[_Pooled, _Saved]:
    def one(image: _Image) -> tuple[_PerAttribute, tuple[Array, ...]]:
        of = _softmax(way, rows, image)

        def weighted(factor: Float[Array, "positions attributes"]) -> Array:
            axes = f"pq,{way.positions}a->{way.dim}a"
            factor = as_factor(factor, image)
            return jnp.einsum(axes, image, factor, preferred_element_type=jnp.float32)

        jacobian = weighted(of.weights), weighted(of.weights * (of.scores - of.pooled))
        return of.pooled, tuple(as_factor(j / of.total, image) for j in jacobian)

    pooled, jacobian = _map(one, maps, way.block)
    return pooled, (rows, maps, jacobian)


def _keep_jacobian_backward(
    way: Way, saved: _Saved, cotangent: _Pooled
) -> tuple[BranchRows, _Maps]:
    rows, maps, jacobian = saved
    by_rows = [(cotangent[:, None] * j.astype(jnp.float32)).sum(0) for j in jacobian]
    return transposed_like(rows, by_rows), maps_gradient(way, rows, maps, cotangent)


def maps_gradient(way: Way, rows: BranchRows, maps: _Maps, cotangent: _Pooled) -> _Maps:
    """The gradient in the maps, whose softmax is computed again.

    Used only while a backbone is fine-tuned; with frozen features XLA removes it as dead code.
    """

    def one(image_and_cotangent: tuple[_Image, _PerAttribute]) -> _Image:
        image, c = image_and_cotangent
        _, vjp = jax.vjp(lambda x: _softmax(way, rows, x).pooled, image)
        return vjp(c)[0]

    return _map(one, (maps, cotangent), way.block)


_keep_jacobian.defvjp(_keep_jacobian_forward, _keep_jacobian_backward)


def _like(rows: BranchRows, gradients: list[Array]) -> BranchRows:
    return BranchRows(*(g.astype(r.dtype) for g, r in zip(gradients, rows, strict=True)))


def transposed_like(rows: BranchRows, gradients: Sequence[Array]) -> BranchRows:
    """Gradients `[dim, attributes]` in the shape and dtype of the rows."""
    return _like(rows, [g.T for g in gradients])
