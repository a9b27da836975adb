"""The Dual Attention Network as pure functions of folded rows and feature maps.

Both branches are one operation, `attention_pool`: per attribute, a softmax over positions weighs
the scores of those positions. The region branch has regions as positions and channels as the
dimension; the channel branch is the same on the transposed map.

The word vectors enter only through the products V·H, so these are folded first. Rows of any number
of attribute sets (both experts, all groups) can then be stacked and pooled in one pass over the
feature map, where the published code makes one pass per matrix, expert and group.

Precision: features in bfloat16 make bfloat16 products, forward and backward, which are accumulated
in float32; rows, softmax, results and gradients are float32. Other features are multiplied in
float32, as `jax.default_matmul_precision` says.

Source: the DAN section of the DEDN paper (arXiv 2404.16348).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange


class BranchRows(NamedTuple):
    """Folded matrices of one branch, one row per attribute.

    Attributes:
      score: `[attributes, dim]`, V·H of the scores.
      attention: `[attributes, dim]`, V·H of the attention logits.
    """

    score: jax.Array
    attention: jax.Array


def stack_rows(parts: list[BranchRows]) -> BranchRows:
    """Stacks the rows of several attribute sets, so that the feature map is read once for all."""
    return BranchRows(
        jnp.concatenate([p.score for p in parts]), jnp.concatenate([p.attention for p in parts])
    )


def dual_attention(
    region: BranchRows,
    channel: BranchRows,
    features: jax.Array,
    kernel: Literal["xla", "pallas"] = "xla",
) -> tuple[jax.Array, jax.Array]:
    """Attribute scores of both branches.

    Args:
      region: rows of `[attributes, channels]`.
      channel: rows of `[attributes, regions]`.
      features: `[batch, channels, regions]`, L2-normalised over channels.
      kernel: `kernels.resolve_kernel` tells which.

    Returns:
      float32 `p_region` and `p_channel`, each `[batch, attributes]`.
    """
    if kernel == "pallas":
        return attention_pool(region, features, kernel), _fused(channel, features, transposed=True)
    return (
        attention_pool(region, features),
        attention_pool(channel, jnp.swapaxes(features, 1, 2)),
    )


def attention_pool(
    rows: BranchRows, features: jax.Array, kernel: Literal["xla", "pallas"] = "xla"
) -> jax.Array:
    """`p[b, a] = Σ_p softmax_p(attention_a · f_bp) · (score_a · f_bp)`.

    Args:
      rows: score and attention rows, `[attributes, dim]` each.
      features: `[batch, dim, positions]`.
      kernel: `kernels.resolve_kernel` tells which.

    Returns:
      `[batch, attributes]` float32.
    """
    if kernel == "pallas":
        return _fused(rows, features, transposed=False)
    _, dim, positions = features.shape
    # The dense form keeps scores and weights, [batch, attributes, positions], for the backward
    # pass; the per-image form keeps the Jacobian, [batch, attributes, dim] twice. The smaller wins.
    if positions > 2 * dim:
        return _pool_per_image(rows, features)
    return _pool_dense(rows, features)


def _fused(rows: BranchRows, features: jax.Array, *, transposed: bool) -> jax.Array:
    """One kernel; features as they are stored, with the positions first if `transposed`."""
    # Pallas takes a second to import, which nothing else needs.
    from dedn_jax.model.kernels import attention_pool as fused

    return fused.attention_pool(*rows, features, transposed=transposed)


def _softmax_pool(scores: jax.Array, logits: jax.Array) -> jax.Array:
    """Weighted sum over the last axis, without a normalised copy of the weights."""
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    return (weights * scores).sum(-1) / weights.sum(-1)


def _pool_dense(rows: BranchRows, features: jax.Array) -> jax.Array:
    """All images in one matrix product; for few positions."""
    products = _dense_products(jnp.concatenate(rows), features)
    scores, logits = rearrange(products, "(two a) b p -> two b a p", two=2)
    return _softmax_pool(scores, logits)


def _as_factor(x: jax.Array, features: jax.Array) -> jax.Array:
    """`x` as it is multiplied with `features`."""
    return x.astype(features.dtype) if features.dtype == jnp.bfloat16 else x


@jax.custom_vjp
def _dense_products(rows: jax.Array, features: jax.Array) -> jax.Array:
    """`[n, dim]` and `[batch, dim, positions]` to float32 `[n, batch, positions]`.

    Its own gradient, because the products that JAX derives would take the float32 cotangent as it
    is, and bfloat16 features would be multiplied as float32.
    """
    return jnp.einsum(
        "ad,bdp->abp", _as_factor(rows, features), features, preferred_element_type=jnp.float32
    )


def _dense_products_forward(
    rows: jax.Array, features: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _dense_products(rows, features), (rows, features)


def _dense_products_backward(
    saved: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    rows, features = saved
    cotangent = _as_factor(cotangent, features)
    by_rows = jnp.einsum("abp,bdp->ad", cotangent, features, preferred_element_type=jnp.float32)
    # Needed only while a backbone is fine-tuned; with frozen features XLA drops it, unused.
    by_features = jnp.einsum(
        "ad,abp->bdp", _as_factor(rows, features), cotangent, preferred_element_type=jnp.float32
    )
    return by_rows.astype(rows.dtype), by_features.astype(features.dtype)


_dense_products.defvjp(_dense_products_forward, _dense_products_backward)


def _image_products(rows: BranchRows, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Scores and logits, `[attributes, positions]` each, of an image `[dim, positions]`."""
    scores, logits = (
        jnp.matmul(_as_factor(r, image), image, preferred_element_type=jnp.float32) for r in rows
    )
    return scores, logits


