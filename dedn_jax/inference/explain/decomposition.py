"""A class score as the sum of what every attribute adds to it, in every branch of every expert."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int

from dedn_jax.model.experts import PerExpert
from dedn_jax.training.prediction import Mixing
from dedn_jax.training.scores import Branches

EXPERTS = PerExpert._fields  # the first axis of `parts`
BRANCHES = Branches._fields  # the second
REGION, CHANNEL = range(len(BRANCHES))


@dataclasses.dataclass(frozen=True)
class Decomposition:
    """The parts of a class score, or of the difference of two.

    Attributes:
      parts: what each attribute adds; experts are coarse and fine, branches region and channel,
        attributes in the data set's order.
      gamma: what the class is given for being unseen; of a difference, the difference.
    """

    parts: Float64[np.ndarray, "experts branches attributes"]
    gamma: float

    @property
    def total(self) -> float:
        """The score: the sum of all parts and gamma."""
        return float(self.parts.sum()) + self.gamma

    @property
    def by_attribute(self) -> Float64[np.ndarray, " attributes"]:
        """What each attribute adds, over both branches of both experts."""
        return self.parts.sum((0, 1))

    def leading(self, count: int) -> Int[np.ndarray, " leading"]:
        """The attributes with the largest parts, of either sign, largest first."""
        return np.argsort(-np.abs(self.by_attribute), kind="stable")[:count]

    def of_expert(self, expert: int) -> Decomposition:
        """The part of one expert, without gamma."""
        only = np.zeros_like(self.parts)
        only[expert] = self.parts[expert]
        return Decomposition(only, 0.0)

    def channels(
        self, attention: Float[np.ndarray, "experts attributes channels"]
    ) -> Float64[np.ndarray, "experts channels"]:
        """The channel branches' part of the total, shared out by channel attention.

        Each attribute's part goes to the channels as it attends to them, so that the channels of an
        expert add up to its channel branch.
        """
        return np.einsum("ea,eac->ec", self.parts[:, CHANNEL], attention.astype(np.float64))

    def __sub__(self, other: Decomposition) -> Decomposition:
        return Decomposition(self.parts - other.parts, self.gamma - other.gamma)

    def to_json(self, attribute_names: tuple[str, ...]) -> dict[str, Any]:
        """The total, gamma, and every attribute's parts by expert and branch."""
        return {
            "total": self.total,
            "gamma": self.gamma,
            "attributes": [
                {"name": name, "part": float(sum_), **_by_branch(self.parts[:, :, a])}
                for a, (name, sum_) in enumerate(
                    zip(attribute_names, self.by_attribute, strict=True)
                )
            ],
        }


def decompose(
    attributes: Float[np.ndarray, "experts branches attributes"],
    embedding: Float[np.ndarray, " attributes"],
    *,
    seen: bool,
    mixing: Mixing,
) -> Decomposition:
    """The parts of a class score of one image: `w_e · m_b · p_eba · Z_a`.

    w is an expert's share of a class score, m a branch's share of an attribute score, p the
    attribute score. With gamma, where the class is unseen, the parts add up to the score of
    `Scores.mixed`.

    Args:
      attributes: p, the attribute scores of the image; axes as those of `Decomposition.parts`.
      embedding: the class's row of Z, L2-normalised.
      seen: whether it is a seen class.
      mixing: w, m and gamma.
    """
    experts = np.array([mixing.expert_mix, 1 - mixing.expert_mix])
    branches = np.array([mixing.region_mix, 1 - mixing.region_mix])
    weights = experts[:, None, None] * branches[:, None]
    parts = weights * attributes.astype(np.float64) * embedding.astype(np.float64)
    return Decomposition(parts, 0.0 if seen else mixing.gamma)


def _by_branch(parts: Float64[np.ndarray, "experts branches"]) -> dict[str, float]:
    return {
        f"{expert}_{branch}": float(parts[e, b])
        for e, expert in enumerate(EXPERTS)
        for b, branch in enumerate(BRANCHES)
    }
