"""Forward and reverse KL, balanced for each image by which expert is the more confident."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from dedn_jax.model.distillation.divergence import entropy_rows, kl_rows
from dedn_jax.model.distillation.peers import Peers, hold


def balanced_kl(peers: Peers, *, temperature: float, emphasis: float) -> Float[Array, ""]:
    """Each expert as the student of the other: `T² · [α_i · KL(t ‖ s) + β_i · KL(s ‖ t)]`.

    Of an image on which the student has the lower entropy, the forward divergence, which spreads
    it out, has the weight `emphasis`; of one on which it has the higher entropy, the reverse one,
    which sharpens it. The other weight is 1. The teacher has no gradient; the sum is over both
    students and the mean over the images.

    Source: BD-KD, arXiv 2212.12965, whose teacher has the reverse divergence alone; here both
    experts are students.

    Args:
      peers: both experts.
      temperature: T, of the entropies as well.
      emphasis: at least 1; at 1 this is both divergences with equal weights.

    Returns:
      In nats.
    """
    coarse, fine = peers.class_scores()
    gap = hold(entropy_rows(coarse, temperature) - entropy_rows(fine, temperature))
    rows = jnp.zeros(len(peers.labels))
    # `above`: how far the student's entropy is above the teacher's.
    for student, teacher, above in ((coarse, hold(fine), gap), (fine, hold(coarse), -gap)):
        rows += jnp.where(above < 0, emphasis, 1.0) * kl_rows(teacher, student, temperature)
        rows += jnp.where(above > 0, emphasis, 1.0) * kl_rows(student, teacher, temperature)
    return temperature**2 * peers.mean(rows)
