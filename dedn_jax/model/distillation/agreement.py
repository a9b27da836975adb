"""The published term between the experts."""

from __future__ import annotations

from jaxtyping import Array, Float

from dedn_jax.model import losses
from dedn_jax.model.distillation.peers import Peers


def agreement(peers: Peers) -> Float[Array, ""]:
    """`D(s_coarse, s_fine)`: see `losses.agreement`.

    Source: the DEDN paper, arXiv 2404.16348, and the published code.
    """
    coarse, fine = peers.class_scores()
    return losses.agreement(coarse, fine, peers.mean)
