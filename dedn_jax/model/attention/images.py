"""Attention pooling for CPUs: one image at a time where its scores would not stay in cache."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from dedn_jax.model.attention.moves import map_images, swap_map_axes
from dedn_jax.model.attention.rows import BranchRows, as_factor


def pool(
    rows: BranchRows, features: Float[Array, "batch dim positions"]
) -> Float[Array, "batch attributes"]:
    """See `attention.pooling.attention_pool`."""
    _, dim, positions = features.shape
    # The dense form keeps scores and weights, [batch, attributes, positions], for the backward
    # pass; the per-image form keeps the Jacobian, [batch, attributes, dim] twice. The smaller wins.
    if positions > 2 * dim:
        return pool_per_image(rows, features)
    return pool_dense(rows, features)


def _softmax_pool(
    scores: Float[Array, "*rows positions"], logits: Float[Array, "*rows positions"]
) -> Float[Array, "*rows"]:
    """Weighted sum over the last axis, without a normalised copy of the weights."""
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    return (weights * scores).sum(-1) / weights.sum(-1)


def pool_dense(
    rows: BranchRows, features: Float[Array, "batch dim positions"]
) -> Float[Array, "batch attributes"]:
    """All images in one matrix product; for few positions."""
    batch, dim, positions = features.shape
    # With `dim` last no product has to transpose its factors.
    by_position = swap_map_axes(features).reshape(batch * positions, dim)
    products = _dense_products(jnp.concatenate(rows), by_position)
    scores, logits = rearrange(products, "(two a) (b p) -> two b a p", two=2, b=batch, p=positions)
    return _softmax_pool(scores, logits)


@jax.custom_vjp
def _dense_products(
    rows: Float[Array, "rows dim"], vectors: Float[Array, "vectors dim"]
) -> Float[Array, "rows vectors"]:
    """Products in float32, with a gradient of their own.

    The one that JAX derives would multiply the float32 cotangent with bfloat16 features in float32.
    """
    return jnp.einsum(
        "ad,nd->an", as_factor(rows, vectors), vectors, preferred_element_type=jnp.float32
    )


_Factors = tuple[Float[Array, "rows dim"], Float[Array, "vectors dim"]]


def _dense_products_forward(
    rows: Float[Array, "rows dim"], vectors: Float[Array, "vectors dim"]
) -> tuple[Float[Array, "rows vectors"], _Factors]:
    return _dense_products(rows, vectors), (rows, vectors)


def _dense_products_backward(saved: _Factors, cotangent: Float[Array, "rows vectors"]) -> _Factors:
    rows, vectors = saved
    cotangent = as_factor(cotangent, vectors)
    by_rows = jnp.einsum("an,nd->ad", cotangent, vectors, preferred_element_type=jnp.float32)
    # Used only while a backbone is fine-tuned; with frozen features XLA removes it as dead code.
    by_vectors = jnp.einsum(
        "ad,an->nd", as_factor(rows, vectors), cotangent, preferred_element_type=jnp.float32
    )
    return by_rows.astype(rows.dtype), by_vectors.astype(vectors.dtype)


_dense_products.defvjp(_dense_products_forward, _dense_products_backward)


def _image_products(
    rows: BranchRows, image: Float[Array, "dim positions"]
) -> tuple[Float[Array, "attributes positions"], Float[Array, "attributes positions"]]:
    """Scores and logits of one image."""
    scores, logits = (
        jnp.matmul(as_factor(r, image), image, preferred_element_type=jnp.float32) for r in rows
    )
    return scores, logits


@jax.custom_vjp
def pool_per_image(
    rows: BranchRows, features: Float[Array, "batch dim positions"]
) -> Float[Array, "batch attributes"]:
    """One image at a time, so that its scores stay in cache; for many positions.

    The gradient in the rows is linear in the cotangent of `p[b, a]`, with the coefficients
    `∂p/∂score_a = Σ β f` and `∂p/∂attention_a = Σ β (s - p) f`. Both are sums over positions: the
    forward pass computes them along with the scores, and no array of shape
    `[batch, attributes, positions]` is kept for the backward pass.
    """
    return map_images(lambda image: _softmax_pool(*_image_products(rows, image)), features)


class _Jacobian(NamedTuple):
    """Coefficients of the gradient in the rows."""

    by_score: Float[Array, "batch dim attributes"]
    by_attention: Float[Array, "batch dim attributes"]


_Saved = tuple[BranchRows, Float[Array, "batch dim positions"], _Jacobian]


def _pool_per_image_forward(
    rows: BranchRows, features: Float[Array, "batch dim positions"]
) -> tuple[Float[Array, "batch attributes"], _Saved]:
    def one(image: Float[Array, "dim positions"]) -> tuple[Float[Array, " attributes"], _Jacobian]:
        scores, logits = _image_products(rows, image)
        weights = jnp.exp(logits - logits.max(-1, keepdims=True))
        total = weights.sum(-1)
        pooled = (weights * scores).sum(-1) / total

        def weighted(
            by_position: Float[Array, "attributes positions"],
        ) -> Float[Array, "dim attributes"]:
            factor = as_factor(by_position, image)
            if image.dtype == jnp.bfloat16:
                # Without the barrier XLA would swap the factors, and multiply them in float32.
                product = jnp.einsum("ap,dp->ad", factor, image, preferred_element_type=jnp.float32)
                product = jax.lax.optimization_barrier(product).T
            else:
                # Attributes last keeps the long side of the product contiguous.
                product = jnp.matmul(image, factor.T, preferred_element_type=jnp.float32)
            return product / total

        jacobian = _Jacobian(weighted(weights), weighted(weights * (scores - pooled[:, None])))
        return pooled, jacobian

    pooled, jacobian = map_images(one, features)
    return pooled, (rows, features, jacobian)


def _pool_per_image_backward(
    saved: _Saved, cotangent: Float[Array, "batch attributes"]
) -> tuple[BranchRows, Float[Array, "batch dim positions"]]:
    rows, features, jacobian = saved
    row_gradient = BranchRows(
        jnp.einsum("ba,bda->ad", cotangent, jacobian.by_score).astype(rows.score.dtype),
        jnp.einsum("ba,bda->ad", cotangent, jacobian.by_attention).astype(rows.attention.dtype),
    )

    # Used only while a backbone is fine-tuned; with frozen features XLA removes it as dead code.
    def one(
        image_and_cotangent: tuple[Float[Array, "dim positions"], Float[Array, " attributes"]],
    ) -> Float[Array, "dim positions"]:
        image, c = image_and_cotangent
        _, vjp = jax.vjp(lambda x: _softmax_pool(*_image_products(rows, x)), image)
        return vjp(c)[0]

    return row_gradient, jax.lax.map(one, (features, cotangent))


pool_per_image.defvjp(_pool_per_image_forward, _pool_per_image_backward)
