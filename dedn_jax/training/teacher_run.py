"""Opens the finished run that `config.teacher.workdir` names."""

from __future__ import annotations

from ml_collections import ConfigDict

from dedn_jax.data.dataset import GZSLDataset
from dedn_jax.errors import InputError
from dedn_jax.training.checkpoint import load_params
from dedn_jax.training.other_run import finished_run, phases_alike
from dedn_jax.training.run import TrainingRun
from dedn_jax.training.teacher import Teacher

_FIELD = "config.teacher.workdir"


def load_teacher(config: ConfigDict, dataset: GZSLDataset) -> Teacher | None:
    """The teacher that a config names, if it names one.

    Raises:
      InputError: no finished run, or one of another data set, split, or without an expert of ours.
    """
    path = config.teacher.workdir
    if not path:
        return None
    workdir, theirs = finished_run(_FIELD, path)
    phases = phases_alike(_FIELD, path, theirs, config)
    if theirs.model.experts not in ("both", config.model.experts):
        raise InputError(
            f"{_FIELD}={path}: it has the {theirs.model.experts} expert alone, this run "
            f"config.model.experts={config.model.experts!r}; choose a teacher with both"
        )
    run = TrainingRun(workdir, theirs, dataset=dataset)
    network = run.network
    params = {p: load_params(workdir.phase(p) / "selected", network.params) for p in phases}
    return Teacher(network, run.groups, params)
