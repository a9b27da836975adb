"""Bidirectional KL: each expert teaches the other."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from dedn_jax.model import losses
from dedn_jax.model.distillation.divergence import kl_rows
from dedn_jax.model.distillation.peers import Peers, hold


def bidirectional_kl(
    coarse: Float[Array, "b n"],
    fine: Float[Array, "b n"],
    *,
    temperature: float = 1.0,
    scale: bool = True,
    stop_gradient: bool = False,
    coarse_weight: float = 1.0,
    fine_weight: float = 1.0,
    mean: losses.BatchMean = losses.MEAN,
) -> Float[Array, ""]:
    """`T² · [w_c · KL(p_coarse ‖ p_fine) + w_f · KL(p_fine ‖ p_coarse)]`, `p = softmax(s/T)`.

    Source: Hinton et al., arXiv 1503.02531, in both directions as in deep mutual learning, arXiv
    1706.00384.

    Args:
      coarse, fine: `[b, n]` scores.
      temperature: T.
      scale: multiply by T², which keeps the gradient's scale when T changes.
      stop_gradient: no gradient flows to the teacher, the first argument of each divergence.
      coarse_weight: w_c, of the divergence in which the coarse expert teaches.
      fine_weight: w_f, of that in which the fine expert teaches.
      mean: the mean over images.

    Returns:
      Mean over rows, in nats.
    """
    total = jnp.float32(0)
    for weight, teacher, student in ((coarse_weight, coarse, fine), (fine_weight, fine, coarse)):
        if weight:
            rows = kl_rows(hold(teacher, stop_gradient), student, temperature)
            total += weight * mean(rows)
    return temperature**2 * total if scale else total


def kl(peers: Peers, *, bias: bool, **options: Any) -> Float[Array, ""]:
    """`bidirectional_kl` of the experts' class scores.

    Args:
      peers: both experts.
      bias: keep d inside the softmax.
      options: of `bidirectional_kl`.

    Returns:
      In nats.
    """
    coarse, fine = peers.class_scores(bias)
    return bidirectional_kl(coarse, fine, mean=peers.mean, **options)
