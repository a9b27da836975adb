"""Attention pooling in one kernel: no `[batch, attributes, positions]` array is ever kept.

`p[b, a] = Σ_p β_p s_p` with `s = score_a · f_b`, `β = softmax(attention_a · f_b)`. The forward
pass keeps `p` and the softmax's maximum and sum; the backward pass computes `s` and `β` again. The
gradient in the rows, for a cotangent `c[b, a]`, is

    ∂score_a = Σ_b c Σ_p β_p f_bp        ∂attention_a = Σ_b c Σ_p β_p (s_p - p) f_bp

Both sums lie outside the softmax as in Dao et al., FlashAttention-2 (arXiv 2307.08691). Maximum and
sum are kept apart: their logarithmic sum would cost digits where logits are large.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dedn_jax.model.kernels import gpu, tpu
from dedn_jax.model.kernels.common import Statistics, products

_BACKENDS = {"gpu": gpu, "tpu": tpu}


class _Options(NamedTuple):
    """What a call is compiled for.

    Attributes:
      transposed: features are `[batch, positions, dim]`, not `[batch, dim, positions]`.
      interpret: a backend's name, to interpret its kernels; else that of the platform is compiled.
    """

    transposed: bool
    interpret: str | None


def attention_pool(
    score: jax.Array,
    attention: jax.Array,
    features: jax.Array,
    *,
    transposed: bool = False,
    interpret: str | None = None,
) -> jax.Array:
    """`p[b, a] = Σ_p softmax_p(attention_a · f_bp) · (score_a · f_bp)`.

    Products are of the features' dtype, accumulated in float32; float32 products follow
    `jax.default_matmul_precision`. On GPUs and TPUs kernels are compiled, elsewhere interpreted.

    Args:
      score: `[attributes, dim]`.
      attention: `[attributes, dim]`.
      features: `[batch, dim, positions]`, or `[batch, positions, dim]` if `transposed`; float32 or
        bfloat16, others are computed in float32.
      transposed: how the features lie.
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
    options: _Options, score: jax.Array, attention: jax.Array, features: jax.Array
) -> jax.Array:
    return _pool_forward(options, score, attention, features)[0]


def _on_platform(options: _Options, function: str, *arguments: Any) -> Any:
    """`function` of the platform's backend, chosen when the program is lowered."""

    def of(backend: ModuleType, interpret: bool) -> Any:
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


def _stacked(score: jax.Array, attention: jax.Array, features: jax.Array) -> jax.Array:
    """Both rows as `[2, attributes, dim]` in the features' dtype."""
    return jnp.stack([score, attention]).astype(features.dtype)


_Saved = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]


def _pool_forward(
    options: _Options, score: jax.Array, attention: jax.Array, features: jax.Array
) -> tuple[jax.Array, _Saved]:
    rows = _stacked(score, attention, features)
    pooled, maximum, total = _on_platform(options, "forward", rows, features)
    return pooled, (score, attention, features, pooled, maximum, total)


def _pool_backward(
    options: _Options, saved: _Saved, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    score, attention, features, *kept = saved
    rows = _stacked(score, attention, features)
    statistics = Statistics(cotangent, *kept)
    by_rows = _on_platform(options, "row_gradient", rows, features, statistics)
    # Needed only while a backbone is fine-tuned; with frozen features XLA drops it, unused.
    by_features = _feature_gradient(rows, features, statistics, options.transposed)
    return by_rows[0].astype(score.dtype), by_rows[1].astype(attention.dtype), by_features


_pool.defvjp(_pool_forward, _pool_backward)


def _feature_gradient(
    rows: jax.Array, features: jax.Array, statistics: Statistics, transposed: bool
) -> jax.Array:
    """`Σ_a c β (score_a + (s - p) attention_a)` in the features' shape, image by image."""

    def one(arguments: tuple[jax.Array, Statistics]) -> jax.Array:
        image, of_image = arguments
        scores, logits = products(rows, image, transposed)
        weights = jnp.stack(of_image.weights(scores, logits)).astype(image.dtype)
        return jnp.einsum(
            "zap,zad->pd" if transposed else "zap,zad->dp",
            weights,
            rows,
            preferred_element_type=jnp.float32,
        ).astype(image.dtype)

    return jax.lax.map(one, (features, statistics))
