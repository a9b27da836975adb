"""What the page shows of a session: from what was chosen to pieces of HTML and choices."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from dedn_jax.errors import InputError
from dedn_jax.inference.explain.explanation import Explanation, explain
from dedn_jax.inference.explain.look import Look
from dedn_jax.serve import pieces
from dedn_jax.serve.designs import MEAN, Designs
from dedn_jax.serve.studio import Studio

BEST = "the best class"
SLIDERS = 8  # attributes that can be changed at a time


@dataclasses.dataclass(frozen=True)
class Session:
    """What a browser window has chosen.

    Attributes:
      picture: what the studio recalls it by; empty before the first one.
      designs: the designed classes.
      explained: name of the class that is explained; `BEST`: the best one.
      attribute: whose attention is shown; None: the leading one.
    """

    picture: str = ""
    designs: Designs = dataclasses.field(default_factory=Designs)
    explained: str = BEST
    attribute: int | None = None


class Shown(NamedTuple):
    """Pieces of the page, empty where there is nothing to show."""

    picture: str = ""
    ranking: str = ""
    why: str = ""
    attention: str = ""
    attribute: int | None = None
    verdict: str = ""
    kept: str = ""


class Attributes:
    """Attributes as the page names them: with their groups, a group after another."""

    def __init__(self, studio: Studio) -> None:
        groups, names = studio.run.groups, studio.candidates.attribute_names
        self.labels = {
            a: f"{group}: {names[a]}" if len(groups.names) > 1 else names[a]
            for group, members in zip(groups.names, groups.members, strict=True)
            for a in members
        }
        self._position = {a: i for i, a in enumerate(self.labels)}

    @property
    def choices(self) -> list[tuple[str, int]]:
        """Labels and attributes, for a list to choose from."""
        return [(label, a) for a, label in self.labels.items()]

    def sorted(self, attributes: list[int]) -> list[int]:
        """In the order of `choices`, at most as many as there are sliders."""
        return sorted(attributes, key=self._position.__getitem__)[:SLIDERS]


def show(studio: Studio, session: Session) -> Shown:
    """The pieces for a session.

    Raises:
      InputError: the picture was forgotten, or a designed class describes nothing.
    """
    designs = session.designs
    kept = pieces.kept_classes(
        list(designs.kept), designs.csv(studio.candidates) if designs.kept else ""
    )
    if not session.picture:
        return Shown(verdict=pieces.NO_PICTURE if designs.draft else "", kept=kept)
    looked = studio.recall(session.picture)
    ranking = studio.ranking(looked, designs)
    e = _explanation(studio, looked, session)
    attribute = session.attribute
    if attribute is None:
        attribute = int(e.score.leading(1)[0])
    return Shown(
        picture=pieces.shown_picture(looked.picture),
        ranking=pieces.ranking_table(ranking, designs.all),
        why=pieces.expert_tables(e),
        attention=pieces.attention(e, attribute),
        attribute=attribute,
        verdict=pieces.verdict(ranking, designs.draft.name) if designs.draft else "",
        kept=kept,
    )


def leading_attributes(studio: Studio, session: Session, count: int) -> list[int]:
    """The attributes that matter most for the draft.

    With a picture, those that add most to the draft's score or take most from it; without one,
    those in which the draft is furthest from the mean of all classes.
    """
    draft = session.designs.draft
    if draft is None:
        return []
    if session.picture:
        looked = studio.recall(session.picture)
        e = _explanation(studio, looked, dataclasses.replace(session, explained=draft.name))
        return e.score.leading(count).tolist()
    far = np.abs(draft.row - studio.candidates.embeddings.mean(axis=0))
    return np.argsort(-far, kind="stable")[:count].tolist()


def class_choices(studio: Studio, designs: Designs) -> list[str]:
    """Classes that can be explained."""
    return [BEST, *designs.all, *studio.candidates.names]


def base_choices(studio: Studio, designs: Designs) -> list[str]:
    """Classes that can be copied."""
    return [MEAN, *designs.kept, *studio.candidates.names]


class Scale(NamedTuple):
    """What sliders span, and how finely."""

    low: float
    high: float
    step: float
    digits: int

    def shown(self, value: float) -> float:
        """An attribute as a slider shows it."""
        return round(float(value), self.digits)


def scale(studio: Studio) -> Scale:
    """From 0, or the least attribute of any class, to the greatest, in at least 50 round steps."""
    rows = studio.candidates.embeddings
    low, high = min(0.0, float(rows.min())), float(rows.max())
    if high <= low:
        high = low + 1.0
    power = math.floor(math.log10((high - low) / 50))
    step, digits = 10.0**power, max(0, -power)
    ends = (
        round(math.floor(low / step) * step, digits),
        round(math.ceil(high / step) * step, digits),
    )
    return Scale(*ends, round(step, digits), digits)


def _explanation(studio: Studio, looked: Look, session: Session) -> Explanation:
    candidates = session.designs.among(studio.candidates)
    name = None if session.explained == BEST else session.explained
    if name is not None and name not in candidates.names:
        raise InputError(f"class {name!r} was renamed or removed; choose another one to explain")
    return explain(looked, candidates, studio.mixing, explained=name)
