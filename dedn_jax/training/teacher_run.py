"""Opens the finished run that `config.teacher.workdir` names."""

from __future__ import annotations

from ml_collections import ConfigDict

from dedn_jax.config import flat_fields
from dedn_jax.data.dataset import GZSLDataset
from dedn_jax.errors import InputError
from dedn_jax.training.checkpoint import load_params
from dedn_jax.training.run import TrainingRun
from dedn_jax.training.teacher import Teacher
from dedn_jax.training.workdir import Workdir

# What has to be the same for both to have set the same classes and images apart.
_SPLIT = ("seed", "selection.validation_classes", "selection.validation_images")
_FIELD = "config.teacher.workdir"


def load_teacher(config: ConfigDict, dataset: GZSLDataset) -> Teacher | None:
    """The teacher that a config names, if it names one.

    Raises:
      InputError: no finished run, or one of another data set, split, or without an expert of ours.
    """
    path = config.teacher.workdir
    if not path:
        return None
    workdir = Workdir(path)
    theirs = workdir.load_config()
    if not workdir.result_file.is_file():
        raise InputError(f"{_FIELD}={path}: the run is not finished; finish it first")
    phases = ["final"]
    if config.selection.protocol == "validation":
        phases.append("validation")
        there, here = flat_fields(theirs.to_dict()), flat_fields(config.to_dict())
        differing = [f for f in _SPLIT if there[f] != here[f]]
        if theirs.selection.protocol != "validation" or differing:
            what = ", ".join(f"{f}={there[f]!r} there, {here[f]!r} here" for f in differing)
            raise InputError(
                f"{_FIELD}={path}: it must have set the same validation classes and images apart, "
                f"but {what or 'its protocol is ' + theirs.selection.protocol}; train the teacher "
                "with the same seed and protocol validation"
            )
    if theirs.model.experts not in ("both", config.model.experts):
        raise InputError(
            f"{_FIELD}={path}: it has the {theirs.model.experts} expert alone, this run "
            f"config.model.experts={config.model.experts!r}; choose a teacher with both"
        )
    run = TrainingRun(workdir, theirs, dataset=dataset)
    network = run.network
    params = {p: load_params(workdir.phase(p) / "selected", network.params) for p in phases}
    return Teacher(network, run.groups, params)
