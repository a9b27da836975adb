"""Scores are matched through heads of their own, which keep the match off the cross-entropy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dedn_jax.model.distillation.peers import Peers, hold
from dedn_jax.model.experts import PerExpert


def dual_head(peers: Peers, *, temperature: float) -> Float[Array, ""]:
    """`T² · Σ_k KL(1/2 ‖ σ((z_k - s_k)/T))`, mean over the images, summed over both students.

    s are the teacher's class scores and z the student's through an auxiliary head,
    `z = p · W · Zᵀ`, both without d; the KL is between Bernoulli distributions. W is trained with
    the rest, starts as the identity, and is not used to predict. The teacher has no gradient.

    Source: dual-head knowledge distillation, arXiv 2411.08937. Its two heads split a trained
    classifier; the classifier here is Z, which is not trained, so the auxiliary head is a matrix
    before it.

    Args:
      peers: both experts, `heads` included.
      temperature: T.

    Returns:
      In nats.
    """
    assert peers.heads is not None
    scores = peers.class_scores(bias=False)
    through_heads = PerExpert(
        *(
            jnp.matmul(p, head, preferred_element_type=jnp.float32)
            for p, head in zip(peers.attribute_scores(), peers.heads, strict=True)
        )
    )
    students = peers.scores_of(through_heads)
    rows = jnp.zeros(len(peers.labels))
    for teacher, student in ((scores.fine, students.coarse), (scores.coarse, students.fine)):
        x = (student - hold(teacher)) / temperature
        # KL(1/2 ‖ σ(x)) = -[log σ(x) + log σ(-x)] / 2 - log 2
        match = -0.5 * (jax.nn.log_sigmoid(x) + jax.nn.log_sigmoid(-x)) - jnp.log(2.0)
        rows += match.sum(-1)
    return temperature**2 * peers.mean(rows)
