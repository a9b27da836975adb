"""What a report says of a finished run, as numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from dedn_jax.data.dataset import GZSLDataset
from dedn_jax.inference.report.ranking import average_precision, roc_auc
from dedn_jax.model.dual_attention import BRANCHES
from dedn_jax.model.experts import EXPERTS
from dedn_jax.training.calibration import curve
from dedn_jax.training.prediction import Mixing
from dedn_jax.training.run import TrainingRun
from dedn_jax.training.scores import Scores
from dedn_jax.training.seen_unseen import SeenUnseenCurve

_CONFUSIONS = 12  # of each kind


@dataclasses.dataclass(frozen=True)
class ClassRow:
    """A class with test images.

    Attributes:
      name: of the class.
      seen: whether it was trained on.
      images: in the test sets.
      fixed: accuracy in percent with the config's mixes and bias.
      calibrated: with those chosen on validation classes; None without a calibration.
      coarse, fine: of each expert alone, with its own calibration where there is one; None for one
        that the model lacks.
      taken_for: the class it is most often taken for, and for how many images; None for never.
    """

    name: str
    seen: bool
    images: int
    fixed: float
    calibrated: float | None
    coarse: float | None
    fine: float | None
    taken_for: tuple[str, int] | None

    @property
    def reported(self) -> float:
        """Calibrated where it is."""
        return self.fixed if self.calibrated is None else self.calibrated


@dataclasses.dataclass(frozen=True)
class AttributeRow:
    """An attribute: how well its scores tell images of classes that have it from the others.

    Attributes:
      name, group: of the attribute.
      classes: of those with test images, how many have it: their value is above the mean.
      coarse, fine: average precision and area under the ROC curve, from 0 to 1, of the expert's own
        mix of branches; NaN where all classes or none have it, or the model lacks the expert.
    """

    name: str
    group: str
    classes: int
    coarse: tuple[float, float]
    fine: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Confusion:
    """How many images of a class are taken for another."""

    name: str
    taken_for: str
    seen: bool
    images: int
    share: float


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Images by which of the experts is right."""

    both: int
    coarse: int
    fine: int
    neither: int


@dataclasses.dataclass(frozen=True)
class Analysis:
    """A finished run.

    Attributes:
      result: the content of its `result.json`.
      chance: H in percent of a uniform choice among all classes.
      fixed, calibrated: mixings; None without a calibration.
      curves: seen-unseen curves of both; empty where no unseen class has an image.
      classes: the unseen classes last, the worst of each kind first.
      attributes: in group order.
      confusions: the most frequent of seen, then of unseen classes.
      agreement: of the experts on images of seen and of unseen classes, each with its own
        calibration where there is one; empty for one expert.
      experts: that the model has.
      mixes: of the mixes those that mix anything: `expert_mix`, `region_mix`.
      chosen: the class each test image is given by the reported mixing.
      scores: of all test images.
    """

    result: dict[str, Any]
    chance: float
    fixed: Mixing
    calibrated: Mixing | None
    curves: dict[str, SeenUnseenCurve]
    classes: list[ClassRow]
    attributes: list[AttributeRow]
    confusions: list[Confusion]
    agreement: dict[str, Agreement]
    experts: tuple[str, ...]
    mixes: tuple[str, ...]
    chosen: Int[np.ndarray, " images"]
    scores: Scores

    @property
    def reported(self) -> Mixing:
        """The calibrated mixing where there is one."""
        return self.calibrated or self.fixed


def analyse(run: TrainingRun) -> Analysis:
    """Scores the test sets of a finished run, and counts.

    Raises:
      InputError: the run is not finished, or its data set has changed.
    """
    result, data = run.result, run.dataset
    fixed = Mixing.from_config(run.config)
    calibrated = run.calibration.mixing["fused"] if run.calibration else None
    scores = run.scores
    names = [data.class_names[k] for k in scores.class_ids]
    mixings = _mixings(fixed) | (run.calibration.mixing if run.calibration else {})
    chosen = {name: _chosen(scores, m) for name, m in mixings.items()}
    curves = {}
    if scores.unseen.any() and not scores.unseen.all():
        curves = {"fixed": curve(scores, fixed)}
        if calibrated:
            curves["calibrated"] = curve(scores, calibrated)
    by_fixed = _chosen(scores, fixed)
    confusions = _confusions(scores, chosen["fused"], names)
    experts, branches = EXPERTS[run.config.model.experts], BRANCHES[run.config.model.branches]
    pairs = {"expert_mix": experts, "region_mix": branches}
    return Analysis(
        result=result,
        chance=chance(data),
        fixed=fixed,
        calibrated=calibrated,
        curves=curves,
        classes=_classes(
            scores, chosen, by_fixed, names, calibrated is not None, confusions, experts
        ),
        attributes=_attributes(run, mixings, experts),
        confusions=[c for kind in (True, False) for c in _first(confusions, kind)],
        agreement={
            kind: _agreement(scores, chosen, scores.unseen == (kind == "unseen"))
            for kind in ("seen", "unseen")
            if len(experts) > 1
        },
        experts=experts,
        mixes=tuple(mix for mix, mixed in pairs.items() if len(mixed) > 1),
        chosen=chosen["fused"],
        scores=scores,
    )


