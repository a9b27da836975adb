"""Divergences of each image's class scores, which the objectives weigh and average."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def kl_rows(
    teacher: Float[Array, "*rows n"], student: Float[Array, "*rows n"], temperature: float
) -> Float[Array, "*rows"]:
    """`KL(softmax(teacher/T) ‖ softmax(student/T))` of every row, in nats."""
    log_p = jax.nn.log_softmax(teacher / temperature)
    log_q = jax.nn.log_softmax(student / temperature)
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)


def entropy_rows(scores: Float[Array, "*rows n"], temperature: float) -> Float[Array, "*rows"]:
    """Entropy of `softmax(scores/T)` of every row, in nats."""
    log_p = jax.nn.log_softmax(scores / temperature)
    return -(jnp.exp(log_p) * log_p).sum(-1)


def true_class_loss(
    scores: Float[Array, "*rows b n"], labels: Int[Array, " b"]
) -> Float[Array, "*rows b"]:
    """`-log softmax(scores)` of the true class of every row, in nats."""
    log_p = jax.nn.log_softmax(scores)
    true_class = jax.nn.one_hot(labels, scores.shape[-1], dtype=scores.dtype)
    return -(log_p * true_class).sum(-1)
