"""What an explanation of a picture holds, and how it is made of a model's scores and attention."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from dedn_jax.errors import InputError, check_type
from dedn_jax.inference.candidates import Candidates
from dedn_jax.inference.explain.decomposition import BRANCHES, EXPERTS, Decomposition, decompose
from dedn_jax.inference.explain.look import Look
from dedn_jax.training.prediction import Mixing

_DIGITS = 6  # of attention in JSON


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Why the model gives a picture a class.

    The axis `experts` is coarse, fine; `branches` is region, channel; attributes are in the data
    set's order.

    Attributes:
      picture: as the model saw it.
      class_names, seen: of the candidates.
      scores: of the candidates, gamma added to those of unseen classes.
      attribute_names: of the data set.
      mixing: how attribute scores became class scores.
      explained: position of the class that is explained.
      against: position of the class that it is compared with; None where it is the only one.
      score: of the explained class, taken apart.
      difference: from the score of the class that it is compared with.
      attributes: attribute scores.
      region_attention: where each attribute looks; every map sums to 1, less what a class token
        is given.
      channel_attention: which channels each attribute attends to; every row sums to 1.
    """

    picture: UInt8[np.ndarray, "crop crop 3"]
    class_names: tuple[str, ...]
    seen: Bool[np.ndarray, " classes"]
    scores: Float32[np.ndarray, " classes"]
    attribute_names: tuple[str, ...]
    mixing: Mixing
    explained: int
    against: int | None
    score: Decomposition
    difference: Decomposition | None
    attributes: Float32[np.ndarray, "experts branches attributes"]
    region_attention: Float32[np.ndarray, "experts attributes rows columns"]
    channel_attention: Float32[np.ndarray, "experts attributes channels"]

    def __repr__(self) -> str:
        against = f", compared with {self.against_name!r}" if self.against_name else ""
        score = self.scores[self.explained]
        return (
            f"<Explanation of {self.class_name!r}{against}: score {score:.3f}, "
            f"{len(self.attribute_names)} attributes>"
        )

    @property
    def class_name(self) -> str:
        """Of the class that is explained."""
        return self.class_names[self.explained]

    @property
    def against_name(self) -> str | None:
        """Of the class that it is compared with."""
        return None if self.against is None else self.class_names[self.against]

    def ranked(self) -> list[int]:
        """Positions of the candidates, best score first."""
        return np.argsort(-self.scores, kind="stable").tolist()

    def to_json(self) -> dict[str, Any]:
        """Every number but the picture's; attention to six significant digits."""
        grids = self.region_attention
        return {
            "explained": self.class_name,
            "against": self.against_name,
            "scores": [
                {"class": self.class_names[k], "seen": bool(self.seen[k]), "score": float(s)}
                for k in self.ranked()
                for s in (self.scores[k],)
            ],
            "mixing": self.mixing.to_json(),
            "score": self._decomposition(self.score),
            "difference": self.difference and self._decomposition(self.difference),
            "attribute_scores": {
                f"{expert}_{branch}": self.attributes[e, b].tolist()
                for e, expert in enumerate(EXPERTS)
                for b, branch in enumerate(BRANCHES)
            },
            "grid": list(grids.shape[2:]),
            "region_attention": {
                expert: [_rounded(grids[e, a].ravel()) for a in range(grids.shape[1])]
                for e, expert in enumerate(EXPERTS)
            },
        }

    def _decomposition(self, parts: Decomposition) -> dict[str, Any]:
        channels = parts.channels(self.channel_attention)
        shares = {expert: _rounded(channels[e]) for e, expert in enumerate(EXPERTS)}
        return parts.to_json(self.attribute_names) | {"channels": shares}


def explain(
    looked: Look,
    candidates: Candidates,
    mixing: Mixing,
    *,
    explained: str | None = None,
    against: str | None = None,
) -> Explanation:
    """Explains the class of a picture.

    Args:
      looked: the picture, looked at by the run's model.
      candidates: the classes to choose among.
      mixing: how attribute scores become class scores.
      explained: name of the class to explain; None: the one with the best score.
      against: name of the class to compare it with; None: the best of the others.

    Raises:
      InputError: a name is not one of the candidates'.
    """
    chosen, other = positions(candidates, explained, against)
    scores = looked.scores(candidates).mixed(mixing)[0]
    ranking = np.argsort(-scores, kind="stable").tolist()
    if chosen is None:
        chosen = next(k for k in ranking if k != other)
    if other is None:
        other = next((k for k in ranking if k != chosen), None)

    def parts(k: int) -> Decomposition:
        embedding = candidates.normalized[k]
        return decompose(looked.attributes, embedding, seen=bool(candidates.seen[k]), mixing=mixing)

    score = parts(chosen)
    return Explanation(
        picture=looked.picture,
        class_names=candidates.names,
        seen=candidates.seen,
        scores=scores,
        attribute_names=candidates.attribute_names,
        mixing=mixing,
        explained=chosen,
        against=other,
        score=score,
        difference=None if other is None else score - parts(other),
        attributes=looked.attributes,
        region_attention=looked.region_attention,
        channel_attention=looked.channel_attention,
    )


def positions(
    candidates: Candidates, explained: str | None, against: str | None
) -> tuple[int | None, int | None]:
    """The positions of the class to explain and of the one to compare it with.

    Raises:
      InputError: a name is no text, no candidate has it, or there is none to compare with but
        itself.
    """
    chosen = None if explained is None else _position(candidates, explained)
    other = None if against is None else _position(candidates, against)
    if other is not None and (chosen == other or len(candidates.names) == 1):
        raise InputError(f"class {against!r} cannot be compared with itself; name another one")
    return chosen, other


def _position(candidates: Candidates, name: str) -> int:
    expected = f"the name of a candidate, such as {candidates.names[0]!r}"
    check_type(f"class {name!r}", name, str, expected)
    if name not in candidates.names:
        close = difflib.get_close_matches(name, candidates.names, 3)
        raise InputError(
            f"class {name!r}: none of the {len(candidates.names)} candidates has this name; "
            + (f"did you mean {' or '.join(map(repr, close))}?" if close else "see to its spelling")
        )
    return candidates.names.index(name)


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{v:.{_DIGITS}g}") for v in values]
