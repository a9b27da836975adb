"""The DEDN losses, each a pure function; all in float32 and log space.

Shapes: b images, K classes, A attributes. `training/objective.py` puts the losses together and says
how to add one; those by which the experts teach each other are in `distillation/`.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped


@dataclasses.dataclass(frozen=True)
class BatchMean:
    """The mean over the images of a batch, sharded over devices or not.

    Attributes:
      weights: `[b]` float32: 1 for an image, 0 for padding; None where there is no padding.
      axis: name of the mapped axis along which the batch is sharded, if it is. Each device then
        gets its term of the mean: their sum over the axis is the mean.
      scale: `[b]` float32: what the value of each image is multiplied by; None: 1.
      images: number of images on all devices, where it is known; else padded batches on several
        devices are counted by an all-reduce.
    """

    weights: Float[Array, " b"] | None = None
    axis: str | None = None
    scale: Float[Array, " b"] | None = None
    images: int | None = None

    def __call__(self, values: Float[Array, " b"]) -> Float[Array, ""]:
        """The mean, or this device's term of it."""
        if self.scale is not None:
            values = values * self.scale
        if self.weights is None and self.axis is None:
            return values.mean()
        return self.sum(values) / self.count(values)

    def sum(self, values: Float[Array, " b"]) -> Float[Array, ""]:
        """The sum over this device's images."""
        return (values if self.weights is None else values * self.weights).sum()

    def count(self, values: Float[Array, " b"]) -> Float[Array, ""]:
        """Number of images on all devices."""
        if self.weights is None:
            # psum of a Python number is a constant, not an all-reduce.
            devices = 1 if self.axis is None else jax.lax.psum(1, self.axis)
            return jnp.float32(values.shape[0] * devices)
        if self.images is not None:
            return jnp.float32(self.images)
        n = self.weights.sum()
        return n if self.axis is None else jax.lax.psum(n, self.axis)

    def gather(self, values: Shaped[Array, "b ..."]) -> Shaped[Array, "all_images ..."]:
        """The rows of all devices, on every device."""
        if self.axis is None:
            return values
        return jax.lax.all_gather(values, self.axis, tiled=True)

    def share(self, value: Float[Array, ""]) -> Float[Array, ""]:
        """This device's term of a value that every device computed from gathered rows."""
        return value if self.axis is None else value / jax.lax.psum(1, self.axis)

    def log_mean_exp(self, values: Float[Array, " b"]) -> Float[Array, ""]:
        """`log(mean_b exp(values))`, or this device's term of it."""
        log_count = jnp.log(self.count(values))
        if self.axis is None:
            if self.weights is not None:
                values = jnp.where(self.weights > 0, values, -jnp.inf)
            return jax.nn.logsumexp(values) - log_count
        # No maximum is subtracted: these are log-probabilities, whose exp cannot overflow.
        local = self.sum(jnp.exp(values))
        constant = jax.lax.stop_gradient(local)
        total = jax.lax.psum(constant, self.axis)
        # Zero-valued term that carries the local gradient; differentiating the psum instead would
        # cost a second all-reduce.
        gradient_carrier = (local - constant) / total
        return gradient_carrier + (jnp.log(total) - log_count) / jax.lax.psum(1.0, self.axis)


MEAN = BatchMean()


def class_bias(seen: Bool[Array, " K"], bias: float) -> Float[Array, " K"]:
    """d: `+bias` on unseen and `-bias` on seen classes."""
    return jnp.where(seen, -bias, bias).astype(jnp.float32)


def class_scores(
    attribute_scores: Float[Array, "b A"],
    class_embeddings: Float[Array, "K A"],
    seen: Bool[Array, " K"],
    bias: float,
) -> Float[Array, "b K"]:
    """`s = p·Zᵀ + d`.

    Args:
      attribute_scores: `[b, A]`.
      class_embeddings: `[K, A]`, rows L2-normalised, attributes in the same order.
      seen: `[K]` bool.
      bias: magnitude of d.

    Returns:
      `[b, K]` float32.
    """
    scores = jnp.matmul(attribute_scores, class_embeddings.T, preferred_element_type=jnp.float32)
    return scores + class_bias(seen, bias)


def margin_cross_entropy(
    scores: Float[Array, "b K"],
    labels: Int[Array, " b"],
    seen: Bool[Array, " K"],
    *,
    bias: float,
    margin: float,
    seen_margin: float,
    mean: BatchMean = MEAN,
) -> Float[Array, ""]:
    """Margin-aware cross-entropy over all classes; plain cross-entropy when both margins are 0.

    The logits are the scores without d, plus `seen_margin` on seen classes, minus `margin` on the
    true class.

    Args:
      scores: `[b, K]`, d included.
      labels: `[b]` int class ids.
      seen: `[K]` bool.
      bias: magnitude of d.
      margin: t.
      seen_margin: 1 in the published recipes.
      mean: the mean over images.

    Returns:
      Mean over the batch, in nats.
    """
    logits = scores - class_bias(seen, bias) + jnp.where(seen, seen_margin, 0.0)
    true_class = jax.nn.one_hot(labels, scores.shape[-1], dtype=scores.dtype)
    logits = logits - margin * true_class
    return -mean((jax.nn.log_softmax(logits) * true_class).sum(-1))


def self_calibration(
    scores: Float[Array, "b K"], seen: Bool[Array, " K"], mean: BatchMean = MEAN
) -> Float[Array, ""]:
    """`-log(mean_b Σ_{unseen k} softmax(s)_k)`: keeps probability mass on the unseen classes.

    Args:
      scores: `[b, K]`, d included.
      seen: `[K]` bool, at least one False.
      mean: the mean over images.
    """
    log_probabilities = jax.nn.log_softmax(scores)
    log_mass = jax.nn.logsumexp(log_probabilities, axis=-1, where=~seen)
    return -mean.log_mean_exp(log_mass)


def jensen_shannon(
    x: Float[Array, "b n"], y: Float[Array, "b n"], mean: BatchMean = MEAN
) -> Float[Array, ""]:
    """Jensen-Shannon divergence of `softmax(x)` and `softmax(y)`, mean over rows, in nats.

    >>> x, y = jnp.array([[1e4, 0.0]]), jnp.array([[0.0, 1e4]])
    >>> f"{jensen_shannon(x, y):.4f}"  # log 2, the most there is
    '0.6931'
    """
    log_p, log_q = jax.nn.log_softmax(x), jax.nn.log_softmax(y)
    log_mean = jnp.logaddexp(log_p, log_q) - jnp.log(2.0)
    divergence = jnp.exp(log_p) * (log_p - log_mean) + jnp.exp(log_q) * (log_q - log_mean)
    return 0.5 * mean(divergence.sum(-1))


def agreement(
    x: Float[Array, "b n"], y: Float[Array, "b n"], mean: BatchMean = MEAN
) -> Float[Array, ""]:
    """The published D between two sets of scores: `(1/b) Σ_ij |x-y|³_ij / ‖x_i-y_i‖₂ + JSD`.

    1e-9 is added under the square root, as in the published SUN and AWA2 models, so that value and
    gradient are finite where two rows are equal (the published CUB model gives NaN there).
    """
    difference = jnp.abs(x - y)
    norm = jnp.sqrt(jnp.square(difference).sum(-1, keepdims=True) + 1e-9)
    return mean((difference**3 / norm).sum(-1)) + jensen_shannon(x, y, mean)
