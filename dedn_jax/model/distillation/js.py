"""Jensen-Shannon divergence: bounded, and symmetric by itself."""

from __future__ import annotations

from jaxtyping import Array, Float

from dedn_jax.model import losses
from dedn_jax.model.distillation.peers import Peers


def js(peers: Peers, *, temperature: float) -> Float[Array, ""]:
    """`T² · JSD(softmax(s_coarse/T), softmax(s_fine/T))`, mean over the images, in nats.

    Source: Lin, "Divergence measures based on the Shannon entropy", 1991; one of the two parts of
    the published term.

    Args:
      peers: both experts.
      temperature: T.
    """
    coarse, fine = peers.class_scores()
    return temperature**2 * losses.jensen_shannon(
        coarse / temperature, fine / temperature, peers.mean
    )
