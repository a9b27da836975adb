"""Attention pooling in one kernel, without `[batch, attributes, positions]` arrays in main memory.

`p[b, a] = Σ_p β_p s_p` with `s = score_a · f_b`, `β = softmax(attention_a · f_b)`. The forward
pass saves `p` and the softmax's maximum and sum; the backward pass recomputes `s` and `β`. The
gradient in the rows, for a cotangent `c[b, a]`, is

    ∂score_a = Σ_b c Σ_p β_p f_bp        ∂attention_a = Σ_b c Σ_p β_p (s_p - p) f_bp

As in Dao et al., FlashAttention-2 (arXiv 2307.08691), except that maximum and sum are saved
separately: a log-sum-exp would lose digits where logits are large.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dedn_jax.model.kernels import gpu, tpu
from dedn_jax.model.kernels.common import Backend, Features, Rows, Statistics, products

_BACKENDS: dict[str, Backend] = {"gpu": gpu, "tpu": tpu}


class _Options(NamedTuple):
    """Static arguments.

    Attributes:
      transposed: whether features are `[batch, positions, dim]`.
      interpret: the backend whose kernels to interpret; None compiles those of the platform.
    """

    transposed: bool
    interpret: str | None


def attention_pool(
    score: Float[Array, "attributes dim"],
    attention: Float[Array, "attributes dim"],
    features: Features,
    *,
    transposed: bool = False,
    interpret: Literal["gpu", "tpu"] | None = None,
) -> Float[Array, "batch attributes"]:
    """`p[b, a] = Σ_p softmax_p(attention_a · f_bp) · (score_a · f_bp)`.

    Products are in the features' dtype, accumulated in float32; float32 products follow
    `jax.default_matmul_precision`. Kernels are compiled on GPUs and TPUs, interpreted elsewhere.

    Args:
      score: `[attributes, dim]`.
      attention: `[attributes, dim]`.
      features: `[batch, dim, positions]`, or `[batch, positions, dim]` if `transposed`; float32 or
        bfloat16, others are converted to float32.
      transposed: the layout of the features.
      interpret: `gpu` or `tpu`, to interpret that backend's kernels on any platform.

    Returns:
      `[batch, attributes]` float32.
    """
    if features.dtype not in (jnp.float32, jnp.bfloat16):
        features = features.astype(jnp.float32)
    if 0 in features.shape or not len(score):
        return jnp.zeros((len(features), len(score)), jnp.float32)
    return _pool(_Options(transposed, interpret), score, attention, features)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pool(
    options: _Options,
    score: Float[Array, "attributes dim"],
    attention: Float[Array, "attributes dim"],
    features: Features,
) -> Float[Array, "batch attributes"]:
    return _pool_forward(options, score, attention, features)[0]


def _on_platform(
    options: _Options, function: Literal["forward", "row_gradient"], *arguments: Any
) -> Any:
    """`function` of the platform's backend, chosen when the program is lowered."""

    def of(backend: Backend, interpret: bool) -> Any:
        return functools.partial(
            getattr(backend, function), transposed=options.transposed, interpret=interpret
        )

    if options.interpret:
        return of(_BACKENDS[options.interpret], True)(*arguments)
    return jax.lax.platform_dependent(
        *arguments,
        tpu=of(tpu, False),
        cuda=of(gpu, False),
        rocm=of(gpu, False),
        default=of(gpu, True),
    )


def _stacked(
    score: Float[Array, "attributes dim"],
    attention: Float[Array, "attributes dim"],
    features: Features,
) -> Rows:
    return jnp.stack([score, attention]).astype(features.dtype)


# The arguments, the result, and maximum and sum of the softmax.
_Saved = tuple[Array, Array, Array, Array, Array, Array]


def _pool_forward(
    options: _Options,
    score: Float[Array, "attributes dim"],
    attention: Float[Array, "attributes dim"],
    features: Features,
) -> tuple[Float[Array, "batch attributes"], _Saved]:
    rows = _stacked(score, attention, features)
    pooled, maximum, total = _on_platform(options, "forward", rows, features)
    return pooled, (score, attention, features, pooled, maximum, total)


def _pool_backward(
    options: _Options, saved: _Saved, cotangent: Float[Array, "batch attributes"]
) -> tuple[Float[Array, "attributes dim"], Float[Array, "attributes dim"], Features]:
    score, attention, features, pooled, maximum, total = saved
    rows = _stacked(score, attention, features)
    statistics = Statistics(cotangent, pooled, maximum, total)
    by_rows = _on_platform(options, "row_gradient", rows, features, statistics)
    # Used only while a backbone is fine-tuned; with frozen features XLA removes it as dead code.
    by_features = _feature_gradient(rows, features, statistics, options.transposed)
    return by_rows[0].astype(score.dtype), by_rows[1].astype(attention.dtype), by_features


_pool.defvjp(_pool_forward, _pool_backward)


def _feature_gradient(
    rows: Rows, features: Features, statistics: Statistics, transposed: bool
) -> Features:
    """`Σ_a c β (score_a + (s - p) attention_a)` in the features' shape, image by image."""

    def one(arguments: tuple[Float[Array, "_ _"], Statistics]) -> Float[Array, "_ _"]:
        image, of_image = arguments
        scores, logits = products(rows, image, transposed)
        weights = jnp.stack(of_image.columns().weights(scores, logits)).astype(image.dtype)
        return jnp.einsum(
            "zap,zad->pd" if transposed else "zap,zad->dp",
            weights,
            rows,
            preferred_element_type=jnp.float32,
        ).astype(image.dtype)

    return jax.lax.map(one, (features, statistics))
