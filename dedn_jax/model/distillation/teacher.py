"""What an expert learns from a trained one."""

from __future__ import annotations

from jaxtyping import Array, Float

from dedn_jax.model.distillation.divergence import kl_rows
from dedn_jax.model.distillation.peers import hold
from dedn_jax.model.losses import MEAN, BatchMean


def teacher_kl(
    teacher: Float[Array, "b K"],
    student: Float[Array, "b K"],
    temperature: float,
    mean: BatchMean = MEAN,
) -> Float[Array, ""]:
    """`T² · KL(softmax(teacher/T) ‖ softmax(student/T))`; the teacher has no gradient.

    Source: Hinton et al., arXiv 1503.02531.

    Args:
      teacher: class scores of the trained expert.
      student: of the one that learns.
      temperature: T.
      mean: the mean over images.

    Returns:
      Mean over the images, in nats.
    """
    return temperature**2 * mean(kl_rows(hold(teacher), student, temperature))
