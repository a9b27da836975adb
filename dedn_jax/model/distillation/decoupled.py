"""Bidirectional KL, its target and its non-target part with weights of their own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dedn_jax.model.distillation.peers import Peers, hold


def decoupled(
    peers: Peers, *, temperature: float, target_weight: float, other_weight: float
) -> Float[Array, ""]:
    """`T² · [α · KL(b_t ‖ b_s) + β · KL(p̂_t ‖ p̂_s)]`, summed over both directions.

    `b = [p_y, 1 - p_y]` is about the true class y against the rest, `p̂` about the other classes
    among themselves. The teacher has no gradient. All in log space: finite for any finite scores.

    Source: decoupled knowledge distillation, arXiv 2203.08679.

    Args:
      peers: both experts.
      temperature: T.
      target_weight: α.
      other_weight: β.

    Returns:
      Mean over the images, in nats.
    """
    coarse, fine = peers.class_scores()
    true_class = jax.nn.one_hot(peers.labels, coarse.shape[-1], dtype=bool)

    def direction(teacher: Float[Array, "b K"], student: Float[Array, "b K"]) -> Array:
        (log_p, log_p_rest, log_p_others), (log_q, log_q_rest, log_q_others) = (
            _parts(s / temperature, true_class) for s in (hold(teacher), student)
        )
        target = jnp.exp(log_p) * (log_p - log_q)
        target += jnp.exp(log_p_rest) * (log_p_rest - log_q_rest)
        others = (jnp.exp(log_p_others) * (log_p_others - log_q_others)).sum(-1, where=~true_class)
        return target_weight * target + other_weight * others

    return temperature**2 * peers.mean(direction(coarse, fine) + direction(fine, coarse))


def _parts(
    scores: Float[Array, "b K"], true_class: Bool[Array, "b K"]
) -> tuple[Float[Array, " b"], Float[Array, " b"], Float[Array, "b K"]]:
    """Log-probabilities of the true class, of the rest, and of each other class among the rest.

    The last is 0 at the true class.
    """
    total = jax.nn.logsumexp(scores, axis=-1)
    rest = jax.nn.logsumexp(scores, axis=-1, where=~true_class)
    target = jnp.where(true_class, scores, 0.0).sum(-1)
    others = jnp.where(true_class, 0.0, scores - rest[:, None])
    return target - total, rest - total, others
