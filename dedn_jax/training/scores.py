"""Scores of images: those of every class and attribute, by both branches of both experts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int

from dedn_jax.files import atomic_file
from dedn_jax.model.experts import PerExpert
from dedn_jax.training.prediction import BranchScores, Choices, Mixing


class Branches(NamedTuple):
    """Scores of both branches of an expert, on the host."""

    region: Float32[np.ndarray, "images scored"]
    channel: Float32[np.ndarray, "images scored"]


@dataclasses.dataclass(frozen=True)
class CandidateScores:
    """What a model says of images, without any bias between seen and unseen classes.

    Attributes:
      seen: whether each candidate class is a seen class.
      attributes: `[images, attributes]` for each expert and branch, in the data set's order.
      classes: `[images, classes]` for each expert and branch.
    """

    seen: Bool[np.ndarray, " classes"]
    attributes: PerExpert[Branches]
    classes: PerExpert[Branches]

    def choices(
        self, mixing: Mixing, experts: PerExpert[np.ndarray] | None = None
    ) -> Choices[np.ndarray]:
        """What the experts' mixture chooses, `[images]` each; classes by their positions.

        Args:
          mixing: how they are mixed.
          experts: `by_expert(mixing.region_mix)`, where it is at hand.
        """
        experts = self.by_expert(mixing.region_mix) if experts is None else experts
        mixed = _fused(experts, mixing.expert_mix)
        seen, unseen = np.flatnonzero(self.seen), np.flatnonzero(~self.seen)
        best_seen, among_seen = _best(mixed, seen)
        best_unseen, among_unseen = _best(mixed, unseen)
        gap = best_seen - best_unseen
        among_all = np.where(gap < mixing.gamma, among_unseen, among_seen)
        return Choices(among_all, among_seen, among_unseen, gap)

    def mixed(self, mixing: Mixing) -> Float32[np.ndarray, "images classes"]:
        """Class scores of both experts' mixture, gamma added to the unseen classes."""
        fused = _fused(self.by_expert(mixing.region_mix), mixing.expert_mix)
        return fused + np.where(self.seen, 0, mixing.gamma).astype(np.float32)

    def by_expert(self, region_mix: float) -> PerExpert[Float32[np.ndarray, "images classes"]]:
        """Class scores of each expert, its branches mixed, without any bias."""
        return PerExpert(*(_branches(expert, region_mix) for expert in self.classes))

    def attribute_scores(self, region_mix: float) -> PerExpert[Float32[np.ndarray, "images attrs"]]:
        """Attribute scores of each expert, its branches mixed."""
        return PerExpert(*(_branches(expert, region_mix) for expert in self.attributes))


@dataclasses.dataclass(frozen=True)
class Scores(CandidateScores):
    """Those of images of a data set.

    Attributes:
      images: the data set's image indices.
      labels: positions in `class_ids` of the true classes.
      class_ids: the data set's ids of the candidate classes.
    """

    images: Int[np.ndarray, " images"]
    labels: Int[np.ndarray, " images"]
    class_ids: Int[np.ndarray, " classes"]

    @property
    def unseen(self) -> Bool[np.ndarray, " images"]:
        """Whether each image is of an unseen class."""
        return ~self.seen[self.labels]

    def save(self, path: Path, class_names: Sequence[str], attribute_names: Sequence[str]) -> None:
        """Writes an `.npz` with every array, and the names of all the data set's classes.

        Scores are `classes_coarse_region`, `attributes_fine_channel` and so on.
        """
        arrays = {
            f"{kind}_{expert}_{branch}": array
            for kind, experts in (("attributes", self.attributes), ("classes", self.classes))
            for expert, branches in experts._asdict().items()
            for branch, array in branches._asdict().items()
        }
        with atomic_file(path) as file:
            np.savez(
                file,
                images=self.images,
                labels=self.labels,
                class_ids=self.class_ids,
                seen=self.seen,
                class_names=np.asarray(class_names, str),
                attribute_names=np.asarray(attribute_names, str),
                **arrays,
            )


def unstack(
    found: BranchScores[np.ndarray], order: Int[np.ndarray, " attributes"]
) -> tuple[PerExpert[Branches], PerExpert[Branches]]:
    """Attribute and class scores by expert and branch; attributes in the data set's order.

    Args:
      found: host arrays.
      order: attribute indices in group order.
    """
    attributes = np.empty_like(found.attributes)
    attributes[..., order] = found.attributes
    both = [
        PerExpert(Branches(x[:, 0], x[:, 1]), Branches(x[:, 2], x[:, 3]))
        for x in (attributes, np.asarray(found.classes))
    ]
    return both[0], both[1]


def _branches(scores: Branches, region_mix: float) -> Float32[np.ndarray, "images scored"]:
    m = np.float32(region_mix)
    return m * scores.region + (np.float32(1) - m) * scores.channel


def _fused(
    experts: PerExpert[np.ndarray], expert_mix: float
) -> Float32[np.ndarray, "images classes"]:
    fused = np.float32(expert_mix) * experts.coarse
    fused += np.float32(1 - expert_mix) * experts.fine
    return fused


def _best(mixed: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best score among the classes `ids`, and whose it is; -inf and 0 without any."""
    if not len(ids):
        return np.full(len(mixed), -np.inf), np.zeros(len(mixed), np.int64)
    among = mixed[:, ids]
    place = among.argmax(1)
    return among[np.arange(len(mixed)), place].astype(np.float64), ids[place]
