"""Calibration: the bias of unseen classes and the mixes, chosen by H on validation classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from dedn_jax.training.evaluation import EXPERTS, Metrics, curve_of, gzsl_metrics
from dedn_jax.training.prediction import Mixing
from dedn_jax.training.scores import Scores
from dedn_jax.training.seen_unseen import SeenUnseenCurve


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A mixing for the predictions of each expert and of both, frozen before any test image.

    Attributes:
      mixing: by `coarse`, `fine` and `fused`.
      metrics: on the images it was chosen on, by the same names.
    """

    mixing: dict[str, Mixing]
    metrics: Metrics

    def apply(self, scores: Scores) -> Metrics:
        """U, S, H and T1 in percent and AUSUC of these mixings on other images."""
        return {name: mixed_metrics(scores, mixing) for name, mixing in self.mixing.items()}

    def to_json(self) -> dict[str, Any]:
        """For `result.json`."""
        return {
            name: m.to_json() | {"validation": self.metrics[name]}
            for name, m in self.mixing.items()
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Calibration:
        """From what `to_json` gave, checked by `saved_kinds.CALIBRATION`."""
        mixing = {
            name: Mixing(
                float(saved[name]["region_mix"]),
                float(saved[name]["expert_mix"]),
                float(saved[name]["gamma"]) / 2,
            )
            for name in EXPERTS
            if name in saved
        }
        return cls(mixing, {name: saved[name]["validation"] for name in mixing})


def calibrate(
    scores: Scores, fixed: Mixing, step: float, names: Collection[str] = EXPERTS
) -> Calibration:
    """Chooses gamma, `expert_mix` and `region_mix` by H.

    Gamma is exact (see `SeenUnseenCurve.best`), the mixes are multiples of `step`. Of several with
    the same H the mixes nearest to the fixed ones are taken. Of a single expert, `expert_mix` is 1
    or 0.

    Args:
      scores: of images whose classes take no part in training, beside images of seen classes.
      fixed: the mixing to stay near to.
      step: between two mixes.
      names: of what is calibrated; an expert that the model lacks is not.
    """
    mixes = [*np.round(np.arange(0, 1, step), 9).tolist(), 1.0]
    whole = len(names) == len(EXPERTS)
    expert_mixes = {
        "coarse": [1.0],
        "fine": [0.0],
        "fused": mixes if whole else [fixed.expert_mix],
    }
    chosen = {name: _best(scores, fixed, mixes, expert_mixes[name]) for name in names}
    return Calibration(chosen, {name: mixed_metrics(scores, m) for name, m in chosen.items()})


def curve(scores: Scores, mixing: Mixing) -> SeenUnseenCurve:
    """The seen-unseen curve of a mixing; its gamma plays no part."""
    return curve_of(scores.choices(mixing), scores.labels, scores.unseen)


def mixed_metrics(scores: Scores, mixing: Mixing) -> dict[str, float]:
    """U, S, H and T1 in percent and AUSUC of a mixing, as `gzsl_metrics`."""
    return gzsl_metrics(scores.choices(mixing), scores.labels, scores.unseen)


def _best(
    scores: Scores, fixed: Mixing, region_mixes: Iterable[float], expert_mixes: list[float]
) -> Mixing:
    best, best_h, best_distance = fixed, -1.0, np.inf
    for region_mix in region_mixes:
        experts = scores.by_expert(region_mix)
        for expert_mix in expert_mixes:
            mixing = Mixing(region_mix, expert_mix, 0.0)
            chosen = scores.choices(mixing, experts)
            gamma, h = curve_of(chosen, scores.labels, scores.unseen).best(near=fixed.gamma)
            h = round(h, 9)  # sums of the same weights in another order are the same H
            distance = abs(region_mix - fixed.region_mix) + abs(expert_mix - fixed.expert_mix)
            if (h, -distance) > (best_h, -best_distance):
                best = dataclasses.replace(mixing, bias=gamma / 2)
                best_h, best_distance = h, distance
    return best
