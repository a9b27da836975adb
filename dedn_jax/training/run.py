"""A run: its config, data set and model, and once it is finished its result and parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from dedn_jax.config import Overrides
from dedn_jax.data.dataset import GZSLDataset, trainval_task
from dedn_jax.data.load import load_dataset
from dedn_jax.errors import InputError
from dedn_jax.files import read_json
from dedn_jax.model.groups import AttributeGroups, resolve_groups
from dedn_jax.parallel.mesh import local_layout
from dedn_jax.training.checkpoint import load_params
from dedn_jax.training.compilation_cache import compilation_cache
from dedn_jax.training.evaluation import Evaluator, Metrics
from dedn_jax.training.network import Network, make_network
from dedn_jax.training.workdir import Workdir


class Run:
    """A run in a work directory; `dedn_jax.train` and `dedn_jax.open_run` make it.

    What is not at hand is read when it is first asked for.

    Example:
      >>> import dedn_jax
      >>> run = dedn_jax.open_run("runs/mine", dataset=dataset)
      >>> run.config.train.epochs, run.result["protocol"]
      (3, 'last')
      >>> run.model(dataset.inputs[dataset.test_unseen[:2]]).coarse.region.shape
      (2, 6)

    Args:
      workdir: its work directory.
      config: its resolved config.
      dataset: its data set; None: the one that `config.data` names.

    Attributes:
      workdir: paths of everything the run wrote.
      config: the resolved config.
    """

    def __init__(
        self,
        workdir: Workdir,
        config: ConfigDict,
        *,
        dataset: GZSLDataset | None = None,
    ) -> None:
        self.workdir, self.config, self._dataset = workdir, config, dataset

    @cached_property
    def dataset(self) -> GZSLDataset:
        """The data set; that it is the one the run was trained on is checked with the network.

        Raises:
          InputError: it cannot be loaded.
        """
        return load_dataset(self.config) if self._dataset is None else self._dataset

    @cached_property
    def groups(self) -> AttributeGroups:
        """The attribute groups of the model."""
        return resolve_groups(
            self.config.data.groups, self.dataset.word_vectors, self.dataset.groups
        )

    @cached_property
    def network(self) -> Network:
        """The model's definition, what is not trained, and the initial parameters.

        Raises:
          InputError: the data set or the backbone's weights are not those of the run.
        """
        network = make_network(self.config, self.dataset, self.groups)
        if self.workdir.dataset_file.exists():  # not yet while a new run is being set up
            self.workdir.check_fingerprint(self.dataset.fingerprint() | network.fingerprint())
        return network

    @cached_property
    def params(self) -> nnx.State:
        """The selected parameters.

        Raises:
          InputError: the run is not finished.
        """
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
          InputError: the run is not finished.
        """
        if not self.workdir.result_file.is_file():
            raise InputError(
                f"{self.workdir.result_file}: missing, the run is not finished; train again with "
                "the same config and directory to resume it"
            )
        return read_json(self.workdir.result_file)

    def evaluate(
        self, params: nnx.State | None = None, *, batch_size: int | None = None
    ) -> Metrics:
        """U, S, H and T1 on the test sets, in percent, of `coarse`, `fine` and `fused`.

        Args:
          params: other parameters of this model; None: the selected ones.
          batch_size: images at a time, changes no number; None: `config.evaluate.batch_size`.

        Raises:
          InputError: the run is not finished, or its data set has changed.
        """
        params = self.params if params is None else params
        with self.computing():
            return self.evaluator(batch_size)(local_layout().replicate(params))

    def evaluator(self, batch_size: int | None = None) -> Evaluator:
        """Of the test sets, on this process's devices; call it within `computing()`.

        Args:
          batch_size: as for `evaluate`.
        """
        config = self.config
        if batch_size:
            config = config.copy_and_resolve_references()
            config.evaluate.batch_size = batch_size
        task = trainval_task(self.dataset)
        return Evaluator(self.network, task, self.groups, config, local_layout())

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
            compilation_cache(self.workdir.path, self.config),
            jax.default_matmul_precision(self.config.model.precision),
        ):
            yield


def open_run(
    path: str | Path, overrides: Overrides = (), *, dataset: GZSLDataset | None = None
) -> Run:
    """The run in a work directory.

    Example:
      >>> run = open_run("runs/mine", dataset=dataset)
      >>> run.evaluate() == run.result["test"]
      True

    Args:
      path: the work directory.
      overrides: of fields that change no number, such as `data.path`; see `load_config`.
      dataset: the data set it was trained on, where it came from arrays; None: the one that its
        config names.

    Raises:
      InputError: no run there, or an override that would make it another run.
    """
    workdir = Workdir(path)
    return Run(workdir, workdir.load_config(overrides), dataset=dataset)
