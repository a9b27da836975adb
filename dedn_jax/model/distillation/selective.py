"""For each image the more reliable expert teaches and the other learns."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from dedn_jax.model.distillation.divergence import kl_rows, true_class_loss
from dedn_jax.model.distillation.peers import Peers, hold


def selective(peers: Peers, *, temperature: float, by_group: bool) -> Float[Array, ""]:
    """`T² · KL(p_teacher ‖ p_student)`, the teacher being the expert that is better on the image.

    Better is the one with the smaller `-log softmax(s)` of the true class, scores without d. The
    teacher has no gradient. With `by_group` teacher and student are chosen, and compared, for each
    attribute group by what the group alone says of the classes; the mean is over the groups too.

    Source: bidirectional selective distillation, arXiv 2307.12574, which chooses for regions and
    pixels of a segmentation what is chosen for images and attribute groups here.

    Args:
      peers: both experts.
      temperature: T.
      by_group: choose for each attribute group.

    Returns:
      In nats.
    """
    coarse, fine = peers.group_scores() if by_group else peers.class_scores(bias=False)
    coarse_teaches = hold(
        true_class_loss(coarse, peers.labels) < true_class_loss(fine, peers.labels)
    )
    rows = jnp.where(
        coarse_teaches,
        kl_rows(hold(coarse), fine, temperature),
        kl_rows(hold(fine), coarse, temperature),
    )
    return temperature**2 * peers.mean(rows.mean(0) if by_group else rows)
