"""Region and channel attention of the Dual Attention Network, as pure functions.

Both branches are one operation, `attention_pool`: for each attribute, the mean of its scores over
positions, weighted by a softmax. The region branch has regions as positions and channels as the
dimension; the channel branch is the same on the transposed map. `attention_weights` gives the
weights themselves, which training never materialises.

The word vectors enter only through the products V·H, so these are folded into rows first. The rows
of any number of attribute sets (both experts, all groups) are then stacked and pooled in one pass
over the feature map, where the published code makes one pass per matrix, expert and group.

Precision: bfloat16 features give bfloat16 products, forward and backward, accumulated in float32;
rows, softmax, results and gradients are float32. Other features are multiplied in float32, subject
to `jax.default_matmul_precision`.

Source: the DAN section of the DEDN paper (arXiv 2404.16348).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float


class BranchRows(NamedTuple):
    """Folded matrices of one branch, one row per attribute.

    Attributes:
      score: `[attributes, dim]`, V·H of the scores.
      attention: `[attributes, dim]`, V·H of the attention logits.
    """

    score: Float[Array, "attributes dim"]
    attention: Float[Array, "attributes dim"]


class AttentionWeights(NamedTuple):
    """Where each attribute looks, softmax weights that sum to 1 over the last axis.

    Attributes:
      region: `[batch, attributes, regions]`.
      channel: `[batch, attributes, channels]`.
    """

    region: Float[Array, "batch attributes regions"]
    channel: Float[Array, "batch attributes channels"]


def stack_rows(sets: list[BranchRows]) -> BranchRows:
    """Stacks the rows of several attribute sets, so that the feature map is read once for all."""
    return BranchRows(
        jnp.concatenate([s.score for s in sets]), jnp.concatenate([s.attention for s in sets])
    )


def dual_attention(
    region: BranchRows | None,
    channel: BranchRows | None,
    features: Float[Array, "batch channels regions"],
    kernel: Literal["xla", "pallas"] = "xla",
) -> tuple[Float[Array, "batch attributes"] | None, Float[Array, "batch attributes"] | None]:
    """Attribute scores of both branches; None for a branch without rows, which is not computed.

    Args:
      region: rows of `[attributes, channels]`.
      channel: rows of `[attributes, regions]`.
      features: `[batch, channels, regions]`, L2-normalised over channels.
      kernel: see `kernels.resolve_kernel`.

    Returns:
      float32 `p_region` and `p_channel`, each `[batch, attributes]`.
    """
    with jax.named_scope("region"):
        p_region = None if region is None else attention_pool(region, features, kernel)
    if channel is None:
        return p_region, None
    with jax.named_scope("channel"):
        if kernel == "pallas":
            return p_region, _fused(channel, features, transposed=True)
        return p_region, attention_pool(channel, jnp.swapaxes(features, 1, 2))


def dual_attention_weights(
    region: BranchRows | None,
    channel: BranchRows | None,
    features: Float[Array, "batch channels regions"],
) -> tuple[
    Float[Array, "batch attributes regions"] | None,
    Float[Array, "batch attributes channels"] | None,
]:
    """The attention weights of both branches, for the arguments of `dual_attention`."""
    transposed = jnp.swapaxes(features, 1, 2)
    return (
        None if region is None else attention_weights(region.attention, features),
        None if channel is None else attention_weights(channel.attention, transposed),
    )


def attention_weights(
    rows: Float[Array, "attributes dim"], features: Float[Array, "batch dim positions"]
) -> Float[Array, "batch attributes positions"]:
    """`softmax_p(attention_a · f_bp)` in float32: the weights that `attention_pool` sums with."""
    logits = jnp.einsum(
        "ad,bdp->bap", _as_factor(rows, features), features, preferred_element_type=jnp.float32
    )
    return jax.nn.softmax(logits)


def attention_pool(
    rows: BranchRows,
    features: Float[Array, "batch dim positions"],
    kernel: Literal["xla", "pallas"] = "xla",
) -> Float[Array, "batch attributes"]:
    """`p[b, a] = Σ_p softmax_p(attention_a · f_bp) · (score_a · f_bp)`.

    Args:
      rows: score and attention rows, `[attributes, dim]` each.
      features: `[batch, dim, positions]`.
      kernel: see `kernels.resolve_kernel`.

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