def chance(data: GZSLDataset) -> float:
    """H in percent of a uniform choice among seen and unseen classes: U = S = H = 100/classes."""
    return 100.0 / (len(data.seen_classes) + len(data.unseen_classes))


def _mixings(mixing: Mixing) -> dict[str, Mixing]:
    """The fused score's, and the same of each expert alone."""
    return {
        "fused": mixing,
        "coarse": dataclasses.replace(mixing, expert_mix=1.0),
        "fine": dataclasses.replace(mixing, expert_mix=0.0),
    }


def _chosen(scores: Scores, mixing: Mixing) -> Int[np.ndarray, " images"]:
    return scores.choices(mixing).among_all


def _classes(
    scores: Scores,
    chosen: dict[str, np.ndarray],
    by_fixed: np.ndarray,
    names: list[str],
    calibrated: bool,
    confusions: list[Confusion],
    experts: tuple[str, ...],
) -> list[ClassRow]:
    most: dict[str, tuple[str, int]] = {}
    for c in confusions:  # the most frequent first
        most.setdefault(c.name, (c.taken_for, c.images))
    rows = []
    for k in np.unique(scores.labels):
        own = scores.labels == k
        fused, coarse, fine, fixed = (
            100.0 * float(np.mean(x[own] == k))
            for x in (chosen["fused"], chosen["coarse"], chosen["fine"], by_fixed)
        )
        rows.append(
            ClassRow(
                name=names[k],
                seen=bool(scores.seen[k]),
                images=int(own.sum()),
                fixed=fixed,
                calibrated=fused if calibrated else None,
                coarse=coarse if "coarse" in experts else None,
                fine=fine if "fine" in experts else None,
                taken_for=most.get(names[k]),
            )
        )
    return sorted(rows, key=lambda row: (not row.seen, row.reported, row.name))


def _confusions(scores: Scores, chosen: np.ndarray, names: list[str]) -> list[Confusion]:
    """The most frequent first, by their share of the class's images."""
    wrong = chosen != scores.labels
    pairs, counts = np.unique(
        np.stack([scores.labels[wrong], chosen[wrong]], 1), axis=0, return_counts=True
    )
    images = np.bincount(scores.labels, minlength=len(names))
    found = [
        Confusion(names[k], names[other], bool(scores.seen[k]), int(n), float(n / images[k]))
        for (k, other), n in zip(pairs, counts, strict=True)
    ]
    return sorted(found, key=lambda c: (-c.share, -c.images, c.name, c.taken_for))


def _first(confusions: list[Confusion], seen: bool) -> list[Confusion]:
    return [c for c in confusions if c.seen == seen][:_CONFUSIONS]


def _agreement(
    scores: Scores, chosen: dict[str, np.ndarray], images: Bool[np.ndarray, " images"]
) -> Agreement:
    coarse, fine = (chosen[e][images] == scores.labels[images] for e in ("coarse", "fine"))
    return Agreement(
        both=int(np.sum(coarse & fine)),
        coarse=int(np.sum(coarse & ~fine)),
        fine=int(np.sum(fine & ~coarse)),
        neither=int(np.sum(~coarse & ~fine)),
    )


def _attributes(
    run: TrainingRun, mixings: Mapping[str, Mixing], experts: tuple[str, ...]
) -> list[AttributeRow]:
    data, scores = run.dataset, run.scores
    embeddings = data.class_embeddings[scores.class_ids]
    has = embeddings > embeddings.mean(0)
    tested = np.unique(scores.labels)
    positive = has[scores.labels]
    of_experts = {}
    for name in experts:
        attributes = scores.attribute_scores(mixings[name].region_mix)
        of_experts[name] = _ranked(getattr(attributes, name), positive)
    rows = []
    for group, members in zip(run.groups.names, run.groups.members, strict=True):
        for a in members:
            ranks = {e: (float(ap[a]), float(auc[a])) for e, (ap, auc) in of_experts.items()}
            coarse, fine = (ranks.get(e, (math.nan, math.nan)) for e in ("coarse", "fine"))
            name = data.attribute_names[a]
            rows.append(AttributeRow(name, group, int(has[tested, a].sum()), coarse, fine))
    return rows


def _ranked(
    scores: Float[np.ndarray, "images attributes"], positive: Bool[np.ndarray, "images attributes"]
) -> tuple[np.ndarray, np.ndarray]:
    return average_precision(scores, positive), roc_auc(scores, positive)