@jax.custom_vjp
def _pool_per_image(rows: BranchRows, features: jax.Array) -> jax.Array:
    """One image at a time, so that its scores stay in cache; for many positions.

    The gradient in the rows is linear in the cotangent of `p[b, a]`, with the coefficients
    `∂p/∂score_a = Σ β f` and `∂p/∂attention_a = Σ β (s - p) f`. Both are sums over positions, so
    the forward pass makes them while the scores are at hand, and nothing of size
    `[batch, attributes, positions]` is ever kept.
    """
    return jax.lax.map(lambda image: _softmax_pool(*_image_products(rows, image)), features)


def _pool_per_image_forward(
    rows: BranchRows, features: jax.Array
) -> tuple[jax.Array, tuple[BranchRows, jax.Array, jax.Array, jax.Array]]:
    def one(image: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        scores, logits = _image_products(rows, image)
        weights = jnp.exp(logits - logits.max(-1, keepdims=True))
        total = weights.sum(-1)
        pooled = (weights * scores).sum(-1) / total

        # [dim, attributes]: attributes last keeps the wide side of the product contiguous.
        def weighted(by_position: jax.Array) -> jax.Array:
            factor = _as_factor(by_position.T, image)
            return jnp.matmul(image, factor, preferred_element_type=jnp.float32) / total

        return pooled, weighted(weights), weighted(weights * (scores - pooled[:, None]))

    pooled, by_score, by_attention = jax.lax.map(one, features)
    return pooled, (rows, features, by_score, by_attention)


def _pool_per_image_backward(
    saved: tuple[BranchRows, jax.Array, jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[BranchRows, jax.Array]:
    rows, features, by_score, by_attention = saved
    row_gradient = BranchRows(
        jnp.einsum("ba,bda->ad", cotangent, by_score).astype(rows.score.dtype),
        jnp.einsum("ba,bda->ad", cotangent, by_attention).astype(rows.attention.dtype),
    )

    # Needed only while a backbone is fine-tuned; with frozen features XLA drops it, unused.
    def one(image_and_cotangent: tuple[jax.Array, jax.Array]) -> jax.Array:
        image, c = image_and_cotangent
        _, vjp = jax.vjp(lambda x: _softmax_pool(*_image_products(rows, x)), image)
        return vjp(c)[0]

    return row_gradient, jax.lax.map(one, (features, cotangent))


_pool_per_image.defvjp(_pool_per_image_forward, _pool_per_image_backward)
