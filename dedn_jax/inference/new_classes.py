"""Test sets with more classes to choose among: new ones, described by their attributes alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from dedn_jax.errors import InputError
from dedn_jax.inference.candidates import Candidates
from dedn_jax.training.calibration import mixed_metrics
from dedn_jax.training.evaluation import Metrics
from dedn_jax.training.prediction import Mixing
from dedn_jax.training.run import TrainingRun
from dedn_jax.training.scores import Scores

# The coarse expert's share of a class score, for each expert alone.
_ALONE = {"coarse": 1.0, "fine": 0.0}


def metrics_among(
    run: TrainingRun, candidates: Candidates, scores: Scores, experts: Iterable[str]
) -> tuple[Metrics, Scores]:
    """U, S, H and T1 in percent and AUSUC of some experts among more classes, with the bias and
    mixes of the run's config; and the scores.

    Args:
      run: which was evaluated.
      candidates: its classes, and new ones after them.
      scores: of its test images.
      experts: by their names in the metrics.

    Raises:
      InputError: the run's classes are not the first of the candidates.
    """
    own = Candidates.of_run(run).names
    if candidates.names[: len(own)] != own:
        raise InputError(
            "the run's own classes are not the first to choose among, and the test images are of "
            "them; add classes by run.candidates.with_new(...)"
        )
    scores = _scores_among(scores, candidates, run.dataset.num_classes)
    fixed = Mixing.from_config(run.config)
    return {name: mixed_metrics(scores, _alone(fixed, name)) for name in experts}, scores


def _alone(fixed: Mixing, expert: str) -> Mixing:
    """The mixing of one expert alone; of the fused score as it is."""
    return dataclasses.replace(fixed, expert_mix=_ALONE.get(expert, fixed.expert_mix))


def _scores_among(scores: Scores, candidates: Candidates, first_id: int) -> Scores:
    """Scores of the same images for more classes, whose new ones have ids from `first_id`."""
    found = candidates.scores(scores.attributes)
    new = len(found.seen) - len(scores.class_ids)
    return dataclasses.replace(
        scores,
        seen=found.seen,
        classes=found.classes,
        class_ids=np.append(scores.class_ids, np.arange(first_id, first_id + new)),
    )
