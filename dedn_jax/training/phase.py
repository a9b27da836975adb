"""A phase of a training, and how it ended."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from flax import nnx

from dedn_jax.data.dataset import Task

# Streams of the sampler's random numbers, so that two phases of a run do not share batches.
STREAMS = {"validation": 0, "final": 1}


@dataclasses.dataclass(frozen=True)
class Phase:
    """What a phase trains on and for how long.

    Attributes:
      name: `validation` or `final`; the phase's folder.
      task: images and classes.
      num_steps: steps to take; `[models]` in a sweep.
      label: names the images evaluated on wherever their numbers appear; None: the last step's
        parameters are taken without any evaluation.
      epochs_before: epochs of the schedules that are over; `[models]` in a sweep.
    """

    name: str
    task: Task
    num_steps: int | np.ndarray
    label: str | None
    epochs_before: float | np.ndarray = 0.0


@dataclasses.dataclass(frozen=True)
class PhaseResult:
    """How a phase ended; in a sweep lists over the models.

    Attributes:
      steps: steps taken.
      selected_step: the step whose parameters were selected; the last one without a rule.
      selected_metrics: their evaluation, None where nothing was evaluated.
      best_t1: T1 at its own best step and that step, None where nothing was evaluated.
      params: the selected parameters.
    """

    steps: Any
    selected_step: Any
    selected_metrics: Any
    best_t1: Any
    params: nnx.State
