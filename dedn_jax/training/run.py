"""A run: its config, data set and model; once it is finished its result, parameters and scores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from dedn_jax.data.dataset import GZSLDataset, trainval_task
from dedn_jax.data.features.maps import FEATURE_SAMPLE
from dedn_jax.data.load import load_dataset
from dedn_jax.errors import InputError, check_count
from dedn_jax.model.groups import AttributeGroups, resolve_groups
from dedn_jax.parallel.mesh import Layout, local_layout
from dedn_jax.training.added_classes import first_classes, with_candidates
from dedn_jax.training.calibration import Calibration
from dedn_jax.training.checkpoint import load_params
from dedn_jax.training.compilation_cache import compilation_cache
from dedn_jax.training.evaluation import Evaluator, Metrics
from dedn_jax.training.network import BACKBONE_WEIGHTS, OTHER_RUNS, Network, make_network
from dedn_jax.training.prediction import Mixing
from dedn_jax.training.result_file import read_result
from dedn_jax.training.scores import Scores
from dedn_jax.training.workdir import Workdir


class TrainingRun:
    """A run in a work directory, as far as training needs it; `inference.run.Run` does more.

    What is not at hand is read when it is first asked for.

    Args:
      workdir: its work directory.
      config: its resolved config.
      dataset: its data set; None: the one that `config.data` names.

    Attributes:
      workdir: paths of everything the run wrote.
      config: the resolved config.
      added_classes: names of the classes that its data set has got since training, all unseen; they
        are known once the data set has been read.
    """

    added_classes: tuple[str, ...] = ()

    def __init__(
        self,
        workdir: Workdir,
        config: ConfigDict,
        *,
        dataset: GZSLDataset | None = None,
    ) -> None:
        self.workdir, self.config, self._dataset = workdir, config, dataset

    def __repr__(self) -> str:
        finished = "finished" if self.workdir.result_file.is_file() else "not finished"
        return f"<{type(self).__name__} {self.workdir.path}: {finished}>"

    @cached_property
    def dataset(self) -> GZSLDataset:
        """The data set.

        Raises:
          InputError: it cannot be loaded, or is not the one the run was trained on.
        """
        dataset = self._load() if self._dataset is None else self._dataset
        return self._checked(dataset, BACKBONE_WEIGHTS, *OTHER_RUNS)

    @cached_property
    def outline(self) -> GZSLDataset:
        """The data set without the feature maps of a published HDF5 file, which can take minutes.

        Raises:
          InputError: as for `dataset`.
        """
        if self._dataset is not None or "dataset" in self.__dict__:
            return self.dataset
        outline = self._load(sizes_only=True)
        # Feature maps may be unread; `dataset` compares their sample.
        return self._checked(outline, BACKBONE_WEIGHTS, *OTHER_RUNS, FEATURE_SAMPLE)

    def _load(self, *, sizes_only: bool = False) -> GZSLDataset:
        data = self.config.data
        if not data.path and data.format != "demo" and self.workdir.config_file.exists():
            raise InputError(
                f"{self.workdir.path}: trained on arrays, which no file holds; open it with "
                "dedn_jax.open_run(..., dataset=...), or set --config.data.path to a file of them"
            )
        return load_dataset(self.config, sizes_only=sizes_only)

    def _checked(self, dataset: GZSLDataset, *ignored: str) -> GZSLDataset:
        """The data set, classes that were added since training as unseen candidates.

        Raises:
          InputError: it is not the one that the run was trained on.
        """
        recorded = self.workdir.recorded_dataset()
        if recorded is None:
            return dataset
        trained_on = first_classes(dataset, recorded)
        self.workdir.check_fingerprint(trained_on.fingerprint(), *ignored)
        count = trained_on.num_classes
        self.added_classes = dataset.class_names[count:]
        return with_candidates(dataset, count) if self.added_classes else dataset

    @cached_property
    def groups(self) -> AttributeGroups:
        """The attribute groups of the model."""
        data = self.outline
        return resolve_groups(self.config.data.groups, data.word_vectors, data.groups)

    @cached_property
    def network(self) -> Network:
        """The model's definition, what is not trained, and the initial parameters.

        Raises:
          InputError: the data set or the backbone's weights are not those of the run.
        """
        network = make_network(self.config, self.outline, self.groups)
        if recorded := self.workdir.recorded_dataset():
            data = first_classes(self.outline, recorded)
            fingerprint = data.fingerprint() | network.fingerprint()
            self.workdir.check_fingerprint(fingerprint, *OTHER_RUNS, FEATURE_SAMPLE)
        return network

    @cached_property
    def params(self) -> nnx.State:
        """The selected parameters.

        Raises:
          InputError: the run is not finished.
        """
        self._check_finished()
        return load_params(self.workdir.phase("final") / "selected", self.network.params)

    @property
    def model(self) -> nnx.Module:
        """The model with the selected parameters.

        From features it is a `DualExpert`, called with `[batch, channels, regions]` feature maps,
        L2-normalised over channels; from pictures a `PictureModel`, called with `[batch, height,
        width, 3]` uint8 pictures. `dataset.inputs[indices]` gives either.
        """
        return nnx.merge(self.network.definition, self.params, self.network.frozen)

    @cached_property
    def result(self) -> dict:
        """The content of `result.json`: protocol, steps, and U, S, H, T1 in percent (`test`).

        Raises:
          InputError: the run is not finished, or the file is damaged.
        """
        self._check_finished()
        return read_result(self.workdir.result_file)

    def _check_finished(self) -> None:
        """Raises InputError unless the run is finished."""
        if not self.workdir.result_file.is_file():
            raise InputError(
                f"{self.workdir.result_file}: missing, the run is not finished; train again with "
                "the same config and directory to resume it"
            )

    @cached_property
    def calibration(self) -> Calibration | None:
        """Gamma and the mixes that were chosen on validation classes; None where none were.

        Raises:
          InputError: the run is not finished.
        """
        saved = self.result.get("calibration")
        return saved and Calibration.from_json(saved)

    def mixing(self) -> Mixing:
        """How predictions are made: the calibrated mixing of both experts, else the config's.

        Raises:
          InputError: the run is not finished.
        """
        calibration = self.calibration
        return calibration.mixing["fused"] if calibration else Mixing.from_config(self.config)

    def evaluate(
        self,
        params: nnx.State | None = None,
        *,
        calibrated: bool = False,
        batch_size: int | None = None,
    ) -> Metrics:
        """U, S, H and T1 in percent and AUSUC on the test sets, of `coarse`, `fine` and `fused`.

        Args:
          params: other parameters of this model; None: the selected ones.
          calibrated: with the gamma and mixes chosen on validation classes, not the config's.
          batch_size: images at a time, changes no number; None: `config.evaluate.batch_size`.

        Raises:
          InputError: the run is not finished, its data set has changed, it has no calibration, or
            the batch size is not a whole number of at least 1.
        """
        calibration = self.calibrated() if calibrated else None
        metrics, scores = self.evaluate_with_scores(params, batch_size=batch_size)
        return calibration.apply(scores) if calibration else metrics

    def calibrated(self) -> Calibration:
        """The calibration; raises InputError where there is none."""
        if self.calibration is None:
            raise InputError(
                f"{self.workdir.path}: the run was not calibrated; train with "
                "config.selection.protocol=validation and config.selection.calibrate=true"
            )
        return self.calibration

    def evaluate_with_scores(
        self,
        params: nnx.State | None = None,
        *,
        batch_size: int | None = None,
        layout: Layout | None = None,
    ) -> tuple[Metrics, Scores]:
        """The fixed metrics, and the scores of the test images, from one pass over them.

        Args:
          params, batch_size: as for `evaluate`.
          layout: of the devices that share the work, of several processes that all call this; None:
            those of this process.

        Raises:
          InputError: as there.
        """
        config = self.config
        if batch_size is not None:
            check_count("batch_size", batch_size)
            config = config.copy_and_resolve_references()
            # A batch is filled up to its size: no larger than all images.
            images = len(self.dataset.test_seen) + len(self.dataset.test_unseen)
            config.evaluate.batch_size = min(int(batch_size), images)
        params = self.params if params is None else params
        task, layout = trainval_task(self.dataset), layout or local_layout()
        with self.computing():
            evaluator = Evaluator(self.network, task, self.groups, config, layout)
            return evaluator.with_scores(layout.replicate(params))

    @cached_property
    def scores(self) -> Scores:
        """Class and attribute scores of all test images.

        Raises:
          InputError: as for `evaluate`.
        """
        return self.evaluate_with_scores()[1]

    def finish(self, params: nnx.State, result: dict) -> None:
        """Takes what a training ended with, so that nothing of it is read again.

        On several processes the parameters lie on devices of others, which no local program takes.
        """
        several = jax.process_count() > 1
        self.params = jax.tree.map(np.asarray, params) if several else params
        self.result = result

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Within the block JAX computes with the run's precision and compilation cache."""
        with (
            compilation_cache(self.config),
            jax.default_matmul_precision(self.config.model.precision),
        ):
            yield
