"""What is predicted of pictures: the best classes and the attribute scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int

from dedn_jax.errors import check_count
from dedn_jax.inference.candidates import Candidates
from dedn_jax.inference.picture_progress import printable
from dedn_jax.model.experts import PerExpert
from dedn_jax.training.prediction import Mixing
from dedn_jax.training.scores import CandidateScores

_NAME_WIDTH = 40  # longer class names move the rest of their line
STRONGEST = 5  # attributes of each expert that are shown


class Strongest(NamedTuple):
    """An attribute that speaks for the best class; fields as of `Predictions`."""

    name: str
    contribution: float
    score: float


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The best classes of pictures, best first; as text a table of them.

    Attributes:
      pictures: their names.
      class_names: of the candidates.
      seen: whether each candidate is a seen class.
      attribute_names: in the data set's order.
      classes: positions in `class_names` of the best classes.
      scores: their class scores: both experts' mixture, gamma added to unseen classes.
      probabilities: the softmax of the class scores over all candidates. As the model was trained
        with margins, it says which class is ahead by how much, not how often that is right.
      attributes: attribute scores p of each expert, its branches mixed. Scores of different
        attributes are not on one scale; those of one attribute compare pictures.
      contributions: what each attribute adds to the best class's score over the mean score of all
        candidates, `p_a (Z_ka - mean_j Z_ja)`, in each expert.
    """

    pictures: tuple[str, ...]
    class_names: tuple[str, ...]
    seen: Bool[np.ndarray, " classes"]
    attribute_names: tuple[str, ...]
    classes: Int[np.ndarray, "pictures top"]
    scores: Float32[np.ndarray, "pictures top"]
    probabilities: Float64[np.ndarray, "pictures top"]
    attributes: PerExpert[Float32[np.ndarray, "pictures attributes"]]
    contributions: PerExpert[Float32[np.ndarray, "pictures attributes"]]

    def __str__(self) -> str:
        """A picture's name, its best classes, what speaks for the first in each expert, and so on.

        A class has its probability and score, an attribute its contribution.
        """
        widths = (len(printable(self.class_names[k])) for k in self.classes.flat)
        width = min(max(widths, default=0), _NAME_WIDTH)
        lines = []
        for i, picture in enumerate(self.pictures):
            lines.append(printable(picture))
            for rank, k in enumerate(self.classes[i]):
                kind = "seen" if self.seen[k] else "unseen"
                lines.append(
                    f"{rank + 1:>4}  {printable(self.class_names[k]):<{width}}  {kind:<6}  "
                    f"{100 * self.probabilities[i, rank]:5.1f} %  {self.scores[i, rank]:9.3f}"
                )
            for expert, strongest in self.strongest(i)._asdict().items():
                found = ", ".join(f"{printable(a.name)} {a.contribution:+.2f}" for a in strongest)
                lines.append(f"      {expert:<6}  {found}")
        return "\n".join(lines)

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def names(self) -> list[str]:
        """The best class of every picture; all of them: `class_names[k] for k in classes[i]`."""
        return [self.class_names[k] for k in self.classes[:, 0]]

    def strongest(self, picture: int) -> PerExpert[list[Strongest]]:
        """The attributes of each expert that contribute most to the best class."""
        found = []
        for scores, contributions in zip(self.attributes, self.contributions, strict=True):
            best = np.argsort(-contributions[picture], kind="stable")[:STRONGEST]
            found.append(
                [
                    Strongest(
                        self.attribute_names[a],
                        float(contributions[picture, a]),
                        float(scores[picture, a]),
                    )
                    for a in best
                ]
            )
        return PerExpert(*found)

    def to_json(self) -> dict[str, Any]:
        """`{"pictures": [...]}`; for each the best classes and the strongest attributes."""
        return {"pictures": [self._picture_json(i) for i in range(len(self))]}

    def _picture_json(self, i: int) -> dict[str, Any]:
        best = zip(self.classes[i], self.scores[i], self.probabilities[i], strict=True)
        return {
            "picture": self.pictures[i],
            "classes": [
                {
                    "name": self.class_names[k],
                    "seen": bool(self.seen[k]),
                    "score": float(score),
                    "probability": float(probability),
                }
                for k, score, probability in best
            ],
            "attributes": {
                expert: [one._asdict() for one in strongest]
                for expert, strongest in self.strongest(i)._asdict().items()
            },
        }


def best_classes(
    scores: CandidateScores,
    pictures: Sequence[str],
    candidates: Candidates,
    mixing: Mixing,
    top: int,
) -> Predictions:
    """The `top` best classes of every picture; of equal scores the earlier class is better.

    Args:
      scores: of the pictures, for these candidates.
      pictures: their names.
      candidates: the classes.
      mixing: how branches and experts are mixed, and gamma.
      top: how many classes; all where there are fewer.

    Raises:
      InputError: `top` is not a whole number of at least 1.
    """
    check_count("top", top)
    mixed = scores.mixed(mixing)
    best = np.argsort(-mixed, axis=1, kind="stable")[:, :top]
    powers = np.exp(mixed.astype(np.float64) - mixed.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    attributes = scores.attribute_scores(mixing.region_mix)
    ahead = candidates.normalized[best[:, 0]] - candidates.normalized.mean(axis=0)
    return Predictions(
        tuple(pictures),
        candidates.names,
        candidates.seen,
        candidates.attribute_names,
        best,
        np.take_along_axis(mixed, best, axis=1),
        np.take_along_axis(probabilities, best, axis=1),
        attributes,
        PerExpert(*(expert * ahead for expert in attributes)),
    )


def joined(parts: Sequence[Predictions]) -> Predictions:
    """Those of several batches, for the same candidates."""

    def together(field: str) -> np.ndarray:
        return np.concatenate([getattr(part, field) for part in parts])

    def of_experts(field: str) -> PerExpert[np.ndarray]:
        experts = zip(*(getattr(part, field) for part in parts), strict=True)
        return PerExpert(*map(np.concatenate, experts))

    return dataclasses.replace(
        parts[0],
        pictures=tuple(name for part in parts for name in part.pictures),
        classes=together("classes"),
        scores=together("scores"),
        probabilities=together("probabilities"),
        attributes=of_experts("attributes"),
        contributions=of_experts("contributions"),
    )
