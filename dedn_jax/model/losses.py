"""The DEDN losses, each a pure function; all in float32 and log space.

Letters: b images, K classes, A attributes.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class BatchMean:
    """The mean over a batch's images, wherever they are.

    Attributes:
      weights: `[b]` float32: 1 for an image, 0 for a row that only fills the batch up; None where
        every row counts.
      axis: name of the mapped axis along which the batch is cut; None where it is whole.
        A device then gives its share of the mean: the sum over the axis is the mean.
    """

    weights: jax.Array | None = None
    axis: str | None = None

    def __call__(self, values: jax.Array) -> jax.Array:
        """Of `[b]` values."""
        if self.weights is None and self.axis is None:
            return values.mean()
        return self.sum(values) / self.count(values)

    def sum(self, values: jax.Array) -> jax.Array:
        """The sum of this device's values."""
        return (values if self.weights is None else values * self.weights).sum()

    def count(self, values: jax.Array) -> jax.Array:
        """How many images there are on all devices."""
        if self.weights is None:
            devices = 1 if self.axis is None else jax.lax.psum(1, self.axis)  # nothing is sent
            return jnp.float32(values.shape[0] * devices)
        n = self.weights.sum()
        return n if self.axis is None else jax.lax.psum(n, self.axis)

    def log_mean_exp(self, values: jax.Array) -> jax.Array:
        """`log(mean_b exp(values))`, of this device's share."""
        log_count = jnp.log(self.count(values))
        if self.axis is None:
            if self.weights is not None:
                values = jnp.where(self.weights > 0, values, -jnp.inf)
            return jax.nn.logsumexp(values) - log_count
        # Log-probabilities: exp cannot overflow, and a mass that underflows everywhere is lost
        # either way. What the devices share is the sum, and each has an equal part of the result.
        own = self.sum(jnp.exp(values))
        fixed = jax.lax.stop_gradient(own)
        total = jax.lax.psum(fixed, self.axis)
        # 0, with the logarithm's gradient in `own`: the transposed psum would ask all devices for
        # what each of them knows.
        own_part = (own - fixed) / total
        return own_part + (jnp.log(total) - log_count) / jax.lax.psum(1.0, self.axis)


MEAN = BatchMean()


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
    mean: BatchMean = MEAN,
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
      mean: over which images.

    Returns:
      Mean over the batch, in nats.
    """
    logits = scores - class_bias(seen, bias) + jnp.where(seen, seen_margin, 0.0)
    true_class = jax.nn.one_hot(labels, scores.shape[-1], dtype=scores.dtype)
    logits = logits - margin * true_class
    return -mean((jax.nn.log_softmax(logits) * true_class).sum(-1))


def self_calibration(scores: jax.Array, seen: jax.Array, mean: BatchMean = MEAN) -> jax.Array:
    """`-log(mean_b Σ_{unseen k} softmax(s)_k)`: keeps some mass on the unseen classes.

    Args:
      scores: `[b, K]`, d included.
      seen: `[K]` bool, at least one False.
    """
    log_probabilities = jax.nn.log_softmax(scores)
    log_mass = jax.nn.logsumexp(log_probabilities, axis=-1, where=~seen)
    return -mean.log_mean_exp(log_mass)


def jensen_shannon(x: jax.Array, y: jax.Array, mean: BatchMean = MEAN) -> jax.Array:
    """Jensen-Shannon divergence of `softmax(x)` and `softmax(y)`, `[b, n]` each: mean over rows."""
    log_p, log_q = jax.nn.log_softmax(x), jax.nn.log_softmax(y)
    log_mean = jnp.logaddexp(log_p, log_q) - jnp.log(2.0)
    divergence = jnp.exp(log_p) * (log_p - log_mean) + jnp.exp(log_q) * (log_q - log_mean)
    return 0.5 * mean(divergence.sum(-1))


def agreement(x: jax.Array, y: jax.Array, mean: BatchMean = MEAN) -> jax.Array:
    """The published D: `(1/b) Σ_ij |x-y|³_ij / ‖x_i-y_i‖₂ + JSD`, for `[b, n]` scores.

    1e-9 stands under the square root, as in the published SUN and AWA2 models, so that value and
    gradient are finite where two rows are equal (the published CUB model gives NaN there).
    """
    difference = jnp.abs(x - y)
    norm = jnp.sqrt(jnp.square(difference).sum(-1, keepdims=True) + 1e-9)
    return mean((difference**3 / norm).sum(-1)) + jensen_shannon(x, y, mean)


def kl_divergence(
    teacher: jax.Array, student: jax.Array, temperature: float, mean: BatchMean = MEAN
) -> jax.Array:
    """`KL(softmax(teacher/T) ‖ softmax(student/T))`, `[b, n]` scores: mean over rows, nats."""
    log_p = jax.nn.log_softmax(teacher / temperature)
    log_q = jax.nn.log_softmax(student / temperature)
    return mean((jnp.exp(log_p) * (log_p - log_q)).sum(-1))


def bidirectional_kl(
    x: jax.Array,
    y: jax.Array,
    *,
    temperature: float,
    stop_gradient: bool,
    mean: BatchMean = MEAN,
) -> jax.Array:
    """`T² · [KL(p_x ‖ p_y) + KL(p_y ‖ p_x)]`, each side teaching the other.

    T² keeps the gradient's size when the temperature changes (Hinton et al., arXiv 1503.02531).

    Args:
      x, y: `[b, n]` scores.
      temperature: T.
      stop_gradient: hold the teacher side (the first argument) of each divergence fixed.
      mean: over which images.
    """
    hold = jax.lax.stop_gradient if stop_gradient else lambda z: z
    both = kl_divergence(hold(x), y, temperature, mean)
    both += kl_divergence(hold(y), x, temperature, mean)
    return temperature**2 * both
