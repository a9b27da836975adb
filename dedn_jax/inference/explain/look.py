"""What a model makes of a picture before any class is scored: attribute scores and attention."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from dedn_jax.inference.candidates import Candidates
from dedn_jax.inference.picture_files import PictureSource
from dedn_jax.inference.scorer import PictureScorer
from dedn_jax.model.experts import PerExpert
from dedn_jax.training.scores import Branches, CandidateScores


class Look(NamedTuple):
    """One picture, looked at once; classes can then be scored and explained any number of times.

    The axis `experts` is coarse, fine; `branches` is region, channel; attributes are in the data
    set's order.

    Attributes:
      picture: as the model saw it.
      attributes: attribute scores.
      region_attention: where each attribute looks; every map sums to 1, less what a class token
        is given.
      channel_attention: which channels each attribute attends to; every row sums to 1.
    """

    picture: UInt8[np.ndarray, "crop crop 3"]
    attributes: Float32[np.ndarray, "experts branches attributes"]
    region_attention: Float32[np.ndarray, "experts attributes rows columns"]
    channel_attention: Float32[np.ndarray, "experts attributes channels"]

    def scores(self, candidates: Candidates) -> CandidateScores:
        """Scores of this one picture, for these candidates."""
        experts = [Branches(*(branch[None] for branch in expert)) for expert in self.attributes]
        return candidates.scores(PerExpert(*experts))


def look(scorer: PictureScorer, picture: PictureSource) -> Look:
    """Looks at a picture.

    Args:
      scorer: of the run.
      picture: as for `read_pixels`.

    Raises:
      InputError: the picture cannot be used.
    """
    pixels = scorer.decode(picture)
    branches, weights = scorer.attention(pixels[None])
    return Look(
        picture=pixels,
        attributes=np.stack([[branch[0] for branch in expert] for expert in branches]),
        region_attention=np.stack([expert.maps(scorer.grid)[0] for expert in weights]),
        channel_attention=np.stack([expert.channel[0] for expert in weights]),
    )
