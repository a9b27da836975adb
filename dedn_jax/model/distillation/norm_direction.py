"""Attribute scores in the direction of the peer's class mean, at least as long as the peer's."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from dedn_jax.model.distillation.peers import Peers, hold


def norm_direction(peers: Peers) -> Float[Array, ""]:
    """`1 - p_s · e_y / max(‖p_s‖, ‖p_t‖)`, mean over the images, summed over both students.

    e_y is the direction of the mean of the teacher's attribute scores over the images of class y in
    the batch. The quotient is 1 where the student points that way and is at least as long as the
    teacher: it is not 0 where the experts are equal, but where each is at its class mean. The
    teacher has no gradient.

    Source: norm and direction, arXiv 2305.17007, whose class means are a trained teacher's over the
    training set; peers that train together have none, so those of the batch stand in.
    """
    mean = peers.mean
    labels = mean.gather(peers.labels)
    same = (peers.labels[:, None] == labels[None]).astype(jnp.float32)
    if mean.weights is not None:
        same = same * mean.gather(mean.weights)[None]
    count = jnp.maximum(same.sum(-1, keepdims=True), 1.0)
    coarse, fine = peers.attribute_scores()
    rows = jnp.zeros(len(peers.labels))
    for student, teacher in ((coarse, hold(fine)), (fine, hold(coarse))):
        center = same @ mean.gather(teacher) / count
        longest = jnp.maximum(_norm(student), _norm(teacher))
        rows += 1.0 - (student * center).sum(-1) / (_norm(center) * longest)
    return mean(rows)


def _norm(x: Float[Array, "b A"]) -> Float[Array, " b"]:
    # Under the root, so that the gradient is finite where scores are 0.
    return jnp.sqrt(jnp.square(x).sum(-1) + 1e-12)
