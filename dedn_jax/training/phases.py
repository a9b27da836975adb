"""Which phases a protocol has; the same for one model and for those of a sweep."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from dedn_jax.data.dataset import GZSLDataset, pruned, trainval_task, validation_task
from dedn_jax.errors import InputError
from dedn_jax.model.kernels import AUTO_NOTE
from dedn_jax.model.picture_model import PictureModel
from dedn_jax.parallel.processes import is_main
from dedn_jax.training.calibration import Calibration
from dedn_jax.training.interrupt import ending_the_run
from dedn_jax.training.phase import Phase, PhaseResult
from dedn_jax.training.trainer import Trainer

VALIDATION_LABEL = "validation classes"
TEST_BEST_LABEL = "test sets (test-best: selected by test)"
SELECTED_BY = {
    "validation": VALIDATION_LABEL,
    "last": "the last step",
    "test-best": TEST_BEST_LABEL,
}

_ANY_BATCH = 1024  # images, which are drawn more than once from a smaller set


class Phases(NamedTuple):
    """How the phases of a protocol ended.

    Attributes:
      validation: of the protocol `validation`, else None.
      validation_classes: its class ids, else None.
      calibrations: of every model on these classes; None where none was asked for.
      final: the phase whose parameters are the run's.
    """

    validation: PhaseResult | None
    validation_classes: np.ndarray | None
    calibrations: list[Calibration | None] | None
    final: PhaseResult


def run_phases(trainer: Trainer, dataset: GZSLDataset, initial: Mapping[str, nnx.State]) -> Phases:
    """Trains the phases of `config.selection.protocol`, from the `initial` parameters of each.

    Raises:
      InputError: too few classes or images to set some apart for validation.
      Interrupted, FloatingPointError: as `Trainer.train`.
    """
    config = trainer.config
    note_kernel(trainer)
    protocol = config.selection.protocol
    epochs, epochs_before, params = config.train.epochs, 0.0, initial["final"]
    validation: PhaseResult | None = None
    validation_classes: np.ndarray | None = None
    calibrations: list[Calibration | None] | None = None
    if protocol == "validation":
        candidate = validation_task(
            dataset,
            config.selection.validation_classes,
            config.selection.validation_images,
            config.seed,
        )
        candidate = pruned(candidate, config.train.images, config.seed)
        validation_classes = candidate.class_ids[~candidate.seen]
        steps = trainer.num_steps(candidate, epochs)
        phase = Phase("validation", candidate, steps, VALIDATION_LABEL)
        validation = trainer.train(phase, initial["validation"])
        if config.selection.calibrate:
            with ending_the_run("in the calibration on validation classes"):
                calibrations = trainer.calibrate(phase, validation.params)
        selected = np.asarray(validation.selected_step)
        epochs = selected * config.train.batch_size / len(candidate.train)
        if config.selection.refit == "continue":
            params, epochs_before = validation.params, epochs
            epochs = epochs * config.selection.continue_epochs
    task = pruned(trainval_task(dataset), config.train.images, config.seed)
    label = TEST_BEST_LABEL if protocol == "test-best" else None
    steps = trainer.num_steps(task, epochs)
    final = trainer.train(Phase("final", task, steps, label, epochs_before), params)
    return Phases(validation, validation_classes, calibrations, final)


def note_kernel(trainer: Trainer) -> None:
    """Says that kernels which nobody has measured are used, unless they were asked for."""
    network = trainer.network
    model = nnx.merge(network.definition, network.params, network.frozen)
    experts = model.experts if isinstance(model, PictureModel) else model
    if trainer.config.model.kernel == "auto" and experts.kernel == "pallas" and is_main():
        print(AUTO_NOTE, file=sys.stderr)


def check_protocol(config: ConfigDict, dataset: GZSLDataset) -> None:
    """Raises InputError where the config needs pictures that the data set does not have."""
    most = max(len(dataset.trainval), _ANY_BATCH)
    if config.train.batch_size > most:
        raise InputError(
            f"config.train.batch_size={config.train.batch_size}, expected at most {most}: "
            f"{dataset.source} has {len(dataset.trainval)} training images"
        )
    if config.selection.protocol != "test-best":
        return
    if not len(dataset.test_unseen):
        raise InputError(
            "config.selection.protocol=test-best selects on images of unseen classes, and "
            f"{dataset.source} has none; use validation or last"
        )
    if not len(dataset.test_seen) and config.selection.metric != "t1":
        raise InputError(
            f"config.selection.metric={config.selection.metric} with protocol=test-best needs test "
            f"images of seen classes, and {dataset.source} has none; set the metric to t1, or use "
            "the protocol validation or last"
        )