def _fused(
    rows: BranchRows, features: Float[Array, "batch _ _"], *, transposed: bool
) -> Float[Array, "batch attributes"]:
    """The fused kernel; features are `[batch, positions, dim]` if `transposed`."""
    # Imported here: Pallas takes a second to import, and only this function needs it.
    from dedn_jax.model.kernels import attention_pool as fused

    return fused.attention_pool(*rows, features, transposed=transposed)


def _softmax_pool(
    scores: Float[Array, "*rows positions"], logits: Float[Array, "*rows positions"]
) -> Float[Array, "*rows"]:
    """Weighted sum over the last axis, without a normalised copy of the weights."""
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    return (weights * scores).sum(-1) / weights.sum(-1)


def _pool_dense(
    rows: BranchRows, features: Float[Array, "batch dim positions"]
) -> Float[Array, "batch attributes"]:
    """All images in one matrix product; for few positions."""
    products = _dense_products(jnp.concatenate(rows), features)
    scores, logits = rearrange(products, "(two a) b p -> two b a p", two=2)
    return _softmax_pool(scores, logits)


def _as_factor(x: Float[Array, "*shape"], features: Array) -> Float[Array, "*shape"]:
    """`x` in the dtype in which it is multiplied with `features`."""
    return x.astype(features.dtype) if features.dtype == jnp.bfloat16 else x


@jax.custom_vjp
def _dense_products(
    rows: Float[Array, "rows dim"], features: Float[Array, "batch dim positions"]
) -> Float[Array, "rows batch positions"]:
    """Products in float32, with a gradient of their own.

    The one that JAX derives would multiply the float32 cotangent with bfloat16 features in float32.
    """
    return jnp.einsum(
        "ad,bdp->abp", _as_factor(rows, features), features, preferred_element_type=jnp.float32
    )


_Factors = tuple[Float[Array, "rows dim"], Float[Array, "batch dim positions"]]


def _dense_products_forward(
    rows: Float[Array, "rows dim"], features: Float[Array, "batch dim positions"]
) -> tuple[Float[Array, "rows batch positions"], _Factors]:
    return _dense_products(rows, features), (rows, features)


def _dense_products_backward(
    saved: _Factors, cotangent: Float[Array, "rows batch positions"]
) -> _Factors:
    rows, features = saved
    cotangent = _as_factor(cotangent, features)
    by_rows = jnp.einsum("abp,bdp->ad", cotangent, features, preferred_element_type=jnp.float32)
    # Used only while a backbone is fine-tuned; with frozen features XLA removes it as dead code.
    by_features = jnp.einsum(
        "ad,abp->bdp", _as_factor(rows, features), cotangent, preferred_element_type=jnp.float32
    )
    return by_rows.astype(rows.dtype), by_features.astype(features.dtype)


_dense_products.defvjp(_dense_products_forward, _dense_products_backward)


def _image_products(
    rows: BranchRows, image: Float[Array, "dim positions"]
) -> tuple[Float[Array, "attributes positions"], Float[Array, "attributes positions"]]:
    """Scores and logits of one image."""
    scores, logits = (
        jnp.matmul(_as_factor(r, image), image, preferred_element_type=jnp.float32) for r in rows
    )
    return scores, logits


@jax.custom_vjp
def _pool_per_image(
    rows: BranchRows, features: Float[Array, "batch dim positions"]
) -> Float[Array, "batch attributes"]:
    """One image at a time, so that its scores stay in cache; for many positions.

    The gradient in the rows is linear in the cotangent of `p[b, a]`, with the coefficients
    `∂p/∂score_a = Σ β f` and `∂p/∂attention_a = Σ β (s - p) f`. Both are sums over positions: the
    forward pass computes them along with the scores, and no array of shape
    `[batch, attributes, positions]` is kept for the backward pass.
    """
    return jax.lax.map(lambda image: _softmax_pool(*_image_products(rows, image)), features)


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

        # Attributes last keeps the long side of the product contiguous.
        def weighted(
            by_position: Float[Array, "attributes positions"],
        ) -> Float[Array, "dim attributes"]:
            factor = _as_factor(by_position.T, image)
            return jnp.matmul(image, factor, preferred_element_type=jnp.float32) / total

        jacobian = _Jacobian(weighted(weights), weighted(weights * (scores - pooled[:, None])))
        return pooled, jacobian

    pooled, jacobian = jax.lax.map(one, features)
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


_pool_per_image.defvjp(_pool_per_image_forward, _pool_per_image_backward)
