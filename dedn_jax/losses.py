"""The DEDN losses, each a pure function; all in float32 and log space.

Letters: b images, K classes, A attributes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def class_bias(seen: jax.Array, bias: float) -> jax.Array:
    """d: `+bias` on unseen and `-bias` on seen classes, `[K]`."""
    return jnp.where(seen, -bias, bias).astype(jnp.float32)


def class_scores(
    attribute_scores: jax.Array, class_embeddings: jax.Array, seen: jax.Array, bias: float
) -> jax.Array:
    """`s = p·Zᵀ + d`.

    Args:
      attribute_scores: `[b, A]`.
      class_embeddings: `[K, A]`, rows L2-normalised, attributes in the same order.
      seen: `[K]` bool.
      bias: size of d.

    Returns:
      `[b, K]` float32.
    """
    scores = jnp.matmul(attribute_scores, class_embeddings.T, preferred_element_type=jnp.float32)
    return scores + class_bias(seen, bias)


def margin_cross_entropy(
    scores: jax.Array,
    labels: jax.Array,
    seen: jax.Array,
    *,
    bias: float,
    margin: float,
    seen_margin: float,
) -> jax.Array:
    """Margin-aware cross-entropy over all classes; plain when both margins are 0.

    d is taken away again, `seen_margin` is added to every seen class and `margin` taken off the
    true one.

    Args:
      scores: `[b, K]`, d included.
      labels: `[b]` int class ids.
      seen: `[K]` bool.
      bias: size of d.
      margin: t.
      seen_margin: 1 in the published recipes.

    Returns:
      Mean over the batch, in nats.
    """
    logits = scores - class_bias(seen, bias) + jnp.where(seen, seen_margin, 0.0)
    true_class = jax.nn.one_hot(labels, scores.shape[-1], dtype=scores.dtype)
    logits = logits - margin * true_class
    return -(jax.nn.log_softmax(logits) * true_class).sum(-1).mean()


def self_calibration(scores: jax.Array, seen: jax.Array) -> jax.Array:
    """`-log(mean_b Σ_{unseen k} softmax(s)_k)`: keeps some mass on the unseen classes.

    Args:
      scores: `[b, K]`, d included.
      seen: `[K]` bool, at least one False.
    """
    log_probabilities = jax.nn.log_softmax(scores)
    log_mass = jax.nn.logsumexp(log_probabilities, axis=-1, where=~seen)
    return jnp.log(float(scores.shape[0])) - jax.nn.logsumexp(log_mass)


def jensen_shannon(x: jax.Array, y: jax.Array) -> jax.Array:
    """Jensen-Shannon divergence of `softmax(x)` and `softmax(y)`, `[b, n]` each: mean over rows."""
    log_p, log_q = jax.nn.log_softmax(x), jax.nn.log_softmax(y)
    log_mean = jnp.logaddexp(log_p, log_q) - jnp.log(2.0)
    divergence = jnp.exp(log_p) * (log_p - log_mean) + jnp.exp(log_q) * (log_q - log_mean)
    return 0.5 * divergence.sum(-1).mean()


def agreement(x: jax.Array, y: jax.Array) -> jax.Array:
    """The published D: `(1/b) Σ_ij |x-y|³_ij / ‖x_i-y_i‖₂ + JSD`, for `[b, n]` scores.

    1e-9 stands under the square root, as in the published SUN and AWA2 models, so that value and
    gradient are finite where two rows are equal (the published CUB model gives NaN there).
    """
    difference = jnp.abs(x - y)
    norm = jnp.sqrt(jnp.square(difference).sum(-1, keepdims=True) + 1e-9)
    return (difference**3 / norm).sum(-1).mean() + jensen_shannon(x, y)


def kl_divergence(teacher: jax.Array, student: jax.Array, temperature: float) -> jax.Array:
    """`KL(softmax(teacher/T) ‖ softmax(student/T))`, `[b, n]` scores: mean over rows, nats."""
    log_p = jax.nn.log_softmax(teacher / temperature)
    log_q = jax.nn.log_softmax(student / temperature)
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1).mean()


def bidirectional_kl(
    x: jax.Array, y: jax.Array, *, temperature: float, stop_gradient: bool
) -> jax.Array:
    """`T² · [KL(p_x ‖ p_y) + KL(p_y ‖ p_x)]`, each side teaching the other.

    T² keeps the gradient's size when the temperature changes (Hinton et al., arXiv 1503.02531).

    Args:
      x, y: `[b, n]` scores.
      temperature: T.
      stop_gradient: hold the teacher side (the first argument) of each divergence fixed.
    """
    hold = jax.lax.stop_gradient if stop_gradient else lambda z: z
    both = kl_divergence(hold(x), y, temperature) + kl_divergence(hold(y), x, temperature)
    return temperature**2 * both
