"""Test sets with more classes to choose among: new ones, described by their attributes alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from dedn_jax.inference.candidates import Candidates
from dedn_jax.training.calibration import mixed_metrics
from dedn_jax.training.evaluation import Metrics
from dedn_jax.training.prediction import Mixing
from dedn_jax.training.scores import Scores

# The coarse expert's share of a class score, for each expert alone.
_ALONE = {"coarse": 1.0, "fine": 0.0}


def scores_among(scores: Scores, candidates: Candidates, first_id: int) -> Scores:
    """Scores of the same images for more classes.

    Args:
      scores: of a run's test images.
      candidates: the run's classes, and new ones after them.
      first_id: of the new classes.
    """
    found = candidates.scores(scores.attributes)
    new = len(found.seen) - len(scores.class_ids)
    return dataclasses.replace(
        scores,
        seen=found.seen,
        classes=found.classes,
        class_ids=np.append(scores.class_ids, np.arange(first_id, first_id + new)),
    )


def fixed_metrics(scores: Scores, fixed: Mixing, experts: Iterable[str]) -> Metrics:
    """U, S, H and T1 in percent and AUSUC of some experts, with the bias and mixes of a config."""
    return {
        name: mixed_metrics(
            scores, dataclasses.replace(fixed, expert_mix=_ALONE.get(name, fixed.expert_mix))
        )
        for name in experts
    }
