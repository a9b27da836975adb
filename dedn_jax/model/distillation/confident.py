"""Each expert agrees with itself when regions are dropped, on images that it gets right."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from dedn_jax.model.distillation.divergence import kl_rows
from dedn_jax.model.distillation.peers import Peers, hold
from dedn_jax.model.experts import PerExpert


def confident(peers: Peers, *, temperature: float, drop: float) -> Float[Array, ""]:
    """`T² · KL(p ‖ p_dropped)` over the images that the whole map gets right, for both experts.

    p is what an expert says of the whole feature map and has no gradient; p_dropped what it says of
    the map with a share `drop` of its regions set to 0, drawn anew for each image and step. Right
    is an image whose true class has the largest score, without d. Mean over all images of the
    batch.

    Source: consistency self-distillation with confident instances, MDCS, arXiv 2308.09922, whose
    two views are augmented pictures; feature maps have dropped regions instead.

    Args:
      peers: both experts, `dropped` included.
      temperature: T.
      drop: share of regions; used where the dropped view is made.

    Returns:
      In nats.
    """
    assert peers.dropped is not None
    whole = peers.class_scores(bias=False)
    dropped = peers.scores_of(PerExpert(*(p.for_training() for p in peers.dropped)))
    rows = jnp.zeros(len(peers.labels))
    for teacher, student in zip(whole, dropped, strict=True):
        right = teacher.argmax(-1) == peers.labels
        rows += jnp.where(right, kl_rows(hold(teacher), student, temperature), 0.0)
    return temperature**2 * peers.mean(rows)
